//! Putting one file in its place: whole or not at all, never out of the user's directory, and never
//! over what the user changed.

use std::collections::HashMap;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt as _, Permissions, PermissionsExt as _};
use cap_tempfile::TempFile;
use convoke_model::{Artifact, Digest};
use sha2::{Digest as _, Sha256};

use super::known::{Known, Was};
use super::place::Place;

/// Bytes copied or hashed at a time.
const CHUNK: usize = 1 << 20;
/// Permission bits that a job may set on the user's machine: no set-user-id.
const MODE: u32 = 0o777;

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written,
    /// The file was there with this content.
    Same,
    /// The user's file stays; what came lies here, beside it.
    Beside(PathBuf),
    Failed(String),
}

/// Why a file did not get into its place.
#[derive(Debug)]
pub(super) enum WriteError {
    /// What came ended early: worth another try.
    Broken(io::Error),
    /// This machine could not.
    Local(String),
}

/// How a local file compares with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    Same,
    /// There is none, or one that may be replaced.
    Free,
    /// The user's own work.
    Changed,
}

/// Enough of a file to tell that nobody touched it: inode, size, modification and change.
type Look = (u64, u64, (i64, i64), (i64, i64));

/// Writes one job's files.
pub(super) struct Writer {
    /// For `NAME.from-JOB`.
    job: String,
    known: Known,
    /// How what was written here looked then, so that it need not be hashed to be recognised.
    written: HashMap<PathBuf, (Look, Digest)>,
}

impl Writer {
    pub(super) fn new(job: &str, known: Known) -> Self {
        Self { job: job.to_owned(), known, written: HashMap::new() }
    }

    /// True if a file need not come: what it would hold is there.
    pub(super) fn has(&self, artifact: &Artifact, place: &Place) -> bool {
        let found = Dir::open_ambient_dir(&place.root, ambient_authority())
            .and_then(|root| self.local(&root, &place.path, artifact, place));
        matches!(found, Ok(Local::Same))
    }

    /// Writes a file from `content`, which must have the artifact's size and digest.
    pub(super) fn write(
        &mut self,
        artifact: &Artifact,
        place: &Place,
        content: &mut impl Read,
    ) -> Result<Outcome, WriteError> {
        let local = |what: &str, error: &io::Error| {
            WriteError::Local(format!("cannot {what} {}: {error}", place.absolute().display()))
        };
        let dir = parent(place).map_err(|e| local("make the directory of", &e))?;
        let mut temporary = TempFile::new(&dir).map_err(|e| local("write", &e))?;
        receive(&mut temporary, artifact, content, |e| local("write", e))?;
        let mode = Permissions::from_mode(artifact.mode & MODE);
        temporary.as_file().set_permissions(mode).map_err(|e| local("set the mode of", &e))?;
        let name = Path::new(place.path.file_name().unwrap_or_default());
        match self.local(&dir, name, artifact, place).map_err(|e| local("look at", &e))? {
            Local::Same => Ok(Outcome::Same),
            Local::Free => {
                temporary.replace(name).map_err(|e| local("write", &e))?;
                self.known.wrote(place, artifact.digest);
                if let Ok(metadata) = dir.symlink_metadata(name) {
                    self.written.insert(place.absolute(), (look(&metadata), artifact.digest));
                }
                Ok(Outcome::Written)
            }
            Local::Changed => {
                let mut beside = name.as_os_str().to_owned();
                beside.push(format!(".from-{}", self.job));
                temporary.replace(&beside).map_err(|e| local("write a copy beside", &e))?;
                Ok(Outcome::Beside(place.absolute().with_file_name(beside)))
            }
        }
    }

    /// What lies at `path` of `dir`, which is the place's own.
    fn local(&self, dir: &Dir, path: &Path, artifact: &Artifact, place: &Place) -> io::Result<Local> {
        let metadata = match dir.symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Local::Free),
            Err(e) => return Err(e),
        };
        let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
        let untouched = self.known.is_untouched(changed) && !metadata.is_dir();
        let free = |was| if self.known.may_replace(place, was) { Local::Free } else { Local::Changed };
        if metadata.is_symlink() {
            if untouched {
                return Ok(Local::Free);
            }
            let target = dir.read_link_contents(path)?;
            return Ok(target.to_str().map_or(Local::Changed, |target| free(Was::Symlink(target))));
        }
        if !metadata.is_file() {
            return Ok(Local::Changed);
        }
        let digest = match self.written.get(&place.absolute()) {
            Some((seen, digest)) if *seen == look(&metadata) => *digest,
            _ => hash(dir, path)?,
        };
        if digest == artifact.digest {
            return Ok(Local::Same);
        }
        Ok(if untouched { Local::Free } else { free(Was::File(digest)) })
    }
}

/// The directory that a file goes to, made where it is not there; nothing on the way leads out.
fn parent(place: &Place) -> io::Result<Dir> {
    Dir::create_ambient_dir_all(&place.root, ambient_authority())?;
    let root = Dir::open_ambient_dir(&place.root, ambient_authority())?;
    match place.path.parent() {
        Some(parent) if !parent.as_os_str().as_bytes().is_empty() => {
            root.create_dir_all(parent)?;
            root.open_dir(parent)
        }
        _ => Ok(root),
    }
}

fn receive(
    file: &mut TempFile<'_>,
    artifact: &Artifact,
    content: &mut impl Read,
    local: impl Fn(&io::Error) -> WriteError,
) -> Result<(), WriteError> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = content.read(&mut buffer).map_err(WriteError::Broken)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        size += n as u64;
        file.write_all(&buffer[..n]).map_err(|e| local(&e))?;
    }
    if size != artifact.size || hash.finalize()[..] != artifact.digest.0 {
        let problem = "it did not come with the content that was announced";
        return Err(WriteError::Broken(io::Error::new(io::ErrorKind::InvalidData, problem)));
    }
    Ok(())
}

