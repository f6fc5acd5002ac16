//! Tasks that can never start fail by name, at once, and are not tried again.

use convoke_proto::v1;
use convoke_proto::v1::task_exit::Status;
use convoke_tests::{Job, LocalCluster, sh};

async fn fails_with(job: Job, code: i32, words: &[&str]) {
    let cluster = LocalCluster::start(&[1]).await;
    let id = cluster.submit(&job).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    assert_eq!(job.generation, 1, "it was tried again");
    let failure = job.last_failure.expect("a failure");
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(Status::Code(code)));
    for word in words {
        assert!(job.reason.contains(word), "\"{}\" does not say \"{word}\"", job.reason);
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_missing_program_fails_the_job_with_127_and_its_name() {
    fails_with(Job::new("missing", ["/no/such/trainer", "--fast"]), 127, &["/no/such/trainer"]).await;
}

#[tokio::test]
async fn a_program_that_is_not_executable_fails_the_job_with_126() {
    fails_with(Job::new("not-executable", ["/etc/passwd"]), 126, &["/etc/passwd"]).await;
}

#[tokio::test]
async fn a_missing_working_directory_fails_the_job_by_its_name_and_node() {
    let cluster = LocalCluster::start(&[1]).await;
    let there = |spec: &mut v1::JobSpec| spec.working_dir = Some("/no/such/directory".to_owned());
    let id = cluster.submit(&sh("nowhere", "true").with(there)).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    assert_eq!(job.generation, 1, "it was tried again");
    for word in ["/no/such/directory", "node-0"] {
        assert!(job.reason.contains(word), "\"{}\" does not say \"{word}\"", job.reason);
    }
    cluster.finish().await;
}
