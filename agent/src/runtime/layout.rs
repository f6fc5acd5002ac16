//! A task's directory: the files by which the agent, the shim and the next agent agree.
//!
//! ```text
//! <state>/tasks/<job>.g<generation>.n<node rank>.r<rank>/
//!   task.json     what to run; written by the agent before the shim starts
//!   shim.lock     held exclusively by the shim for as long as it lives
//!   shim.log      what the shim itself had to say
//!   control       FIFO: requests to the shim, a line each
//!   started.json  process ids with start times
//!   exit.json     how the main process ended; fsynced
//!   output/       spool of stdout and stderr
//!   metrics.jsonl $CONVOKE_METRICS
//! ```
//! Both job id and numbers are safe in a file name (`JobId` allows no `/`).

use std::path::{Path, PathBuf};

/// Paths of one task's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDir(PathBuf);

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
}
