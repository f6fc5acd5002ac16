//! Fills a rule's sentences: `{name}` by value, `[…]` only where every name in it has one.

/// Fills `template`. A name without a value outside of brackets becomes `?`; a test of the rules
/// sees to it that there is none.
pub(crate) fn fill(template: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('[') {
        filled.push_str(&names(before, value).unwrap_or_else(|known| known));
        let (optional, after) = after.split_once(']').unwrap_or((after, ""));
        filled.push_str(&names(optional, value).unwrap_or_default());
        rest = after;
    }
    filled.push_str(&names(rest, value).unwrap_or_else(|known| known));
    filled
}

/// Fills names only. The error is the text with `?` for those that have no value.
fn names(template: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len());
    let mut unknown = false;
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        let value = value(name);
        unknown |= value.is_none();
        filled.push_str(before);
        filled.push_str(value.as_deref().unwrap_or("?"));
        rest = after;
    }
    filled.push_str(rest);
    if unknown { Err(filled) } else { Ok(filled) }
}

/// The names in `template` that stand outside of brackets.
#[cfg(test)]
pub(crate) fn required(template: &str) -> Vec<String> {
    let asked = std::cell::RefCell::new(Vec::new());
    let outside: String =
        template.split('[').map(|p| p.split_once(']').map_or(p, |(_, after)| after)).collect();
    fill(&outside, &|name| {
        asked.borrow_mut().push(name.to_owned());
        None
    });
    asked.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_is_left_out_with_its_unknown_names() {
        let value = |name: &str| (name == "limit").then(|| "8 GiB".to_owned());
        let filled = fill("out of memory[: limit {limit}][, peak {peak}], see {log}", &value);
        assert_eq!(filled, "out of memory: limit 8 GiB, see ?");
        assert_eq!(fill("a [b {c", &value), "a ");
        assert_eq!(required("x {a}[ {b}] {c}"), ["a", "c"]);
    }
}
