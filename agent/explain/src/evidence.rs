//! What is known of a task that ended.

use convoke_model::ExitStatus;

/// Which stream a line was said on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Stdout,
    Stderr,
}

/// One line of a task's output, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub source: Source,
    pub text: &'a str,
}

/// What is known of one task that ended. Everything but the exit may be unknown.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// A container's 128 + N and a process's signal N are read alike.
    pub exit: ExitStatus,
    /// The kernel killed some process of the task for memory.
    pub oom_killed: bool,
    /// Convoke had asked it to stop before it ended, when it had said so many lines of `tail`.
    pub stopped: Option<usize>,
    /// Its first rank, and how many it has.
    pub ranks: Option<(u32, u32)>,
    /// Bytes it may use, and the most that it used.
    pub memory_limit: Option<u64>,
    pub memory_peak: Option<u64>,
    /// Bytes of its `/dev/shm`, and the most that were in use.
    pub shm_size: Option<u64>,
    pub shm_peak: Option<u64>,
    /// Its last lines, oldest first. Only the end of a longer tail is read.
    pub tail: &'a [Line<'a>],
    pub command: &'a [String],
    pub image: Option<&'a str>,
    /// Why it could not be started, as the engine or the shim said it.
    pub runtime_error: Option<&'a str>,
    /// The interface and address over which the job's nodes talk.
    pub data_interface: Option<&'a str>,
    pub data_address: Option<&'a str>,
    pub node: Option<&'a str>,
}

impl Evidence<'_> {
    /// An exit of which nothing else is known.
    pub fn new(exit: ExitStatus) -> Self {
        Self {
            exit,
            oom_killed: false,
            stopped: None,
            ranks: None,
            memory_limit: None,
            memory_peak: None,
            shm_size: None,
            shm_peak: None,
            tail: &[],
            command: &[],
            image: None,
            runtime_error: None,
            data_interface: None,
            data_address: None,
            node: None,
        }
    }
}

/// The signal behind an exit: a shell and a container engine report signal N as code 128 + N.
pub(crate) fn signal(exit: ExitStatus) -> Option<i32> {
    match exit {
        ExitStatus::Signal(signal) => Some(signal),
        // Above 31 are real-time signals, which nobody dies of, and codes such as 255.
        ExitStatus::Code(code) if (129..=159).contains(&code) => Some(code - 128),
        ExitStatus::Code(_) | ExitStatus::Unknown => None,
    }
}

/// Uses of at least 19 parts in 20 count as full: the last allocation asked for more than was left.
pub(crate) fn nearly_full(used: Option<u64>, size: Option<u64>) -> bool {
    matches!((used, size), (Some(used), Some(size)) if size > 0 && used >= size - size / 20)
}
