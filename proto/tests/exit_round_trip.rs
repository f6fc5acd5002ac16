//! A task's end survives the wire with its explanation, and one that is too long for the ledger is cut there.

#![allow(clippy::unwrap_used, reason = "a helper's unwrap fails the test that calls it")]

use convoke_model::{
    ExitStatus, Explanation, ObservedTask, Rank, ReplicaKey, ReplicaPhase, TaskExit, TaskPhase, Timestamp,
};
use convoke_model::{Generation, JobId, NodeRank, ObservedReplica};
use convoke_proto::v1;
use prost::Message as _;

fn explanation(line: &str) -> Box<Explanation> {
    Box::new(Explanation {
        cause: "OutOfMemory".to_owned(),
        summary: "the kernel killed it".to_owned(),
        evidence: vec![line.to_owned(); 2],
        advice: "raise `deploy.resources.limits.memory`".to_owned(),
        key: Some("deploy.resources.limits.memory".to_owned()),
        rank: Some(Rank(3)),
    })
}

fn replica(phase: ReplicaPhase, exit: TaskExit) -> ObservedReplica {
    let key = ReplicaKey { job: JobId::new("j").unwrap(), generation: Generation(1), node_rank: NodeRank(0) };
    let tasks = vec![ObservedTask { rank: Rank(3), phase: TaskPhase::Exited(exit) }];
    ObservedReplica { key, phase, tasks, progress: None, conditions: Vec::new() }
}

fn sent(replica: ObservedReplica) -> ObservedReplica {
    let bytes = v1::ObservedReplica::from(replica).encode_to_vec();
    v1::ObservedReplica::decode(bytes.as_slice()).unwrap().try_into().unwrap()
}

#[test]
fn an_end_and_a_refusal_keep_their_explanations() {
    let exit = TaskExit {
        stopped: true,
        message: Some("said".to_owned()),
        oom_killed: true,
        explanation: Some(explanation("Killed")),
        ..TaskExit::new(ExitStatus::Signal(9), Timestamp(7))
    };
    let refused = ReplicaPhase::Refused {
        message: "no image".to_owned(),
        retryable: false,
        explanation: Some(explanation("not found")),
    };
    for replica in [
        replica(ReplicaPhase::Ended, exit.clone()),
        replica(refused, exit),
        replica(ReplicaPhase::Started, TaskExit::new(ExitStatus::Code(1), Timestamp(7))),
    ] {
        assert_eq!(sent(replica.clone()), replica);
    }
}

#[test]
fn an_explanation_that_is_too_long_for_the_ledger_is_cut_where_it_comes_in() {
    let mut long = explanation(&"x".repeat(5_000));
    long.evidence.resize(100, "y".to_owned());
    let exit =
        TaskExit { explanation: Some(long.clone()), ..TaskExit::new(ExitStatus::Code(1), Timestamp(7)) };
    let TaskPhase::Exited(exit) = sent(replica(ReplicaPhase::Ended, exit)).tasks.remove(0).phase else {
        panic!("it has ended");
    };
    assert_eq!(exit.explanation, Some(Box::new(long.bounded())));
}

#[test]
fn a_record_from_before_there_were_explanations_is_read() {
    let exit: TaskExit =
        serde_json::from_str(r#"{"status":{"code":1},"at":7,"stopped":false,"message":null}"#).unwrap();
    assert_eq!(exit, TaskExit::new(ExitStatus::Code(1), Timestamp(7)));
}
