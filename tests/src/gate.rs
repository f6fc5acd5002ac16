//! A gate: tasks of `/bin/sh` wait at it, without polling, until the test opens it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A FIFO. A task waits with [`Gate::wait`]; once open, it stays open for all that come later.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    open: Option<File>,
}

/// Passes through one gate; each takes a line. Far below a pipe's 64 KiB.
const PASSES: usize = 1_000;

impl Gate {
    pub fn new(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("{name}.gate"));
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO can be made");
        Self { path, open: None }
    }

    /// The shell command that waits until the gate is open.
    pub fn wait(&self) -> String {
        format!("read _ < {}", self.path.display())
    }

    /// Lets everyone through, now and later.
    pub fn open(&mut self) {
        // Opened for both, it does not wait for a reader, and keeps what is written.
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path).expect("the FIFO is there");
        file.write_all(&vec![b'\n'; PASSES]).expect("a FIFO holds 64 KiB");
        self.open = Some(file);
    }
}
