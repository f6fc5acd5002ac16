//! Why a task ended.

use convoke_model::{Explanation, Rank};

use crate::v1;

impl From<Explanation> for v1::Explanation {
    fn from(explanation: Explanation) -> Self {
        let Explanation { cause, summary, evidence, advice, key, rank } = explanation;
        Self { cause, summary, evidence, advice, key, rank: rank.map(|r| r.0) }
    }
}

/// Within the bounds of the ledger, whoever made it.
impl From<v1::Explanation> for Explanation {
    fn from(wire: v1::Explanation) -> Self {
        let v1::Explanation { cause, summary, evidence, advice, key, rank } = wire;
        Self { cause, summary, evidence, advice, key, rank: rank.map(Rank) }.bounded()
    }
}

pub(super) fn boxed(wire: Option<v1::Explanation>) -> Option<Box<Explanation>> {
    wire.map(|explanation| Box::new(explanation.into()))
}
