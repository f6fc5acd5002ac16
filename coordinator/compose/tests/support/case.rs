//! The corpus: a directory per case below `corpus/`, written as users write them. Comments of its
//! files say what else belongs to the case:
//!
//! - `# run: -f a.yml -f b.yml --profile p -p name`: how it is loaded; else as found in the directory.
//! - `# env: NAME=value`: a variable of the user's environment.
//! - `… # too old: REASON`: a line that docker-compose 1.29 cannot read, left out for it.
//! - `# judged: PATH = VALUE | REASON`: what is to be understood where 1.29 does not say so; a value of
//!   `-` is nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use convoke_compose::{ComposeErrors, LoadOptions, Project};

/// Ends a line that docker-compose 1.29 cannot read.
pub(crate) const TOO_OLD: &str = "# too old:";

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// The arguments of `# run:`.
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) judged: Vec<Judged>,
}

pub(crate) struct Judged {
    pub(crate) path: String,
    /// `None`: nothing is understood there.
    pub(crate) value: Option<String>,
}

pub(crate) fn corpus() -> Vec<Case> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut cases: Vec<_> = entries.map(|e| Case::read(e.expect("an entry").path())).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 40, "the corpus is gone: {} cases", cases.len());
    cases
}

impl Case {
    fn read(dir: PathBuf) -> Self {
        let name = dir.file_name().expect("a directory has a name").to_string_lossy().into_owned();
        let env = BTreeMap::from([("HOME".to_owned(), "/home/u".to_owned())]);
        let mut case = Self { name, dir, args: Vec::new(), env, judged: Vec::new() };
        for file in case.job_files() {
            for line in read(&file).lines() {
                case.directive(line, &file);
            }
        }
        case
    }

    fn directive(&mut self, line: &str, file: &Path) {
        if let Some(args) = line.strip_prefix("# run: ") {
            self.args = args.split_whitespace().map(ToOwned::to_owned).collect();
        } else if let Some(variable) = line.strip_prefix("# env: ") {
            let (key, value) = variable.split_once('=').expect("NAME=value");
            self.env.insert(key.to_owned(), value.to_owned());
        } else if let Some(judged) = line.strip_prefix("# judged: ") {
            let parts =
                judged.split_once(" = ").and_then(|(path, rest)| Some((path, rest.split_once(" | ")?)));
            let (path, (value, reason)) = parts.unwrap_or_else(|| panic!("{}: {line}", file.display()));
            assert!(!reason.is_empty(), "{}: {line}", file.display());
            let value = (value != "-").then(|| value.to_owned());
            self.judged.push(Judged { path: path.to_owned(), value });
        }
    }

    /// The Compose files of the case's own directory.
    pub(crate) fn job_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        let paths = entries.map(|e| e.expect("an entry").path());
        let mut files: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "yml")).collect();
        files.sort();
        files
    }

    /// The values that follow `flag` in the arguments.
    fn values(&self, flag: &str) -> impl Iterator<Item = String> {
        let flag = flag.to_owned();
        self.args.windows(2).filter(move |w| w[0] == flag).map(|w| w[1].clone())
    }

    pub(crate) fn profiles(&self) -> Vec<String> {
        self.values("--profile").collect()
    }

    /// How Convoke loads the case.
    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions {
            working_dir: self.dir.clone(),
            files: self.values("-f").map(PathBuf::from).collect(),
            project_name: self.values("-p").next(),
            env: self.env.clone(),
            profiles: self.profiles(),
            ..LoadOptions::default()
        }
    }

    pub(crate) fn load(&self) -> Result<Project, ComposeErrors> {
        Project::load(&self.options())
    }
}

pub(crate) fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}
