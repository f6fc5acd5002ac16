//! What a rule is. The rules themselves are in [`rules`](crate::rules), in the order in which they
//! are asked: the first that holds is the answer.

/// When a rule holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum On {
    /// Convoke had asked the task to stop.
    Stopped,
    /// The kernel's out-of-memory killer took one of its processes.
    OomKilled,
    /// Nobody saw how it ended.
    Lost,
    /// The engine, or the shim, could not start it, with one of these words.
    Engine(Words),
    /// The exception (with its chain) that ended the program says one of these; where there is no
    /// traceback, one of the last lines does.
    Failure(Words),
    /// Some line says one of these, wherever it stands: words that are said of nothing else.
    Output(Words),
    /// As `Output`, where the line after it holds the message.
    Crash(Words),
    /// This signal ended the task, or by its launcher's word the worker that failed first.
    Signal(i32),
    /// It exited with this code.
    Code(i32),
    /// There is a traceback.
    Traceback,
    /// Its launcher says that a worker exited with a code.
    Worker,
}

/// Regular expressions, each read against single lines. Named groups fill the rule's sentences.
pub(crate) type Words = &'static [&'static str];

/// What must hold besides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Always,
    /// It used about all the memory that it may use.
    MemoryFull,
    /// Its `/dev/shm` was about full.
    ShmFull,
    /// It ended by SIGKILL.
    Killed,
    /// It exited with this code.
    Code(i32),
    /// Some line of the output holds one of these texts.
    Said(&'static [&'static str]),
}

/// One cause that is recognised by one kind of evidence.
///
/// In `summary` and `advice`, `{name}` is a named group of the words or a fact of the evidence, and
/// what stands in `[…]` is left out where one of its names is unknown.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) cause: &'static str,
    pub(crate) on: On,
    pub(crate) when: When,
    pub(crate) summary: &'static str,
    pub(crate) advice: &'static str,
    pub(crate) key: Option<&'static str>,
}

impl On {
    /// The words that it looks for.
    pub(crate) fn words(self) -> Words {
        match self {
            Self::Engine(words) | Self::Failure(words) | Self::Output(words) | Self::Crash(words) => words,
            _ => &[],
        }
    }
}
