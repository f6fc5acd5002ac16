//! A finished `step-<n>/` directory as a shard: its files, sizes and hashes.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use convoke_model::{Digest, ShardFile, Step};
use sha2::{Digest as _, Sha256};

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
    Odd(PathBuf),
    #[error("{0} has a name that is not UTF-8 or has a \"\\\" in it; rename it")]
    Name(PathBuf),
    #[error("it has more than {MAX_FILES} files; write fewer and larger ones")]
    TooMany,
    #[error("its directories are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("it has no files")]
    Empty,
    #[error("{path} cannot be read: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The finished steps in a checkpoint directory, in order. What has another name is not looked at.
pub(super) fn steps(directory: &Path) -> io::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let entries = match fs::read_dir(directory) {
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
pub(super) fn files(directory: &Path) -> Result<Vec<ShardFile>, BadShard> {
    if !metadata(directory)?.is_dir() {
        return Err(BadShard::Odd(directory.to_owned()));
    }
    let mut paths = Vec::new();
    walk(directory, 0, &mut paths)?;
    if paths.is_empty() {
        return Err(BadShard::Empty);
    }
    paths.sort_unstable();
    paths.into_iter().map(|path| describe(directory, &path)).collect()
}

fn walk(directory: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), BadShard> {
    if depth > MAX_DEPTH {
        return Err(BadShard::TooDeep);
    }
    for entry in fs::read_dir(directory).map_err(|e| failed(directory, e))? {
        let path = entry.map_err(|e| failed(directory, e))?.path();
        let kind = metadata(&path)?.file_type();
        if kind.is_dir() {
            walk(&path, depth + 1, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        } else {
            return Err(BadShard::Odd(path));
        }
        if paths.len() > MAX_FILES {
            return Err(BadShard::TooMany);
        }
    }
    Ok(())
}

/// Of the entry itself, never of what a link points to.
fn metadata(path: &Path) -> Result<fs::Metadata, BadShard> {
    fs::symlink_metadata(path).map_err(|e| failed(path, e))
}

fn describe(directory: &Path, path: &Path) -> Result<ShardFile, BadShard> {
    let relative = path.strip_prefix(directory).ok().and_then(Path::to_str);
    let name = relative.filter(|name| !name.contains('\\')).ok_or_else(|| BadShard::Name(path.to_owned()))?;
    let (size, digest) = hash(path).map_err(|e| failed(path, e))?;
    Ok(ShardFile { path: name.to_owned(), size, digest })
}

/// Size and SHA-256 of a file.
pub(super) fn hash(path: &Path) -> io::Result<(u64, Digest)> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let (mut buffer, mut size) = (vec![0; BUFFER], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((size, Digest(hasher.finalize().into())));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

fn failed(path: &Path, source: io::Error) -> BadShard {
    BadShard::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plainly_numbered_steps_are_finished_ones() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["step-10", "step-9", "step-007", "step-x", ".step-3.tmp", "step-"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(steps(directory.path()).unwrap(), [Step(9), Step(10)]);
        assert!(steps(&directory.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn files_are_listed_by_path_with_size_and_hash() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        fs::write(directory.path().join("b/c"), "abc").unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        let files = files(directory.path()).unwrap();
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
        assert!(matches!(files(directory.path()), Err(BadShard::Odd(path)) if path.ends_with("b")));
    }

    #[test]
    fn an_empty_directory_is_no_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(files(directory.path()), Err(BadShard::Empty)));
    }
}
