//! What came back, told: each path when it first comes, what went wrong, and all of it at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use convoke_proto::v1;
use serde_json::{Value, json as object};

use super::{Came, Outcome};
use crate::cli::failure::{Failure, exit};
use crate::cli::text;

/// Files told by name at a time.
const NAMED: usize = 3;

/// One job's files so far.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// Size of what came to each path.
    came: BTreeMap<PathBuf, u64>,
    mounts: BTreeSet<String>,
    here: BTreeSet<PathBuf>,
    failed: BTreeMap<PathBuf, String>,
}

impl Back {
    /// Takes note of files, and says what people should know now.
    pub(crate) fn add(&mut self, files: &[Came]) -> Vec<String> {
        let mut told = Vec::new();
        let mut new = Vec::new();
        for file in files {
            let path = file.place.absolute();
            self.failed.remove(&path);
            match &file.outcome {
                Outcome::Same => {
                    self.here.insert(path);
                    continue;
                }
                Outcome::Failed(problem) => {
                    told.push(format!("{} did not come back: {problem}", name(file)));
                    self.failed.insert(path, problem.clone());
                    continue;
                }
                Outcome::Beside(beside) => {
                    let beside = beside.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    told.push(format!(
                        "warning: {} was changed here since the submit and stays; what came back is {beside}",
                        name(file)
                    ));
                }
                Outcome::Written if !self.came.contains_key(&path) => new.push(file),
                Outcome::Written => {}
            }
            self.mounts.insert(file.place.mount.clone());
            self.came.insert(path, file.artifact.size);
        }
        told.extend(arrived(&new));
        told
    }

    /// `3 files came back into ./checkpoints, ./logs (12.3 MiB)`; `None` if none did.
    pub(crate) fn summary(&self) -> Option<String> {
        if self.came.is_empty() {
            return None;
        }
        let mounts: Vec<_> = self.mounts.iter().map(String::as_str).collect();
        let files = text::files(self.came.len() as u64);
        Some(format!(
            "{files} came back into {} ({})",
            mounts.join(", "),
            text::size(self.came.values().sum())
        ))
    }

    /// Files that were here already.
    pub(crate) fn unchanged(&self) -> usize {
        self.here.iter().filter(|path| !self.came.contains_key(*path)).count()
    }

    pub(crate) fn json(&self) -> Value {
        object!({
            "files": self.came.len(), "bytes": self.came.values().sum::<u64>(),
            "unchanged": self.unchanged(), "failed": self.failed.len(),
        })
    }

    /// Whether all that was to come is here.
    pub(crate) fn outcome(&self, job: &str) -> Result<(), Failure> {
        let Some((_, problem)) = self.failed.first_key_value() else { return Ok(()) };
        let message = format!(
            "{} of {job} did not come back; the first: {problem}",
            text::files(self.failed.len() as u64)
        );
        Err(Failure::new(exit::FAILED, "FILES_NOT_WRITTEN", message)
            .hint(format!("once that is mended, `convoke pull {job}` brings what is not here yet")))
    }
}

/// Whether all that the job left is with the coordinator, by its nodes' own word.
pub(crate) fn on_nodes(job: &v1::Job) -> Result<(), Failure> {
    let still = text::still_on_nodes(job);
    if still.is_empty() || !text::is_final(job) {
        return Ok(());
    }
    let told: Vec<_> = still.iter().map(|(node, message)| format!("node {node}: {message}")).collect();
    let name = text::job_name(job);
    Err(Failure::new(
        exit::FAILED,
        "FILES_ON_NODE",
        format!("not all of {name} came back: {}", told.join("; ")),
    )
    .hint(format!(
        "`convoke inspect {name}` shows what is left, `convoke pull {name}` brings what came since"
    )))
}