fn hash(dir: &Dir, path: &Path) -> io::Result<Digest> {
    let mut file = dir.open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn look(metadata: &Metadata) -> Look {
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.ino(), metadata.len(), modified, (metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::Arc;

    use convoke_model::{Generation, NodeId, NodeRank, Timestamp};
    use convoke_tree::{Entry, Kind, Manifest};

    use super::*;
    use crate::cli::ship::Sent;
    use crate::cli::testing::names;

    fn artifact(content: &str) -> Artifact {
        Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(0),
            mount: "./out".to_owned(),
            path: "x".to_owned(),
            size: content.len() as u64,
            digest: Digest(Sha256::digest(content).into()),
            mode: 0o4750,
            modified: Timestamp(0),
        }
    }

    struct Case {
        dir: tempfile::TempDir,
        writer: Writer,
    }

    impl Case {
        /// A mount that held `file` with `content` at submit.
        fn sent(file: &str, content: &str) -> Self {
            let digest = Digest(Sha256::digest(content).into());
            let kind = Kind::File { size: content.len() as u64, digest };
            let entries = vec![Entry { path: file.to_owned(), mode: 0o644, kind }];
            let sent = Sent::from([("./out".to_owned(), Arc::new(Manifest { entries }))]);
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("out")).unwrap();
            fs::write(dir.path().join("out").join(file), content).unwrap();
            let known = Known::read(&dir.path().join("record"), sent);
            Self { dir, writer: Writer::new("train", known) }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join("out").join(path)
        }

        fn write(&mut self, path: &str, content: &str) -> Result<Outcome, WriteError> {
            let place = Place {
                root: self.dir.path().join("out"),
                path: path.into(),
                mount: "./out".to_owned(),
                entry: path.to_owned(),
            };
            self.writer.write(&artifact(content), &place, &mut content.as_bytes())
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            names(&self.path(""))
        }
    }

    #[test]
    fn a_new_file_comes_with_its_directories_and_mode_but_without_set_user_id() {
        let mut case = Case::sent("a", "1");
        assert_eq!(case.write("sub/dir/new.pt", "weights").unwrap(), Outcome::Written);
        assert_eq!(case.read("sub/dir/new.pt"), "weights");
        let mode = fs::metadata(case.path("sub/dir/new.pt")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
    }

    #[test]
    fn a_file_as_it_was_at_submit_or_as_it_came_before_is_replaced() {
        let mut case = Case::sent("model.pt", "old");
        assert_eq!(case.write("model.pt", "one").unwrap(), Outcome::Written);
        assert_eq!(case.write("model.pt", "two").unwrap(), Outcome::Written);
        assert_eq!(case.write("model.pt", "two").unwrap(), Outcome::Same);
        assert_eq!((case.read("model.pt").as_str(), case.names()), ("two", vec!["model.pt".to_owned()]));
    }

    #[test]
    fn a_file_that_the_user_changed_stays_and_what_came_lies_beside_it() {
        let mut case = Case::sent("notes", "old");
        fs::write(case.path("notes"), "mine").unwrap();
        fs::create_dir(case.path("dir")).unwrap();
        let beside = |outcome| match outcome {
            Ok(Outcome::Beside(path)) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(beside(case.write("notes", "theirs")), case.path("notes.from-train"));
        assert_eq!((case.read("notes").as_str(), case.read("notes.from-train").as_str()), ("mine", "theirs"));
        assert_eq!(beside(case.write("dir", "file")), case.path("dir.from-train"));
        fs::write(case.path("new"), "mine too").unwrap();
        assert_eq!(beside(case.write("new", "theirs")), case.path("new.from-train"));
        // As it came before, then changed.
        assert_eq!(case.write("late", "1").unwrap(), Outcome::Written);
        fs::write(case.path("late"), "edited").unwrap();
        assert_eq!(beside(case.write("late", "2")), case.path("late.from-train"));
    }

    #[test]
    fn nothing_is_written_through_a_link_out_of_the_directory() {
        let mut case = Case::sent("a", "1");
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), case.path("out-link")).unwrap();
        symlink("..", case.path("up")).unwrap();
        symlink(outside.path().join("file"), case.path("file-link")).unwrap();
        for path in ["out-link/x", "out-link/sub/x", "up/x"] {
            let error = case.write(path, "x").unwrap_err();
            assert!(matches!(&error, WriteError::Local(text) if text.contains("x")), "{path}: {error:?}");
        }
        assert!(matches!(case.write("file-link", "x"), Ok(Outcome::Beside(_))));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!case.dir.path().join("x").exists());
    }

    #[test]
    fn a_link_within_the_directory_is_followed() {
        let mut case = Case::sent("a", "1");
        fs::create_dir(case.path("run-1")).unwrap();
        symlink("run-1", case.path("latest")).unwrap();
        assert_eq!(case.write("latest/x", "x").unwrap(), Outcome::Written);
        assert_eq!(case.read("run-1/x"), "x");
    }

    #[test]
    fn half_a_file_or_another_content_leaves_nothing() {
        let mut case = Case::sent("a", "1");
        let place =
            Place { root: case.path(""), path: "b".into(), mount: "./out".to_owned(), entry: "b".to_owned() };
        for content in ["hal", "another"] {
            let result = case.writer.write(&artifact("half!"), &place, &mut content.as_bytes());
            assert!(matches!(result, Err(WriteError::Broken(_))), "{result:?}");
        }
        assert_eq!(case.names(), ["a"]);
    }
}
