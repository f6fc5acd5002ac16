//! A job's first start waits for the services that it depends on.

use convoke_model::*;

use crate::harness::{Harness, after, service};

fn say(h: &mut Harness, job: &JobId, health: Option<Health>) {
    let node = h.job(job).replicas[0].placement.node.clone();
    h.edit_report(node.as_str(), |report| {
        let replica = report.replicas.iter_mut().find(|r| r.key.job == *job).unwrap();
        replica.tasks[0].phase = TaskPhase::Running { pid: 1, health };
    });
}

#[test]
fn a_service_starts_once_what_it_needs_runs_whichever_was_submitted_first() {
    let mut h = Harness::with_nodes(&[("a", 4)]);
    let web = h.submit(after("web", "db", DependsCondition::Started));
    assert_eq!(h.state(&web), JobState::Queued);
    assert!(h.job(&web).reason.contains("service db, which is not submitted"), "{}", h.job(&web).reason);
    let db = h.submit(service("db"));
    assert_eq!(h.job(&web).reason, "waits for job \"db\" to run");
    h.follow_all();
    assert_eq!((h.state(&db), h.state(&web)), (JobState::Running, JobState::Running));
}

#[test]
fn a_service_waits_until_the_other_says_that_it_is_healthy() {
    let mut h = Harness::with_nodes(&[("a", 4)]);
    let db = h.submit(service("db"));
    let web = h.submit(after("web", "db", DependsCondition::Healthy));
    h.follow_all();
    assert!(h.job(&web).reason.contains("no health check"), "{}", h.job(&web).reason);
    say(&mut h, &db, Some(Health::Starting));
    assert_eq!(h.job(&web).reason, "waits for job \"db\" to be healthy");
    say(&mut h, &db, Some(Health::Unhealthy));
    assert!(h.job(&web).reason.contains("fails now"), "{}", h.job(&web).reason);
    say(&mut h, &db, Some(Health::Healthy));
    assert_eq!(h.state(&web), JobState::Starting);
}

#[test]
fn a_service_is_not_healthy_while_its_node_is_not_heard_or_does_not_know_it() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let db = h.submit(service("db"));
    h.follow_all();
    say(&mut h, &db, Some(Health::Healthy));
    let node = h.job(&db).replicas[0].placement.node.clone();
    h.disconnect(node.as_str());
    let web = h.submit(after("web", "db", DependsCondition::Healthy));
    assert_eq!(h.job(&web).reason, "waits for job \"db\" to be healthy");
}

#[test]
fn a_service_waits_for_the_end_of_another_and_fails_with_it() {
    let mut h = Harness::with_nodes(&[("a", 4)]);
    let done = DependsCondition::CompletedSuccessfully;
    // In an order in which the failure has to travel backwards.
    let last = h.submit(after("last", "middle", done));
    let middle = h.submit(after("middle", "first", done));
    let first = h.submit(service("first"));
    h.follow_all();
    h.end_all(&first, ExitStatus::Code(1));
    h.follow_all();
    assert_eq!(h.state(&first), JobState::Failed);
    assert_eq!((h.state(&middle), h.state(&last)), (JobState::Failed, JobState::Failed));
    assert!(h.job(&middle).reason.contains("depends on job \"first\""), "{}", h.job(&middle).reason);

    let again = h.submit(service("first"));
    let middle = h.submit(after("middle", "first", done));
    h.follow_all();
    assert_eq!(h.state(&middle), JobState::Queued);
    h.end_all(&again, ExitStatus::Code(0));
    assert_eq!(h.state(&middle), JobState::Starting);
}

#[test]
fn a_later_generation_does_not_ask_again() {
    let mut h = Harness::with_nodes(&[("a", 4)]);
    let db = h.submit(service("db"));
    let web = h.submit(after("web", "db", DependsCondition::Started));
    h.follow_all();
    h.end_all(&db, ExitStatus::Code(0));
    h.end_task(&web, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!((h.state(&web), h.job(&web).generation), (JobState::Running, Generation(2)));
}

#[test]
fn a_service_of_the_same_name_in_another_project_is_another_service() {
    let mut h = Harness::with_nodes(&[("a", 4)]);
    h.submit(JobSpec { project: "other".to_owned(), ..service("db") });
    let web = h.submit(after("web", "db", DependsCondition::Started));
    h.follow_all();
    assert_eq!(h.state(&web), JobState::Queued);
}