/// New paths: by name if they are few.
fn arrived(new: &[&Came]) -> Vec<String> {
    if new.len() <= NAMED {
        let one = |file: &&Came| format!("{} came back ({})", name(file), text::size(file.artifact.size));
        return new.iter().map(one).collect();
    }
    let bytes = new.iter().map(|file| file.artifact.size).sum();
    let mounts: BTreeSet<_> = new.iter().map(|file| file.place.mount.as_str()).collect();
    let mounts: Vec<_> = mounts.into_iter().collect();
    vec![format!(
        "{} came back into {} ({})",
        text::files(new.len() as u64),
        mounts.join(", "),
        text::size(bytes)
    )]
}

/// As the user would call it: from the directory of the job file.
fn name(file: &Came) -> String {
    match file.artifact.path.as_str() {
        "" => file.place.mount.clone(),
        _ => format!("{}/{}", file.place.mount.trim_end_matches('/'), file.place.path.display()),
    }
}

/// One file for programs.
pub(crate) fn json(job: &str, file: &Came) -> Value {
    let (outcome, beside, problem) = match &file.outcome {
        Outcome::Written => ("written", None, None),
        Outcome::Same => ("unchanged", None, None),
        Outcome::Beside(path) => ("beside", Some(path), None),
        Outcome::Failed(problem) => ("failed", None, Some(problem)),
    };
    object!({
        "job": job, "mount": file.artifact.mount, "path": file.place.absolute(), "node": file.artifact.node,
        "node_rank": file.artifact.node_rank.0, "size": file.artifact.size,
        "sha256": file.artifact.digest, "outcome": outcome, "beside": beside, "problem": problem,
    })
}

#[cfg(test)]
mod tests {
    use convoke_model::{Artifact, Digest, Generation, NodeId, NodeRank, Timestamp};

    use super::super::Place;
    use super::*;

    fn came(path: &str, size: u64, outcome: Outcome) -> Came {
        let artifact = Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(0),
            mount: "./out".to_owned(),
            path: path.to_owned(),
            size,
            digest: Digest([1; 32]),
            mode: 0o644,
            modified: Timestamp(0),
        };
        let place = Place {
            root: "/p/out".into(),
            path: path.into(),
            mount: "./out".to_owned(),
            entry: path.to_owned(),
        };
        Came { artifact, place, outcome }
    }

    #[test]
    fn a_path_is_told_when_it_first_comes_and_counted_once() {
        let mut back = Back::default();
        assert_eq!(back.add(&[came("a.pt", 1024, Outcome::Written)]), ["./out/a.pt came back (1.0 KiB)"]);
        assert!(back.add(&[came("a.pt", 2048, Outcome::Written)]).is_empty());
        assert!(back.add(&[came("b.pt", 5, Outcome::Same)]).is_empty());
        assert_eq!(back.summary().unwrap(), "1 file came back into ./out (2.0 KiB)");
        assert_eq!(back.unchanged(), 1);
        let many: Vec<_> = (0..1_200).map(|n| came(&n.to_string(), 1, Outcome::Written)).collect();
        assert_eq!(back.add(&many), ["1,200 files came back into ./out (1.2 KiB)"]);
    }

    #[test]
    fn what_failed_is_an_error_unless_it_came_later() {
        let mut back = Back::default();
        let told = back.add(&[came("a", 1, Outcome::Failed("no space left".to_owned()))]);
        assert_eq!(told, ["./out/a did not come back: no space left"]);
        let failure = back.outcome("train").unwrap_err();
        assert!(failure.hint.unwrap().contains("convoke pull train"));
        back.add(&[came("a", 1, Outcome::Written)]);
        assert_eq!(back.outcome("train"), Ok(()));
    }

    #[test]
    fn a_file_that_stays_is_a_warning_that_names_the_other() {
        let mut back = Back::default();
        let told = back.add(&[came("a", 1, Outcome::Beside("/p/out/a.from-train".into()))]);
        assert!(
            told[0].contains("./out/a was changed here") && told[0].ends_with("a.from-train"),
            "{told:?}"
        );
    }
}
