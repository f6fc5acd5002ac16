//! Times and bounds of the rules. Every bound has its reason beside it.

use std::time::Duration;

/// Times that an operator may change; tests shorten them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a node is believed alive without being heard.
    pub lease: Duration,
    /// How long after a start of the coordinator no node is judged: agents reconnect in it.
    pub reconnect_window: Duration,
    /// How long a gang may take from its placement until every replica is ready, and again from
    /// its release until every task runs. Images and checkpoints are fetched in it.
    pub prepare_timeout: Duration,
    /// How long past its grace a replica may take to end before people are told.
    pub drain_slack: Duration,
    /// What the coordinator waits on top of a job's `fence` before it believes in it.
    pub fence_margin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            reconnect_window: Duration::from_secs(15),
            prepare_timeout: Duration::from_secs(300),
            drain_slack: Duration::from_secs(30),
            fence_margin: Duration::from_secs(5),
        }
    }
}

/// Jobs that have not ended. Each is looked at on every event: at some microseconds a job, a
/// thousand keep a decision within milliseconds.
pub const MAX_ACTIVE_JOBS: usize = 1_000;
/// Ended jobs that are remembered, with their idempotency keys and checkpoints; the ledger stays
/// within some megabytes.
pub const MAX_ENDED_JOBS: usize = 1_000;
/// Registered nodes: above the largest gang's needs, and a snapshot still takes a second.
pub const MAX_NODES: usize = 10_000;
/// Groups of one generation that may publish a unique id: data, tensor, pipeline and expert
/// parallelism of a thousand ranks need some hundreds.
pub const MAX_UNIQUE_ID_GROUPS: usize = 1_024;
/// Partial checkpoints of one generation. A trainer is at most a few steps ahead of its uploads;
/// past this the oldest partial one is given up.
pub const MAX_PARTIAL_CHECKPOINTS: usize = 8;
/// Replicas that a node may report; above anything one host runs.
pub const MAX_OBSERVED_REPLICAS: usize = 10_000;
/// Placements in a row that an agent may refuse for a passing reason (a port taken, a disk busy)
/// before they are charged to the job.
pub const FREE_PLACEMENTS: u32 = 5;
