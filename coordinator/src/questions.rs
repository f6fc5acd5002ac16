//! Questions to agents, while their answers are on the way: a caller's request waits here for what the agents
//! say on their control streams, for as long as it likes to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convoke_model::NodeId;
use tokio::sync::mpsc;

/// Questions that wait. Each is over within seconds; beyond this somebody is looping.
const MAX_WAITING: usize = 64;

/// What one node sees, a value of `MarkerSight` for each marker of the question.
pub(crate) type Sights = Vec<i32>;

#[derive(Default, Clone)]
pub(crate) struct Questions(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    asked: u64,
    waiting: HashMap<u64, mpsc::Sender<(NodeId, Sights)>>,
}

/// A question that waits for answers; dropped, it is forgotten.
pub(crate) struct Question {
    questions: Questions,
    pub(crate) id: u64,
    pub(crate) answers: mpsc::Receiver<(NodeId, Sights)>,
}

impl Questions {
    /// A question to so many nodes; `None` when too many wait.
    pub(crate) fn open(&self, nodes: usize) -> Option<Question> {
        let mut table = self.table();
        if table.waiting.len() >= MAX_WAITING {
            return None;
        }
        table.asked += 1;
        let (id, (sender, answers)) = (table.asked, mpsc::channel(nodes.max(1)));
        table.waiting.insert(id, sender);
        Some(Question { questions: self.clone(), id, answers })
    }

    /// Hands an answer to who waits for it. One that comes too late, or once more, is dropped.
    pub(crate) fn answer(&self, id: u64, node: NodeId, sights: Sights) {
        if let Some(waiting) = self.table().waiting.get(&id) {
            let _ = waiting.try_send((node, sights));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.questions.table().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_its_question_and_no_other_and_none_that_is_over() {
        let questions = Questions::default();
        let node = NodeId::new("n").unwrap();
        let (mut first, mut second) = (questions.open(1).unwrap(), questions.open(1).unwrap());
        questions.answer(second.id, node.clone(), vec![1]);
        assert!(first.answers.try_recv().is_err());
        assert_eq!(second.answers.try_recv().unwrap(), (node.clone(), vec![1]));
        let over = first.id;
        drop(first);
        questions.answer(over, node, vec![1]);
    }

    #[test]
    fn questions_that_wait_are_bounded() {
        let questions = Questions::default();
        let all: Vec<_> = (0..MAX_WAITING).map(|_| questions.open(1).unwrap()).collect();
        assert!(questions.open(1).is_none());
        drop(all);
        assert!(questions.open(1).is_some());
    }
}
