//! Realistic job files: beside each file of `good/` stands what is understood of it, a Compose file
//! with every default spelled out, followed by the notes.

#![allow(clippy::unwrap_used, reason = "a corpus that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convoke_compose::{LoadOptions, Project};

fn load(dir: &Path, file: PathBuf) -> Project {
    let options = LoadOptions {
        working_dir: dir.to_owned(),
        files: vec![file],
        project_dir: Some(dir.to_owned()),
        env: BTreeMap::from([("HOME".to_owned(), "/home/u".to_owned())]),
        ..LoadOptions::default()
    };
    Project::load(&options).unwrap_or_else(|e| panic!("{e}"))
}

fn corpus() -> (PathBuf, Vec<PathBuf>) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/good");
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "the corpus is gone: {} files", files.len());
    (dir, files)
}

#[test]
fn every_good_job_file_is_understood_as_written_beside_it() {
    let (dir, files) = corpus();
    for file in files {
        let project = load(&dir, file.clone());
        let notes: String = project.notes.iter().map(|n| format!("# {n}\n")).collect();
        let understood = format!("{}{notes}", project.to_yaml());
        let expected = std::fs::read_to_string(file.with_extension("understood")).unwrap_or_default();
        assert_eq!(understood, expected, "{} is understood as:\n{understood}", file.display());
    }
}

#[test]
fn what_config_prints_reads_back_to_the_same_jobs() {
    let (dir, files) = corpus();
    for file in files {
        let first = load(&dir, file.clone());
        let scratch = tempfile::tempdir().unwrap();
        for (name, text) in [("printed.yaml", first.to_yaml()), ("printed.json", first.to_json().to_string())]
        {
            let printed = scratch.path().join(name);
            std::fs::write(&printed, text).unwrap();
            let second = load(&dir, printed);
            assert_eq!(second.jobs, first.jobs, "{} as {name}", file.display());
        }
    }
}

#[test]
fn every_example_of_the_repository_is_understood_without_a_remark() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let dirs = std::fs::read_dir(&examples).unwrap().map(|e| e.unwrap().path());
    let files: Vec<_> = dirs.map(|d| d.join("compose.yaml")).filter(|f| f.exists()).collect();
    assert!(!files.is_empty(), "no example under {}", examples.display());
    for file in files {
        let project = load(file.parent().unwrap(), file.clone());
        assert!(project.notes.is_empty(), "{:?}", project.notes);
    }
}
