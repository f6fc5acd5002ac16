//! Why a task ended, as its agent found out.

use serde::{Deserialize, Serialize};

use crate::Rank;

/// What happened, what shows it, what to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// A stable name for machines, as `OutOfMemory`.
    pub cause: String,
    /// One sentence: what happened, with its numbers.
    pub summary: String,
    /// The task's very lines that show it, oldest first.
    pub evidence: Vec<String>,
    /// What to change, with the job file's key in backticks.
    pub advice: String,
    /// The job file's key to change, as a path in the service: `deploy.resources.limits.memory`.
    #[serde(default)]
    pub key: Option<String>,
    /// The rank that it is about, where that is known: a task of several ranks fails by one of them.
    #[serde(default)]
    pub rank: Option<Rank>,
}

impl Explanation {
    /// Lines that are kept: a screen's share, and enough for a traceback's two ends.
    pub const MAX_EVIDENCE: usize = 12;
    /// Bytes that are kept of each: they are in the ledger, and in every report of the node.
    pub const MAX_LINE: usize = 300;
    /// Bytes that are kept of every other text: room for a sentence, and for a name in it.
    pub const MAX_TEXT: usize = 1024;

    /// Within the bounds above; what is too long is cut, and says so.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.evidence.truncate(Self::MAX_EVIDENCE);
        self.evidence.iter_mut().for_each(|line| cut(line, Self::MAX_LINE));
        [&mut self.cause, &mut self.summary, &mut self.advice]
            .into_iter()
            .chain(self.key.as_mut())
            .for_each(|text| cut(text, Self::MAX_TEXT));
        self
    }
}

fn cut(text: &mut String, max: usize) {
    const MARK: &str = "…";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MARK.len()));
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_the_ledger_is_cut_between_characters() {
        let long = |bytes: usize| "é".repeat(bytes / 2);
        let explanation = Explanation {
            cause: "PythonException".to_owned(),
            summary: long(4000),
            evidence: vec![long(1000); 40],
            advice: "fix it".to_owned(),
            key: None,
            rank: None,
        }
        .bounded();
        assert_eq!(explanation.evidence.len(), Explanation::MAX_EVIDENCE);
        assert!(explanation.evidence.iter().all(|line| line.len() <= 300 && line.ends_with("é…")));
        assert!(explanation.summary.len() <= Explanation::MAX_TEXT && explanation.advice == "fix it");
        assert_eq!(explanation.clone().bounded(), explanation);
    }
}
