//! A failed task's end is final for this agent's replica once it is explained.
//!
//! Until then the task counts as `Exited`: its failure is reported at once, and its replica does not end. Each is
//! explained once; the record keeps the answer for the next agent.

use std::sync::Arc;

use convoke_model::{Explanation, Rank, TaskExit};
use tokio::task::JoinSet;

use super::{Reconciler, Slot};
use crate::host::Host;
use crate::runtime::{TaskKey, TaskStatus};
use crate::work::{self, Ended};

/// An end that was asked about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Explained {
    Pending,
    Done(Option<Box<Explanation>>),
}

/// The answers to come: one for each task, each within its deadline.
pub(super) type Explaining = JoinSet<(TaskKey, Option<Box<Explanation>>)>;

impl Slot {
    /// The status as it is to be known, asking why where that is not known yet.
    pub(super) fn explained(
        &mut self,
        host: &Arc<Host>,
        explaining: &mut Explaining,
        task: TaskKey,
        seen: TaskStatus,
    ) -> TaskStatus {
        let known = match self.explained.get(&task.rank) {
            Some(Explained::Done(explanation)) => explanation.clone(),
            Some(Explained::Pending) | None => None,
        };
        let exit = match seen {
            TaskStatus::Ended(exit) if !exit.status.is_success() => exit,
            // Of an earlier agent's: it is being looked at again.
            TaskStatus::Exited(exit) => return TaskStatus::Exited(with(exit, known)),
            other => return other,
        };
        match self.explained.get(&task.rank) {
            Some(Explained::Done(_)) => TaskStatus::Ended(with(exit, known)),
            Some(Explained::Pending) => TaskStatus::Exited(exit),
            // What is over was reported as it was.
            None if self.record.ended => TaskStatus::Ended(exit),
            None => {
                self.explained.insert(task.rank, Explained::Pending);
                let usage = self.services.get(&task.rank).map(|services| services.usage());
                let desired = self.replica.desired.clone();
                let ended = Ended { task: task.clone(), desired, exit: exit.clone(), usage };
                let host = host.clone();
                explaining.spawn(async move { (task, work::explain(&host, ended).await) });
                TaskStatus::Exited(exit)
            }
        }
    }

    /// What an earlier agent found out.
    pub(super) fn recall(&mut self) {
        let known = self.record.explanations.iter();
        let done = |(rank, explanation): (&Rank, &Explanation)| {
            (*rank, Explained::Done(Some(Box::new(explanation.clone()))))
        };
        self.explained = known.map(done).collect();
    }
}

/// An exit, explained. The engine does not see every kill for memory that the kernel counted.
fn with(exit: TaskExit, explanation: Option<Box<Explanation>>) -> TaskExit {
    let for_memory = explanation.as_ref().is_some_and(|e| e.cause == "OutOfMemory");
    TaskExit { oom_killed: exit.oom_killed || for_memory, explanation, ..exit }
}

impl Reconciler {
    /// Takes an answer.
    pub(super) fn learn(&mut self, task: &TaskKey, explanation: Option<Box<Explanation>>) {
        let Some(slot) = self.slots.get_mut(&task.replica) else { return };
        if let Some(explanation) = &explanation {
            slot.record.explanations.insert(task.rank, (**explanation).clone());
            slot.write(&self.host);
        }
        slot.explained.insert(task.rank, Explained::Done(explanation));
    }
}
