//! What a replica's people are told of its files: what is on its way, what stays and why, what never travels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use convoke_model::{Condition, ReplicaKey};

use super::looks::FileId;
use super::scan::Odd;
use crate::conditions::Conditions;
use crate::files::Files;
use crate::files::laid::Laid;
use crate::files::space::bytes;
use crate::work::about;

/// Files that are named: a few tell what it is about.
const NAMED: usize = 3;
/// Odd files that are told apart; beyond it there are "at least" so many.
const COUNTED: usize = 10_000;

/// Says where the files of one replica are.
#[derive(Debug)]
pub(super) struct Teller {
    warnings: Conditions,
    about: String,
    /// Where they are, until when, and how to get them.
    place: String,
    problem: Mutex<Option<String>>,
    /// The replica's end was told although files were here: until all are home, that is said.
    end_told: AtomicBool,
}

/// A file that stays: its bytes, and why.
#[derive(Debug, Clone)]
struct Left {
    shown: String,
    size: u64,
    why: String,
}

/// What does not come back of a replica.
#[derive(Debug, Default)]
pub(super) struct Stays {
    files: BTreeMap<FileId, Left>,
    /// What cannot even be looked at, by the newest look.
    unseen: Vec<String>,
    /// Nothing more is sent, and why.
    over: Option<String>,
    odd: BTreeSet<(usize, String)>,
}

impl Teller {
    pub(super) fn new(files: &Arc<Files>, key: ReplicaKey) -> Self {
        let mounts = Laid::mounts(&files.replica_dir(&key));
        let keep = humantime::format_duration(files.keep);
        Self {
            warnings: files.warnings.clone(),
            about: about(&key),
            place: format!("on node {} in {}, for {keep} after the job's end", files.node, mounts.display()),
            problem: Mutex::default(),
            end_told: AtomicBool::new(false),
        }
    }

    /// The coordinator did not take something; tried again.
    pub(super) fn failed(&self, problem: &str) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.to_owned());
    }

    /// Says that files are still here, and on their way.
    pub(super) fn waiting(&self) {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let problem = problem.unwrap_or_else(|| "the coordinator takes nothing".to_owned());
        let message = format!(
            "files of {} are not with the coordinator yet ({problem}); they are {}, and are sent as soon as they can be: \
             `convoke pull` brings them then",
            self.about, self.place
        );
        self.warnings.raise(Condition::RETURNING_FILES, &self.about, message);
    }

    /// The replica's end is told now.
    pub(super) fn end_told(&self) {
        self.end_told.store(true, Ordering::Relaxed);
        self.waiting();
    }

    pub(super) fn mended(&self) {
        if !self.end_told.load(Ordering::Relaxed) {
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.warnings.clear(Condition::RETURNING_FILES, &self.about);
        }
    }

    /// Nothing is on its way any more.
    pub(super) fn over(&self) {
        self.warnings.clear(Condition::RETURNING_FILES, &self.about);
    }

    /// Says what stays here, or that nothing does any more.
    pub(super) fn stays(&self, stays: &Stays) {
        match stays.sentence() {
            None => self.warnings.clear(Condition::FILES_NOT_RETURNED, &self.about),
            Some(sentence) => {
                let message = format!(
                    "{sentence} (of {}); what stays is {}: copy it from there if it is wanted",
                    self.about, self.place
                );
                self.warnings.raise(Condition::FILES_NOT_RETURNED, &self.about, message);
            }
        }
    }

    pub(super) fn odd(&self, stays: &Stays, sources: impl Fn(usize) -> String) {
        let named: Vec<_> =
            stays.odd.iter().take(NAMED).map(|(n, p)| format!("{}/{p}", sources(*n))).collect();
        let count = stays.odd.len();
        let least = if count >= COUNTED { "at least " } else { "" };
        let message = format!(
            "{least}{count} links, FIFOs, sockets or devices that the job made do not come back: {}{}",
            named.join(", "),
            if count > NAMED { ", ..." } else { "" }
        );
        self.warnings.raise("OddFiles", &self.about, message);
    }
}

impl Stays {
    /// The file stays here.
    pub(super) fn add(&mut self, id: FileId, shown: String, size: u64, why: String) {
        self.files.insert(id, Left { shown, size, why });
    }

    /// It does not stay here any more.
    pub(super) fn remove(&mut self, id: &FileId) {
        self.files.remove(id);
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(&FileId) -> bool) {
        self.files.retain(|id, _| is_there(id));
    }

    /// Sorts what a look found besides regular files; true if there are new odd ones.
    pub(super) fn look(&mut self, odd: Vec<Odd>, cut: bool, was_there: impl Fn(&Odd) -> bool) -> bool {
        let before = self.odd.len();
        self.unseen.clear();
        if cut {
            self.unseen.push("it has more files than are looked through".to_owned());
        }
        for found in odd {
            if found.is_content {
                self.unseen.push(format!("{}: {}", found.path, found.why));
            } else if self.odd.len() < COUNTED && !was_there(&found) {
                self.odd.insert((found.copy, found.path));
            }
        }
        self.odd.len() > before
    }

    /// Nothing more is sent.
    pub(super) fn end(&mut self, why: String) {
        self.over = Some(why);
    }

    /// True if all can be home.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.unseen.is_empty() && self.over.is_none()
    }

    fn sentence(&self) -> Option<String> {
        if let Some(why) = &self.over {
            return Some(format!("files do not come back: {why}"));
        }
        let first = self.files.values().next();
        let size = match self.files.values().map(|left| left.size).sum() {
            0 => String::new(),
            size => format!(" with {}", bytes(size)),
        };
        let count = self.files.len() + self.unseen.len();
        let first =
            first.map(|left| format!("{}: {}", left.shown, left.why)).or(self.unseen.first().cloned())?;
        let first: String = first.chars().take(600).collect();
        let (files, verb) = if count == 1 { ("file", "does") } else { ("files", "do") };
        let lead = if count == 1 { "" } else { "the first, " };
        Some(format!("{count} {files}{size} {verb} not come back; {lead}{first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_counted_and_the_first_is_named_until_it_is_gone() {
        let mut stays = Stays::default();
        assert_eq!(stays.sentence(), None);
        stays.add((0, "b".into()), "./out/b".into(), 1 << 20, "too large".into());
        stays.add((0, "a".into()), "./out/a".into(), 1 << 20, "too large".into());
        let sentence = stays.sentence().unwrap();
        assert!(
            sentence.starts_with("2 files with 2.0 MiB do not come back; the first, ./out/a"),
            "{sentence}"
        );
        stays.remove(&(0, "a".into()));
        stays.retain(|id| id.1 != "b");
        assert!(stays.is_empty());
    }

    #[test]
    fn links_are_told_once_and_keep_nothing_here_but_content_that_cannot_be_named_does() {
        let mut stays = Stays::default();
        let odd =
            |path: &str, is_content| Odd { copy: 0, path: path.into(), why: "it is odd".into(), is_content };
        assert!(stays.look(vec![odd("l", false), odd("was", false)], false, |o| o.path == "was"));
        assert!(!stays.look(vec![odd("l", false)], false, |_| false));
        assert!(stays.is_empty());
        stays.look(vec![odd("deep", true)], false, |_| false);
        assert!(stays.sentence().unwrap().contains("deep: it is odd"));
        stays.look(Vec::new(), false, |_| false);
        assert!(stays.is_empty(), "it is gone");
    }
}
