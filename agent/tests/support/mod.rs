//! A scripted coordinator, and agents as the processes that they are.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of tests; each file uses some of it"
)]

mod agent;
mod coordinator;
mod files;
#[path = "../../src/testing.rs"]
mod testing;

use std::time::Duration;

use convoke_model::{DesiredReplica, RankLayout, Rendezvous, ReplicaGoal};

pub use agent::{Agent, Site};
pub use coordinator::{Coordinator, Memory};
pub use files::{Node, bind, container, digest_of, names, paths, tree};

/// No wait of a test is longer: what takes longer has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// One rank per device, each running `script` in a shell.
pub fn shell(job: &str, generation: u64, devices: &[&str], script: &str) -> DesiredReplica {
    let mut replica = testing::desired_replica(job, generation, 0, devices);
    replica.spec.layout = RankLayout::PerGpu;
    replica.spec.command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    replica
}

pub fn running(replica: &DesiredReplica) -> DesiredReplica {
    running_at(replica, testing::rendezvous(replica))
}

pub fn running_at(replica: &DesiredReplica, rendezvous: Rendezvous) -> DesiredReplica {
    DesiredReplica { goal: ReplicaGoal::Running(rendezvous), ..replica.clone() }
}

pub fn stopped(replica: &DesiredReplica, grace_ms: u64) -> DesiredReplica {
    DesiredReplica { goal: ReplicaGoal::Stopped { grace_ms }, ..replica.clone() }
}

/// Waits until `look` finds something outside of what the coordinator hears.
pub async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}
