//! The rules against real output: every file of `tests/excerpts/` is told as its header says.
//!
//! A file has `name: value` lines, `---`, and then the task's lines, `o|` before those of stdout and
//! `e|` before those of stderr. `what` says where it is from; `stopped` is the number of lines before Convoke's stop, `ranks` the task's first rank
//! and their number; `cause`, `key`, `rank` and `says` (words of the
//! summary or the evidence; several) say what is expected.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use convoke_model::{ExitStatus, Rank, Timestamp};

use crate::findings::Findings;
use crate::table::table;
use crate::{Ended, Evidence, Line, MAX_EVIDENCE, Source, explain, first_failure, is_consequence};

pub(crate) struct Excerpt {
    pub(crate) name: String,
    header: Vec<(String, String)>,
    body: String,
    command: Vec<String>,
}

/// Every excerpt, by name.
pub(crate) fn all() -> Vec<Excerpt> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/excerpts");
    let mut excerpts: Vec<Excerpt> =
        fs::read_dir(folder).unwrap().map(|entry| Excerpt::read(&entry.unwrap().path())).collect();
    excerpts.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!excerpts.is_empty());
    excerpts
}

impl Excerpt {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let (header, body) = text.split_once("---\n").unwrap_or_else(|| panic!("{}: no ---", path.display()));
        let header: Vec<(String, String)> = header
            .lines()
            .map(|line| line.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().to_owned())).unwrap())
            .collect();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let command = header.iter().filter(|(k, _)| k == "command");
        let command = command.flat_map(|(_, v)| v.split(' ')).map(str::to_owned).collect();
        Self { name, command, header, body: body.to_owned() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.header.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).map(|v| v.parse().unwrap())
    }

    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        let line = |line: &'_ str| match line.split_at(2) {
            ("o|", text) => (Source::Stdout, text.len()),
            ("e|", text) => (Source::Stderr, text.len()),
            _ => panic!("{}: {line}", self.name),
        };
        let lines = self.body.lines().map(|l| (line(l), l));
        lines.map(|((source, length), l)| Line { source, text: &l[l.len() - length..] }).collect()
    }

    pub(crate) fn evidence<'a>(&'a self, tail: &'a [Line<'a>]) -> Evidence<'a> {
        let exit = match self.get("exit").unwrap().split_once(' ') {
            Some(("code", code)) => ExitStatus::Code(code.parse().unwrap()),
            Some(("signal", signal)) => ExitStatus::Signal(signal.parse().unwrap()),
            _ => ExitStatus::Unknown,
        };
        Evidence {
            exit,
            oom_killed: self.get("oom_killed").is_some(),
            stopped: self.number("stopped").map(|lines| usize::try_from(lines).unwrap()),
            ranks: self
                .get("ranks")
                .map(|v| v.split_once(' ').unwrap())
                .map(|(f, n)| (f.parse().unwrap(), n.parse().unwrap())),
            memory_limit: self.number("memory_limit"),
            memory_peak: self.number("memory_peak"),
            shm_size: self.number("shm_size"),
            shm_peak: self.number("shm_peak"),
            tail,
            command: &self.command,
            image: self.get("image"),
            runtime_error: self.get("runtime_error"),
            data_interface: self.get("interface"),
            data_address: self.get("address"),
            node: self.get("node"),
        }
    }

    /// What is wrong with its explanation.
    fn complaint(&self) -> Option<String> {
        let lines = self.lines();
        let told = explain(&self.evidence(&lines));
        let (cause, key) = told.as_ref().map_or(("none", None), |told| (told.cause, told.key));
        let text = told.as_ref().map(crate::Explanation::to_text).unwrap_or_default();
        let mut says = self.header.iter().filter(|(k, _)| k == "says").map(|(_, v)| v);
        let missing = says.find(|says| !text.contains(says.as_str()));
        let rank = told.as_ref().and_then(|told| told.rank).map(u64::from);
        let wanted = (self.get("cause").unwrap(), self.get("key"), self.number("rank"));
        // `?` stands for a name without a value.
        let odd = told.is_some_and(|told| {
            told.evidence.len() > MAX_EVIDENCE || told.summary.contains('?') || told.advice.contains('?')
        });
        let right = (cause, key, rank) == wanted && missing.is_none() && !odd;
        (!right).then(|| {
            format!(
                "{}: wanted {wanted:?}, and {missing:?} in\n{cause} {key:?} {rank:?}\n{text}\n",
                self.name
            )
        })
    }
}

