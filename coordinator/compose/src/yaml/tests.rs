use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Node, Vec<Problem>> {
    parse(&Arc::from("f.yaml"), text.as_bytes())
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_value_keeps_its_line_and_column() {
    let root = read("a: 1\nb:\n  - x\n  - {c: y}\n").unwrap();
    let Value::List(items) = &root.get("b").unwrap().value else { panic!("not a list") };
    assert_eq!((items[0].place.line, items[0].place.column), (3, 5));
    assert_eq!(items[1].get("c").unwrap().place.line, 4);
}

#[test]
fn a_merge_key_fills_in_what_is_not_given_and_the_first_of_a_list_wins() {
    let root = read("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: own\n").unwrap();
    let z = root.get("z").unwrap();
    let value = |k| z.get(k).unwrap().as_str().unwrap().to_owned();
    assert_eq!((value("a"), value("b"), value("c")), ("own".into(), "1".into(), "2".into()));
}

#[test]
fn a_quoted_null_is_text_and_a_plain_one_is_nothing() {
    let root = read("a: null\nb: \"null\"\nc: ~\nd:\ne: !!str null\n").unwrap();
    assert_eq!(root.get("a").unwrap().value, Value::Null);
    assert_eq!(root.get("b").unwrap().as_str(), Some("null"));
    assert_eq!(root.get("c").unwrap().value, Value::Null);
    assert_eq!(root.get("d").unwrap().value, Value::Null);
    assert_eq!(root.get("e").unwrap().as_str(), Some("null"));
}

#[test]
fn a_duplicate_key_is_refused_with_both_lines() {
    let message = refusal("a: 1\nb: 2\na: 3\n");
    assert_eq!(message, "f.yaml:3: key \"a\" is given twice, first on line 1");
}

#[test]
fn a_tab_in_the_indentation_is_explained() {
    let message = refusal("a:\n\tb: 1\n");
    assert!(message.starts_with("f.yaml:2: ") && message.contains("never with tabs"), "{message}");
}

#[test]
fn a_billion_laughs_is_refused_before_it_is_expanded() {
    let mut text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        text += &format!("a{i}: &a{i} [{refs}]\n");
    }
    assert!(refusal(&text).contains("aliases expand to more than"));
}

#[test]
fn nesting_without_end_is_refused() {
    assert!(refusal(&"[".repeat(10_000)).contains("f.yaml:1: "));
    let block: String = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(refusal(&block).contains("nested deeper than"));
}

#[test]
fn an_alias_within_its_own_anchor_is_refused() {
    assert!(refusal("a: &a [*a]\n").contains("inside the value"));
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_line() {
    let problems = parse(&Arc::from("f.yaml"), b"a: 1\nb: \xff\n").unwrap_err();
    assert!(problems[0].to_string().starts_with("f.yaml:2: not UTF-8"), "{problems:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&Arc::from("f.yaml"), &bytes);
    }

    #[test]
    fn any_soup_of_yaml_marks_is_read_or_refused(text in "[-a:\\[\\]{},&*!|>'\"#?%@` \t\n<0]{0,120}") {
        let _ = parse(&Arc::from("f.yaml"), text.as_bytes());
    }
}
