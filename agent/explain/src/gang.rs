//! Which of a gang's tasks failed first.

use convoke_model::{ExitStatus, Rank, Timestamp};

use crate::rules::{Blame, is_stop};
use crate::signal;

/// How one task of a gang ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub rank: Rank,
    /// By its own node's clock.
    pub at: Timestamp,
    pub status: ExitStatus,
    /// Convoke had asked it to stop before it ended.
    pub stopped: bool,
    /// The cause in its explanation, if there is one.
    pub cause: Option<&'a str>,
}

impl Ended<'_> {
    /// That Convoke stopped it is all that is known of why it ended.
    pub fn only_followed(&self) -> bool {
        self.stopped && self.cause.is_none_or(is_stop)
    }
}

/// The rank whose end is the gang's cause, and the ranks that it took along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstFailure {
    pub rank: Rank,
    /// By rank.
    pub consequences: Vec<Consequence>,
}

/// A rank that failed because of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    pub rank: Rank,
    /// `rank 3: PeerLost`, for people.
    pub text: String,
}

/// Picks the task that failed first; None when none failed by itself.
///
/// A task that says only that it lost another one, or did not meet it, is behind every task with a
/// cause of its own, whatever the times: they are of several clocks. Among equals one that ended
/// before it was asked to stop comes first, then the earliest, and in the same millisecond one whose cause is known.
pub fn first_failure(tasks: &[Ended<'_>]) -> Option<FirstFailure> {
    let failed = || tasks.iter().filter(|task| !task.status.is_success());
    let first = failed()
        .filter(|task| !task.only_followed())
        .min_by_key(|task| (Blame::of(task.cause), task.stopped, task.at, task.cause.is_none(), task.rank))?;
    let mut consequences: Vec<Consequence> =
        failed().filter(|task| task.rank != first.rank).map(consequence).collect();
    consequences.sort_by_key(|consequence| consequence.rank);
    Some(FirstFailure { rank: first.rank, consequences })
}

fn consequence(task: &Ended<'_>) -> Consequence {
    let what = match (task.cause, task.status) {
        (Some(cause), _) => cause.to_owned(),
        (None, _) if task.stopped => "Stopped".to_owned(),
        (None, ExitStatus::Code(code)) => format!("exited with code {code}"),
        (None, ExitStatus::Signal(number)) => signal::name(number),
        (None, ExitStatus::Unknown) => "lost".to_owned(),
    };
    Consequence { rank: task.rank, text: format!("rank {}: {what}", task.rank) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(rank: u32, at: u64, cause: Option<&str>) -> Ended<'_> {
        Ended { rank: Rank(rank), at: Timestamp(at), status: ExitStatus::Code(1), stopped: false, cause }
    }

    fn texts(failure: &FirstFailure) -> Vec<&str> {
        failure.consequences.iter().map(|c| c.text.as_str()).collect()
    }

    #[test]
    fn a_lost_peer_is_a_consequence_even_by_a_clock_that_is_behind() {
        let stopped = Ended { stopped: true, status: ExitStatus::Signal(15), ..ended(2, 5, None) };
        let tasks = [ended(0, 10, Some("PeerLost")), ended(1, 400, Some("CudaOutOfMemory")), stopped];
        let failure = first_failure(&tasks).unwrap();
        assert_eq!(failure.rank, Rank(1));
        assert_eq!(texts(&failure), ["rank 0: PeerLost", "rank 2: Stopped"]);
        // Nobody to connect to, since it died before; but before a peer that was lost later.
        let tasks = [ended(0, 10, Some("NcclConnection")), ended(1, 400, None)];
        assert_eq!(first_failure(&tasks).unwrap().rank, Rank(1));
        let tasks = [ended(0, 10, Some("PeerLost")), ended(1, 400, Some("NcclConnection"))];
        assert_eq!(first_failure(&tasks).unwrap().rank, Rank(1));
    }

    #[test]
    fn the_earliest_failure_counts_known_or_not() {
        let tasks =
            [ended(0, 30, Some("PythonException")), ended(1, 20, None), ended(2, 20, Some("Segfault"))];
        let failure = first_failure(&tasks).unwrap();
        assert_eq!(
            (failure.rank, texts(&failure)),
            (Rank(2), vec!["rank 0: PythonException", "rank 1: exited with code 1"])
        );
        assert_eq!(first_failure(&tasks[..2]).unwrap().rank, Rank(1));
    }

    #[test]
    fn where_all_lost_each_other_the_earliest_is_named_and_a_stop_is_no_failure() {
        let tasks = [ended(0, 30, Some("PeerLost")), ended(1, 20, Some("CollectiveTimeout"))];
        assert_eq!(first_failure(&tasks).unwrap().rank, Rank(1));
        let own = Ended { stopped: true, ..ended(2, 10, Some("Segfault")) };
        assert_eq!(
            first_failure(&[tasks[0], tasks[1], own]).unwrap().rank,
            Rank(2),
            "it failed before its stop"
        );
        let stopped = Ended { stopped: true, ..ended(0, 1, Some("Stopped")) };
        let succeeded = Ended { status: ExitStatus::Code(0), ..ended(1, 1, None) };
        assert_eq!(first_failure(&[stopped, succeeded]), None);
    }
}
