//! Broken job files: each file of `broken/` names, in `# expect:` comments at its end, what must be
//! said about it; every problem must be expected, and every expectation met.

#![allow(clippy::unwrap_used, reason = "a corpus that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convoke_compose::{LoadOptions, Project};

fn directive<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter_map(|l| l.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": ")).collect()
}

/// What is wrong with how one file is refused; nothing when all is well.
fn complaint(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let expected = directive(&text, "expect");
    assert!(!expected.is_empty(), "{} expects nothing", path.display());
    let options = LoadOptions {
        working_dir: path.parent().unwrap().to_owned(),
        files: vec![path.to_owned()],
        env: BTreeMap::from([("HOME".to_owned(), "/home/u".to_owned())]),
        nodes: directive(&text, "nodes").first().map(|n| n.parse().unwrap()),
        ..LoadOptions::default()
    };
    let errors = match Project::load(&options) {
        Ok(_) => return Some("was accepted".to_owned()),
        Err(errors) => errors,
    };
    let unmet: Vec<_> =
        expected.iter().filter(|e| !errors.0.iter().any(|p| p.to_string().contains(**e))).collect();
    if unmet.is_empty() && errors.0.len() == expected.len() {
        return None;
    }
    Some(format!("said:\n{errors}\nnot said: {unmet:#?}"))
}

#[test]
fn every_broken_job_file_is_refused_with_its_line_and_its_cause() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 30, "the corpus is gone: {} files", files.len());
    let complaints: Vec<_> = files
        .iter()
        .filter_map(|p| complaint(p).map(|c| format!("{}: {c}", p.file_name().unwrap().display())))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}
