//! A finished `step-<n>/` directory as a shard: its files, sizes and hashes.

use std::io::{self, Read as _};
use std::path::Path;

use convoke_model::{Digest, ShardFile, Step};
use sha2::{Digest as _, Sha256};

use crate::beneath::Beneath;
use crate::files::collect::Motion;

/// Files of one shard: their names and hashes go in one message of at most 4 MiB.
const MAX_FILES: usize = 10_000;
/// Directories within directories.
const MAX_DEPTH: usize = 32;
const BUFFER: usize = 1 << 20;

/// Why a directory is not a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadShard {
    #[error(
        "{0} is neither a file nor a directory; a checkpoint may hold nothing else, symbolic links included"
    )]
    Odd(Beneath),
    #[error("{0} has a name that is not UTF-8 or has a \"\\\" in it; rename it")]
    Name(Beneath),
    #[error("it has more than {MAX_FILES} files; write fewer and larger ones")]
    TooMany,
    #[error("its directories are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("it has no files")]
    Empty,
    #[error("{path} cannot be read: {source}")]
    Io { path: Beneath, source: io::Error },
}

/// The finished steps in a checkpoint directory, in order. What has another name is not looked at.
pub(super) fn steps(directory: &Beneath) -> io::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let entries = match directory.entries() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(steps),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse().ok());
        // `step-007` and `step-7` would be the same step.
        steps.extend(number.map(Step).filter(|step| *name == *step_name(*step)));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// The name of a step's directory.
pub(super) fn step_name(step: Step) -> String {
    format!("step-{step}")
}

/// Reads and hashes every file. Blocking, for as long as the disk takes.
pub(super) fn files(directory: &Beneath, motion: &Motion) -> Result<Vec<ShardFile>, BadShard> {
    if !directory.metadata().map_err(|e| failed(directory, e))?.is_dir() {
        return Err(BadShard::Odd(directory.clone()));
    }
    let mut paths = Vec::new();
    walk(directory, "", 0, &mut paths)?;
    if paths.is_empty() {
        return Err(BadShard::Empty);
    }
    paths.sort_unstable();
    let mut total = 0;
    let mut read = |bytes| {
        total += bytes;
        motion.read(total);
    };
    paths.into_iter().map(|path| describe(directory, path, &mut read)).collect()
}

/// Adds the files below `prefix`, by their paths in `directory`.
fn walk(directory: &Beneath, prefix: &str, depth: usize, paths: &mut Vec<String>) -> Result<(), BadShard> {
    if depth > MAX_DEPTH {
        return Err(BadShard::TooDeep);
    }
    let here = directory.join(prefix);
    for entry in here.entries().map_err(|e| failed(&here, e))? {
        let entry = entry.map_err(|e| failed(&here, e))?;
        let path = here.join(entry.file_name());
        let kind = entry.metadata().map_err(|e| failed(&path, e))?.file_type();
        let name = entry.file_name().into_string().ok().filter(|name| !name.contains('\\'));
        let name = name.ok_or_else(|| BadShard::Name(path.clone()))?;
        let name = Path::new(prefix).join(name).display().to_string();
        if kind.is_dir() {
            walk(directory, &name, depth + 1, paths)?;
        } else if kind.is_file() {
            paths.push(name);
        } else {
            return Err(BadShard::Odd(path));
        }
        if paths.len() > MAX_FILES {
            return Err(BadShard::TooMany);
        }
    }
    Ok(())
}

fn describe(directory: &Beneath, path: String, read: impl FnMut(u64)) -> Result<ShardFile, BadShard> {
    let file = directory.join(&path);
    let (size, digest) = hash(&file, read).map_err(|e| failed(&file, e))?;
    Ok(ShardFile { path, size, digest })
}

/// Size and SHA-256 of a file; `read` is told how many bytes were read since.
fn hash(path: &Beneath, mut read: impl FnMut(u64)) -> io::Result<(u64, Digest)> {
    let (mut file, mut hasher) = (path.open()?, Sha256::new());
    let (mut buffer, mut size) = (vec![0; BUFFER], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((size, Digest(hasher.finalize().into())));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
        read(n as u64);
    }
}

fn failed(path: &Beneath, source: io::Error) -> BadShard {
    BadShard::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn beneath(directory: &tempfile::TempDir) -> Beneath {
        Beneath::new(directory.path().to_owned())
    }

    #[test]
    fn only_plainly_numbered_steps_are_finished_ones() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["step-10", "step-9", "step-007", "step-x", ".step-3.tmp", "step-"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(steps(&beneath(&directory)).unwrap(), [Step(9), Step(10)]);
        assert!(steps(&beneath(&directory).join("absent")).unwrap().is_empty());
    }

    #[test]
    fn files_are_listed_by_path_with_size_and_hash() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        fs::write(directory.path().join("b/c"), "abc").unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        let files = files(&beneath(&directory), &Motion::default()).unwrap();
        let names: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.size)).collect();
        assert_eq!(names, [("a", 0), ("b/c", 3)]);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(files[1].digest.to_string(), abc);
    }

    #[test]
    fn a_symbolic_link_makes_it_no_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("b")).unwrap();
        assert!(
            matches!(files(&beneath(&directory), &Motion::default()), Err(BadShard::Odd(path)) if path.path().ends_with("b"))
        );
    }

    #[test]
    fn an_empty_directory_is_no_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(files(&beneath(&directory), &Motion::default()), Err(BadShard::Empty)));
    }

    #[test]
    fn a_step_below_a_link_that_leads_out_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("host/step-1")).unwrap();
        fs::write(directory.path().join("host/step-1/shadow"), "root's").unwrap();
        fs::create_dir(directory.path().join("mount")).unwrap();
        std::os::unix::fs::symlink("../host", directory.path().join("mount/ckpt")).unwrap();
        let checkpoints = Beneath::new(directory.path().join("mount")).join("ckpt");
        assert!(steps(&checkpoints).is_err());
        assert!(matches!(files(&checkpoints.join("step-1"), &Motion::default()), Err(BadShard::Io { .. })));
        let file = checkpoints.join("step-1/shadow");
        assert!(hash(&file, |_| ()).is_err());
    }
}
