//! The answer: what happened, what shows it, what to change.

use std::fmt::Write as _;

use convoke_model::Rank;

/// Why a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// A stable name for machines, as `OutOfMemory`.
    pub cause: &'static str,
    /// One sentence: what happened, with its numbers.
    pub summary: String,
    /// The task's very lines that show it, oldest first; at most [`MAX_EVIDENCE`](crate::MAX_EVIDENCE).
    pub evidence: Vec<String>,
    /// What to change, with the job file's key in backticks.
    pub advice: String,
    /// The job file's key to change, as a path in the service: `deploy.resources.limits.memory`.
    pub key: Option<&'static str>,
    /// The rank that it is about, where the evidence names the task's ranks.
    pub rank: Option<u32>,
}

/// Within the bounds of the ledger.
impl From<Explanation> for convoke_model::Explanation {
    fn from(explanation: Explanation) -> Self {
        let Explanation { cause, summary, evidence, advice, key, rank } = explanation;
        let (cause, key) = (cause.to_owned(), key.map(str::to_owned));
        Self { cause, summary, evidence, advice, key, rank: rank.map(Rank) }.bounded()
    }
}

impl Explanation {
    /// As the command line shows it: the cause, the lines that show it indented, what to try.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}: {}\n", self.cause, self.summary);
        for line in &self.evidence {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    {line}");
        }
        let _ = writeln!(text, "  try: {}", self.advice);
        text
    }
}
