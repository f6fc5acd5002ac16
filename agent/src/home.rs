//! The state directory: one agent at a time, and where everything lies in it.
//!
//! ```text
//! lock                          held while an agent runs
//! agent.json                    instance id, made once; the cluster and the node that it belongs to
//! accepted.json                 stamp of the last desired state that was accepted
//! docker                        the agent has run containers here
//! images.json                   which images were fetched for jobs
//! replicas/<replica>/           record.json, checkpoints/<rank>/, uploaded-<rank>.json; what its
//!                               mounts show: files.json, mounts/<n>/, grants/<n>, collected.jsonl;
//!                               what keeps it from being deleted: *-owed.json
//! cache/                        files that travelled here; see `files::cache`
//! resume/<job>/<gen>-<step>/    checkpoints fetched to start from
//! s/<hash>/t.sock               a task's trainer socket, in a directory of its own
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_model::{CheckpointRef, Generation, JobId, NodeRank, Rank, ReplicaKey};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};
use tracing::info;

/// Longest path of a Unix-domain socket: `sun_path` has 108 bytes, one of them for the end.
const MAX_SOCKET_PATH: usize = 107;
/// Hexadecimal digits of a socket directory's name: 48 bits, so that two of the (at most some
/// thousands) tasks on a node never share one.
const SOCKET_HASH_DIGITS: usize = 12;

/// How long an agent waits for the one before it to end: that takes at most 5 s after SIGTERM.
pub const HANDOVER: Duration = Duration::from_secs(10);
/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error(
        "another convoke-agent is using the state directory {0}; stop it first, or give this one another --state-dir"
    )]
    InUse(PathBuf),
    #[error(
        "the state directory's path is too long: a trainer's socket in it would be {length} bytes ({path}), and \
         the system allows {MAX_SOCKET_PATH}; choose a --state-dir of at most {allowed} bytes"
    )]
    PathTooLong { path: PathBuf, length: usize, allowed: usize },
    #[error("cannot use the state directory {path}; check its owner and the space left")]
    Io { path: PathBuf, source: io::Error },
}

/// An open state directory.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    /// Locked as long as it lives.
    _lock: File,
}

impl Home {
    /// Makes the directory where needed, and takes it for this process.
    pub fn open(root: &Path) -> Result<Self, HomeError> {
        let io = |source| HomeError::Io { path: root.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io)?;
        let root = root.canonicalize().map_err(io)?;
        check_socket_path(&root)?;
        let lock = File::create(root.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HomeError::InUse(root)),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        for directory in ["replicas", "resume", "s"] {
            fs::create_dir_all(root.join(directory)).map_err(io)?;
        }
        Ok(Self { root, _lock: lock })
    }

    /// The same, after an agent that is just ending: for that it waits so long.
    pub async fn take_over(root: &Path, patience: Duration) -> Result<Self, HomeError> {
        let deadline = Instant::now() + patience;
        let mut waiting = false;
        loop {
            match Self::open(root) {
                Err(HomeError::InUse(root)) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut waiting, true) {
                        let (state_dir, patience) = (root.display(), patience.as_secs());
                        info!(%state_dir, "another agent is using it; waiting up to {patience} s for its end");
                    }
                    sleep(LOOK).await;
                }
                opened => return opened,
            }
        }
    }

    /// Absolute, without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn agent_file(&self) -> PathBuf {
        self.root.join("agent.json")
    }

    pub fn accepted_file(&self) -> PathBuf {
        self.root.join("accepted.json")
    }

    /// There once an engine was found: from then on one that is away is missed.
    pub fn docker_file(&self) -> PathBuf {
        self.root.join("docker")
    }

    /// Which images were fetched for jobs.
    pub fn images_file(&self) -> PathBuf {
        self.root.join("images.json")
    }

    pub fn replicas_dir(&self) -> PathBuf {
        self.root.join("replicas")
    }

    pub fn replica_dir(&self, key: &ReplicaKey) -> PathBuf {
        self.replicas_dir().join(format!("{}.{}.{}", key.job, key.generation, key.node_rank))
    }

    /// Where a task leaves its checkpoints unless the job says otherwise.
    pub fn checkpoint_dir(&self, key: &ReplicaKey, rank: Rank) -> PathBuf {
        self.replica_dir(key).join("checkpoints").join(rank.to_string())
    }

    /// Files that travelled here.
    pub fn cache_dir(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub fn resume_dir(&self) -> PathBuf {
        self.root.join("resume")
    }

    pub fn resume_checkpoint_dir(&self, reference: &CheckpointRef) -> PathBuf {
        self.resume_dir()
            .join(reference.job.as_str())
            .join(format!("{}-{}", reference.generation, reference.step))
    }

    /// The directory of a task's trainer socket: the same after a restart, and short.
    pub fn socket_dir(&self, key: &ReplicaKey, rank: Rank) -> PathBuf {
        let name = format!("{}/{}/{}/{rank}", key.job, key.generation, key.node_rank);
        let hash = hex::encode(Sha256::digest(name.as_bytes()));
        self.root.join("s").join(&hash[..SOCKET_HASH_DIGITS])
    }
}

/// The replica whose directory has that name.
pub(crate) fn replica_of(name: &str) -> Option<ReplicaKey> {
    let (rest, node_rank) = name.rsplit_once('.')?;
    let (job, generation) = rest.rsplit_once('.')?;
    Some(ReplicaKey {
        job: JobId::new(job).ok()?,
        generation: Generation(generation.parse().ok()?),
        node_rank: NodeRank(node_rank.parse().ok()?),
    })
}

/// The socket in a task's socket directory.
pub fn socket_in(directory: &Path) -> PathBuf {
    directory.join("t.sock")
}

fn check_socket_path(root: &Path) -> Result<(), HomeError> {
    let path = socket_in(&root.join("s").join("0".repeat(SOCKET_HASH_DIGITS)));
    let (length, own) = (path.as_os_str().len(), root.as_os_str().len());
    if length > MAX_SOCKET_PATH {
        let allowed = MAX_SOCKET_PATH - (length - own);
        return Err(HomeError::PathTooLong { path, length, allowed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::open(directory.path()).unwrap();
        let error = Home::open(directory.path()).unwrap_err();
        assert!(matches!(&error, HomeError::InUse(path) if path == first.root()), "{error}");
        drop(first);
        Home::open(directory.path()).unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_is_ending_is_waited_for_and_one_that_is_not_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::open(directory.path()).unwrap();
        let error = Home::take_over(directory.path(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, HomeError::InUse(_)), "{error}");
        let ending = async { drop(first) };
        // The first look comes before the end.
        let (second, ()) = tokio::join!(Home::take_over(directory.path(), Duration::from_secs(3600)), ending);
        second.unwrap();
    }

    #[test]
    fn a_directory_too_deep_for_sockets_is_refused_with_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100));
        let error = Home::open(&deep).unwrap_err();
        assert!(error.to_string().contains("at most 85 bytes"), "{error}");
    }

    #[test]
    fn each_task_has_its_own_socket_directory_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let key = |generation| ReplicaKey {
            job: JobId::new("j").unwrap(),
            generation: Generation(generation),
            node_rank: NodeRank(0),
        };
        assert_eq!(home.socket_dir(&key(1), Rank(0)), home.socket_dir(&key(1), Rank(0)));
        assert_ne!(home.socket_dir(&key(1), Rank(0)), home.socket_dir(&key(1), Rank(1)));
        assert_ne!(home.socket_dir(&key(1), Rank(0)), home.socket_dir(&key(2), Rank(0)));
    }
}
