//! A task's directory: the files by which the agent, the shim and the next agent agree.
//!
//! ```text
//! <tasks>/<job>.g<generation>.n<node rank>.r<rank>/
//!   task.json     what to run; written by the agent before the shim starts
//!   shim.lock     held exclusively by the shim for as long as it lives
//!   shim.log      what the shim itself had to say
//!   control       FIFO: requests to the shim, a line each
//!   started.json  the processes of the shim and the task
//!   exit.json     how the main process ended; fsynced
//!   output/       spool of stdout and stderr
//!   metrics.jsonl $CONVOKE_METRICS
//! ```
//! A container's has no shim, and instead of its files:
//!
//! ```text
//!   container.json  which container; written before it is made
//!   created         it was made: the engine's id of it
//! ```
//! Of either:
//!
//! ```text
//!   stopping        it was asked to end; when, is the file's time
//! ```
//! Who holds `shim.lock` may write `exit.json`; once that is there the task is never started. The
//! directory is the agent's user's alone: the environment in `task.json` may hold secrets.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use convoke_model::{TaskExit, Timestamp};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::procfs::ProcessId;
use super::{TaskKey, TaskSpec};

/// Room that the exit record surely needs, taken while there is some: a full disk must not lose it.
const EXIT_RESERVE: usize = 4096;

/// Characters of an engine's id of a container.
const CONTAINER_ID: usize = 64;

/// Paths of one task's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDir(PathBuf);

/// `task.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) spec: TaskSpec,
    /// The whole environment of the process, marker included.
    pub(crate) environment: BTreeMap<String, String>,
    /// Value of the marker variable; unique to this start.
    pub(crate) marker: String,
    /// Bytes of output that are kept.
    pub(crate) output_limit: u64,
}

/// `container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) key: TaskKey,
    /// The container's name.
    pub(crate) name: String,
    /// For messages.
    pub(crate) image: String,
    pub(crate) stop_signal: i32,
    /// Bytes.
    pub(crate) memory_limit: Option<u64>,
    /// The host's boot in which it was made.
    #[serde(default)]
    pub(crate) boot: String,
}

/// `started.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) shim: ProcessId,
    pub(crate) task: ProcessId,
}

impl TaskDir {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Spool of stdout and stderr; read it with [`crate::spool::Reader`].
    pub fn output(&self) -> PathBuf {
        self.0.join("output")
    }

    /// The plain file behind `$CONVOKE_METRICS`; read it with [`crate::spool::LineTail`].
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    /// Makes the directory, which must not hold a task yet, and all that a shim needs in it.
    pub(crate) fn create(&self, record: &TaskRecord) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        mkfifoat(CWD, self.control(), Mode::from_raw_mode(0o600))?;
        self.write("task.json", record)
    }

    /// Makes the directory of a task that will be a container.
    pub(crate) fn create_container(&self, record: &ContainerRecord) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.write("container.json", record)
    }

    pub(crate) fn container(&self) -> io::Result<Option<ContainerRecord>> {
        self.read("container.json")
    }

    /// Not fsynced: after a crash of the host the container's labels say it too.
    pub(crate) fn mark_created(&self, id: &str) -> io::Result<()> {
        fs::write(self.0.join("created"), id)
    }

    /// The id of the container, if it was made.
    pub(crate) fn created(&self) -> Option<String> {
        let is_id = |id: &String| id.len() == CONTAINER_ID && id.bytes().all(|b| b.is_ascii_hexdigit());
        fs::read_to_string(self.0.join("created")).ok().filter(is_id)
    }

    /// Its task is a container, whatever its files are worth.
    pub(crate) fn is_container(&self) -> bool {
        ["container.json", "created"].iter().any(|name| self.0.join(name).exists())
    }

    /// The task that the directory's name says.
    pub(crate) fn task(&self) -> Option<TaskKey> {
        TaskKey::of_directory(self.0.file_name()?.to_str()?)
    }

    pub(crate) fn mark_stopping(&self) -> io::Result<()> {
        File::create(self.0.join("stopping")).map(drop)
    }

    /// When its stop was noted.
    pub(crate) fn stopping_since(&self) -> Option<Timestamp> {
        let modified = fs::metadata(self.0.join("stopping")).and_then(|file| file.modified()).ok()?;
        let since = modified.duration_since(UNIX_EPOCH).ok()?;
        Some(Timestamp(u64::try_from(since.as_millis()).ok()?))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.join("stopping").exists()
    }

    pub(crate) fn log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.0.join("shim.log"))
    }

    pub(crate) fn record(&self) -> io::Result<Option<TaskRecord>> {
        self.read("task.json")
    }

    /// `None` also if that cannot be told any more.
    pub(crate) fn started(&self) -> io::Result<Option<Started>> {
        self.read_whole("started.json")
    }

    pub(crate) fn write_started(&self, started: &Started) -> io::Result<()> {
        self.write("started.json", started)
    }

    /// `None` also if how it ended cannot be told any more; then it [has one](Self::has_exit) all the same.
    pub(crate) fn exit(&self) -> io::Result<Option<TaskExit>> {
        self.read_whole("exit.json")
    }

    /// It has ended.
    pub(crate) fn has_exit(&self) -> bool {
        self.0.join("exit.json").exists()
    }

    /// The lock that says a shim lives; `None` while another holds it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.0.join("shim.lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes the disk space of the exit record while there is some.
    pub(crate) fn reserve_exit(&self) -> io::Result<()> {
        fs::write(self.0.join("exit.json.new"), [b' '; EXIT_RESERVE])
    }

    /// Writes the exit record; on disk when this returns. Only for who holds the lock.
    pub(crate) fn write_exit(&self, exit: &TaskExit) -> io::Result<()> {
        let mut bytes = json(exit)?;
        // Spaces after JSON mean nothing; they keep the file within the blocks it has already.
        bytes.resize(bytes.len().max(EXIT_RESERVE), b' ');
        self.replace("exit.json", &bytes)
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.replace(name, &json(value)?)
    }

    /// Readers see the old file or the whole new one, also after a crash.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.0.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        fs::rename(&temporary, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => {
                let damaged = |error| {
                    let file = self.0.join(name);
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is damaged: {error}", file.display()),
                    )
                };
                serde_json::from_slice(&bytes).map(Some).map_err(damaged)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The same; a damaged file is none.
    fn read_whole<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        whole(self.read(name)).map(Option::flatten)
    }
}

/// What was read, if it is not damaged.
pub(crate) fn whole<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        read => read.map(Some),
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(io::Error::other)
}
