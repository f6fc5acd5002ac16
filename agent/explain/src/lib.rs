//! Why a task ended: a cause, the lines that show it, and the key of the job file to change.
//!
//! Pure: [`explain`] is given the [`Evidence`] on one ended task and gives an [`Explanation`], or
//! nothing where no rule knows better than the last lines. [`first_failure`] is given the ends of a
//! gang's tasks and says which failed first; what the others say is a consequence.
//!
//! How it goes: the end of the tail is cleaned and cut (`tail`), Python's tracebacks are found and
//! the one that counts is chosen (`traceback`), a launcher's word on its workers is read
//! (`worker`), and every line is read against the words of all rules at once (`table`). Then the
//! rules are asked in their order (`rules`); the first that holds fills its sentences
//! (`template`) with what its words caught and with the facts of the evidence (`facts`).
//!
//! The rules are data. Their order: our own stop, unless a failure of the task's own came before; what the engine said of a task that could not
//! start; the kernel's out-of-memory kill; shared memory; GPUs; ports, networks and lost peers;
//! files; modules and arguments; signals; any traceback; exit codes. A rule reads only the exception
//! that ended the program, where there is one, unless its words are said of nothing else.
//!
//! Of a task's many tracebacks the first counts, but not a launcher's (torchrun's
//! `ChildFailedError` says only that a worker failed), and one that was logged or that only says
//! that another worker went away counts behind the others. In a chain ("During handling of the
//! above exception") the exception that was raised first is told apart from the one that ended the
//! program; of an exception that quotes the original of a worker process, the original counts.
//!
//! Bounds: 400 lines of 1 KiB are read, with regular expressions that run in linear time; at most 12
//! lines are shown. Nothing here fails: what cannot be read is not evidence.

mod evidence;
#[cfg(test)]
mod excerpts;
mod explanation;
mod facts;
mod findings;
mod gang;
mod rule;
mod rules;
mod signal;
mod table;
mod tail;
mod tell;
mod template;
mod traceback;
mod worker;

pub use evidence::{Evidence, Line, Source};
pub use explanation::Explanation;
pub use gang::{Consequence, Ended, FirstFailure, first_failure};
pub use rules::{is_consequence, is_stop};
pub use tail::{MAX_LINE, MAX_LINES};

use findings::Findings;
use table::table;

/// Lines that an explanation shows: a screen's share, and enough for a traceback's two ends.
pub const MAX_EVIDENCE: usize = convoke_model::Explanation::MAX_EVIDENCE;

/// Says why a task ended. None for one that succeeded, and where nothing is recognised.
pub fn explain(evidence: &Evidence<'_>) -> Option<Explanation> {
    if evidence.exit.is_success() && evidence.stopped.is_none() && evidence.runtime_error.is_none() {
        return None;
    }
    let findings = Findings::of(evidence);
    let mut rules = table().rules.iter().enumerate();
    rules.find_map(|(i, rule)| findings.holds(i, rule).map(|hit| tell::tell(&findings, i, rule, hit)))
}