#[test]
fn every_excerpt_is_explained_as_its_header_says() {
    let complaints: String = all().iter().filter_map(Excerpt::complaint).collect();
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn what_the_engine_said_is_recognised_behind_a_clients_own_words() {
    for excerpt in all() {
        let evidence = excerpt.evidence(&[]);
        let Some(error) = evidence.runtime_error else { continue };
        for before in
            ["Docker responded with status code 500: ", "Docker stream error: ", "rank 3 on node-a: "]
        {
            let error = format!("{before}{error}");
            let told = explain(&Evidence { runtime_error: Some(&error), ..evidence }).unwrap();
            assert_eq!(Some(told.cause), excerpt.get("cause"), "{error}");
        }
    }
}

#[test]
fn every_rule_and_each_of_its_words_is_needed_by_an_excerpt() {
    let table = table();
    let mut rules = vec![false; table.rules.len()];
    let mut words = vec![false; table.words().len()];
    for excerpt in all() {
        let lines = excerpt.lines();
        let evidence = excerpt.evidence(&lines);
        let findings = Findings::of(&evidence);
        let held = (0..rules.len()).find_map(|i| Some((i, findings.holds(i, table.rules[i])?)));
        if let Some((rule, hit)) = held {
            rules[rule] = true;
            hit.inspect(|hit| words[hit.pattern] = true);
        }
    }
    let mut unused = String::new();
    for (rule, _) in table.rules.iter().zip(rules).filter(|(_, used)| !used) {
        writeln!(unused, "{} on {:?}", rule.cause, rule.on).unwrap();
    }
    for (word, _) in table.words().iter().zip(words).filter(|(_, used)| !used) {
        writeln!(unused, "{word}").unwrap();
    }
    assert!(unused.is_empty(), "no excerpt for:\n{unused}");
}

#[test]
fn of_a_gangs_real_ends_the_one_with_a_cause_of_its_own_is_the_first_failure() {
    let excerpts = all();
    let cause = |name: &str| {
        let excerpt = excerpts.iter().find(|e| e.name == name).unwrap();
        explain(&excerpt.evidence(&excerpt.lines())).unwrap().cause
    };
    let names =
        ["peer-lost-gloo-2", "nccl-refused", "cuda-oom", "collective-timeout-nccl", "rendezvous-one-of-two"];
    let causes = names.map(cause);
    let ended = |(rank, cause): (u32, &'static str)| {
        let status = ExitStatus::Code(1);
        Ended { rank: Rank(rank), at: Timestamp(u64::from(rank)), status, stopped: false, cause: Some(cause) }
    };
    let tasks: Vec<Ended<'_>> = (0..).zip(causes).map(ended).collect();
    assert_eq!(first_failure(&tasks).unwrap().rank, Rank(2));
    assert!(is_consequence(causes[0]) && !is_consequence(causes[2]));
}

/// `cargo test -p convoke-explain show_every -- --ignored --nocapture` prints them for reading.
#[test]
#[ignore = "prints every explanation, for people"]
fn show_every_explanation() {
    for excerpt in all() {
        let lines = excerpt.lines();
        let told = explain(&excerpt.evidence(&lines)).map_or("(nothing)\n".to_owned(), |told| told.to_text());
        println!("── {} ({})\n{told}", excerpt.name, excerpt.get("what").unwrap());
    }
}
