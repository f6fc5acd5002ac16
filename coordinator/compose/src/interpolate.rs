//! Compose's variable substitution: `$VAR ${VAR} ${VAR:-d} ${VAR-d} ${VAR:?e} ${VAR?e} ${VAR:+r}
//! ${VAR+r} $$`, where defaults may hold further substitutions.

/// Nested defaults beyond this are a mistake; the bound keeps recursion harmless.
const MAX_DEPTH: usize = 32;

/// Text with its variables filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) text: String,
    /// Variables that had no value and no default, and so became empty.
    pub(crate) unset: Vec<String>,
}

/// Why a text cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTemplate {
    #[error("\"{near}\" is not a variable reference; write $$ for a literal dollar sign")]
    NotAVariable { near: String },
    #[error("\"{near}\" has no closing brace; write ${{NAME}}, or $$ for a literal dollar sign")]
    Unclosed { near: String },
    #[error("required variable {name} is {}{}", if *.empty { "empty" } else { "not set" },
        if message.is_empty() { String::new() } else { format!(": {message}") })]
    Required { name: String, message: String, empty: bool },
    #[error("variable defaults are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Fills in `text`. `lookup` answers with a variable's value.
pub(crate) fn interpolate(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Filled, BadTemplate> {
    let mut template = Template { rest: text, lookup };
    template.fill(false, 0)
}

struct Template<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Template<'_> {
    /// Fills until the end, or until the brace that closes the surrounding reference.
    fn fill(&mut self, braced: bool, depth: usize) -> Result<Filled, BadTemplate> {
        if depth > MAX_DEPTH {
            return Err(BadTemplate::TooDeep);
        }
        let mut filled = Filled::default();
        loop {
            let stop = self.rest.find(|c| c == '$' || (braced && c == '}')).unwrap_or(self.rest.len());
            filled.text += &self.rest[..stop];
            self.rest = &self.rest[stop..];
            if !self.rest.starts_with('$') {
                return Ok(filled);
            }
            self.reference(&mut filled, depth)?;
        }
    }

    /// One reference, at its dollar sign.
    fn reference(&mut self, filled: &mut Filled, depth: usize) -> Result<(), BadTemplate> {
        let start = self.rest;
        let near = || start.chars().take(20).collect::<String>();
        self.rest = &self.rest[1..];
        if self.eat("$") {
            filled.text.push('$');
            return Ok(());
        }
        let braced = self.eat("{");
        let name = self.name().ok_or_else(|| BadTemplate::NotAVariable { near: near() })?;
        let value = (self.lookup)(&name);
        if !braced {
            filled.put(name, value);
            return Ok(());
        }
        let operator = [":-", ":?", ":+", "-", "?", "+"].into_iter().find(|op| self.eat(op));
        let Some(operator) = operator else {
            if self.eat("}") {
                filled.put(name, value);
                return Ok(());
            }
            return Err(if self.rest.is_empty() {
                BadTemplate::Unclosed { near: near() }
            } else {
                BadTemplate::NotAVariable { near: near() }
            });
        };
        let word = self.fill(true, depth + 1)?;
        if !self.eat("}") {
            return Err(BadTemplate::Unclosed { near: near() });
        }
        filled.apply(operator, name, value, word)
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn name(&mut self) -> Option<String> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.rest = &self.rest[end..];
        Some(name.to_owned())
    }
}

impl Filled {
    fn put(&mut self, name: String, value: Option<String>) {
        match value {
            Some(value) => self.text += &value,
            None => self.unset.push(name),
        }
    }

    fn take(&mut self, word: Filled) {
        self.text += &word.text;
        self.unset.extend(word.unset);
    }

    fn apply(
        &mut self,
        operator: &str,
        name: String,
        value: Option<String>,
        word: Filled,
    ) -> Result<(), BadTemplate> {
        let empty = value.as_ref().is_some_and(String::is_empty);
        // With a colon an empty value counts as none.
        let present = value.filter(|v| !operator.starts_with(':') || !v.is_empty());
        match (operator.trim_start_matches(':'), present) {
            ("+", Some(_)) | ("-", None) => self.take(word),
            ("+", None) => {}
            (_, Some(value)) => self.text += &value,
            (_, None) => return Err(BadTemplate::Required { name, message: word.text, empty }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(text: &str) -> Result<Filled, BadTemplate> {
        interpolate(text, &|name| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn every_form_of_compose_is_understood() {
        for (text, expected) in [
            ("$A-${A}x", "1-1x"),
            ("${B:-d}${B-d}${EMPTY:-d}|${EMPTY-d}", "ddd|"),
            ("${A:+r}${A+r}${EMPTY:+r}|${EMPTY+r}|${B+r}", "rr|r|"),
            ("${A:?no}${EMPTY?no}", "1"),
            ("${B:-${C:-${A}}}", "1"),
            ("$$A $${A}", "$A ${A}"),
            ("${B-a b:c}", "a b:c"),
        ] {
            assert_eq!(fill(text).unwrap().text, expected, "{text}");
        }
    }

    #[test]
    fn an_unset_variable_is_empty_and_named_unless_its_branch_is_not_taken() {
        let filled = fill("a${B}c${A:-$C}").unwrap();
        assert_eq!((filled.text.as_str(), filled.unset), ("ac1", vec!["B".to_owned()]));
    }

    #[test]
    fn a_required_variable_says_its_own_message() {
        let error = fill("${B:?set B to the data directory}").unwrap_err();
        assert_eq!(error.to_string(), "required variable B is not set: set B to the data directory");
        assert_eq!(fill("${EMPTY:?}").unwrap_err().to_string(), "required variable EMPTY is empty");
    }

    #[test]
    fn what_is_no_variable_is_refused_with_the_fix() {
        for text in ["$(date)", "${", "${A", "${A:-b", "${1}", "$", "${A!}", "${A:=x}"] {
            assert!(fill(text).unwrap_err().to_string().contains("$$"), "{text}");
        }
        let deep = "${B:-".repeat(100_000);
        assert_eq!(fill(&deep), Err(BadTemplate::TooDeep));
    }

    proptest! {
        #[test]
        fn any_text_is_filled_or_refused(text in "\\PC*") {
            let _ = fill(&text);
        }

        #[test]
        fn any_soup_of_template_marks_is_filled_or_refused(text in "[${}:?+\\-AB]{0,60}") {
            let _ = fill(&text);
        }

        #[test]
        fn doubled_dollars_give_the_text_back(text in "\\PC*") {
            prop_assert_eq!(fill(&text.replace('$', "$$")).unwrap().text, text);
        }
    }
}
