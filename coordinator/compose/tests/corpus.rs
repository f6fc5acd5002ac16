//! The corpus of realistic job files, without docker-compose: each is understood, prints as a file that
//! means the same, and survives damage.

#[path = "support/case.rs"]
#[allow(dead_code, reason = "docker-compose's part of a case is of no use here")]
mod case;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use case::Case;
use convoke_compose::{ComposeErrors, Disk, Files, LoadOptions, Project};
use proptest::prelude::*;

/// The disk, with some files of one's own in front.
struct Overlay(BTreeMap<PathBuf, String>);

impl Files for Overlay {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.0.get(path) {
            Some(text) => Ok(text.clone().into_bytes()),
            None => Disk.read(path),
        }
    }
}

/// What `convoke config` prints of a project, loaded again from the same directory.
fn again(case: &Case, project: &Project) -> Result<Project, ComposeErrors> {
    let printed = project.dir.join("printed.yml");
    let files = Overlay(BTreeMap::from([(printed.clone(), project.to_yaml())]));
    let options = LoadOptions { files: vec![printed], project_name: None, ..case.options() };
    Project::load_from(&options, &files)
}

#[test]
fn every_case_is_understood_and_reads_back_from_what_config_prints() {
    for case in case::corpus() {
        let project = case.load().unwrap_or_else(|e| panic!("{}:\n{e}", case.name));
        let jobs = again(&case, &project).map(|p| p.jobs);
        assert_eq!(jobs, Ok(project.jobs.clone()), "{}:\n{}", case.name, project.to_yaml());
    }
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(case::corpus);

/// What goes wrong when a file is edited in haste.
#[derive(Debug, Clone)]
enum Slip {
    Drop,
    Double,
    Swap,
    Indent,
    Outdent,
    /// A piece put into the line, or in place of what follows a colon.
    Insert(&'static str),
    Value(&'static str),
    Cut,
}

const PIECES: [&str; 28] = [
    "$", "${", "${X", "$$", "\"", "'", ":", ": ", "- ", "-", "[", "]", "{", "}", "#", "\\", "*x", "&x ",
    "!reset ", "|", ">", ",", "\t", "0", "ü", "-1", "null", "<<: ",
];

fn slip() -> impl Strategy<Value = (Slip, prop::sample::Index, prop::sample::Index)> {
    let piece = || prop::sample::select(&PIECES[..]);
    let slip = prop_oneof![
        Just(Slip::Drop),
        Just(Slip::Double),
        Just(Slip::Swap),
        Just(Slip::Indent),
        Just(Slip::Outdent),
        piece().prop_map(Slip::Insert),
        piece().prop_map(Slip::Value),
        Just(Slip::Cut),
    ];
    (slip, any::<prop::sample::Index>(), any::<prop::sample::Index>())
}

fn damage(lines: &mut Vec<String>, slip: &Slip, line: prop::sample::Index, at: prop::sample::Index) {
    if lines.is_empty() {
        return;
    }
    let i = line.index(lines.len());
    let boundary = |text: &str| {
        let at = at.index(text.len() + 1);
        (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
    };
    match slip {
        Slip::Drop => _ = lines.remove(i),
        Slip::Double => lines.insert(i, lines[i].clone()),
        Slip::Swap => {
            let other = at.index(lines.len());
            lines.swap(i, other);
        }
        Slip::Indent => lines[i].insert_str(0, "  "),
        Slip::Outdent => lines[i] = lines[i].strip_prefix("  ").unwrap_or(&lines[i]).to_owned(),
        Slip::Insert(piece) => {
            let at = boundary(&lines[i]);
            lines[i].insert_str(at, piece);
        }
        Slip::Value(piece) => {
            let end = lines[i].find(": ").map_or(lines[i].len(), |colon| colon + 2);
            lines[i].replace_range(end.., piece);
        }
        Slip::Cut => {
            let at = boundary(&lines[i]);
            lines[i].truncate(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_job_file_is_refused_with_its_line_or_reads_back(
        case in any::<prop::sample::Index>(),
        slips in prop::collection::vec(slip(), 1..4),
    ) {
        let case = case.get(&CASES);
        let file = case.job_files().swap_remove(0);
        let mut lines: Vec<String> = case::read(&file).lines().map(ToOwned::to_owned).collect();
        for (slip, line, at) in &slips {
            damage(&mut lines, slip, *line, *at);
        }
        let text = lines.join("\n");
        match Project::load_from(&case.options(), &Overlay(BTreeMap::from([(file, text.clone())]))) {
            Ok(project) => {
                let jobs = again(case, &project).map(|p| p.jobs);
                prop_assert_eq!(jobs, Ok(project.jobs.clone()), "{}\n{}", text, project.to_yaml());
            }
            Err(errors) => prop_assert!(!errors.0.is_empty()),
        }
    }
}
