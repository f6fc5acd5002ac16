//! What the services of one project share: names, and files that one leaves to the next.

use std::net::IpAddr;

use convoke_core::*;
use convoke_model::*;

use crate::harness::{Harness, after, service};
use crate::support::{info, node_id, spec};

/// Nodes that are reached at 10.0.0.1, 10.0.0.2, …
fn cluster(nodes: &[(&str, u32)]) -> Harness {
    let mut h = Harness::new();
    for (n, (name, slots)) in (1..).zip(nodes) {
        let at = |interface: &str, address: String| NodeAddress {
            interface: interface.to_owned(),
            address: address.parse::<IpAddr>().unwrap(),
        };
        let addresses = vec![at("eth0", format!("10.0.0.{n}")), at("ib0", format!("10.1.0.{n}"))];
        h.connect(NodeInfo { addresses, ..info(name, *slots) });
    }
    h
}

fn on(node: &str, spec: JobSpec) -> JobSpec {
    let constraint = Constraint { subject: ConstraintSubject::Id, equal: true, value: node.to_owned() };
    JobSpec { constraints: vec![constraint], ..spec }
}

/// What the job's replica on a node is told.
fn told(h: &Harness, node: &str, job: &JobId) -> DesiredReplica {
    let desired = h.core.desired(&node_id(node)).expect("the node is registered");
    desired.replicas.into_iter().find(|replica| replica.job == *job).expect("it is placed there")
}

fn names(h: &Harness, node: &str, job: &JobId) -> Vec<String> {
    let ReplicaGoal::Running(rendezvous) = told(h, node, job).goal else { panic!("it is not released") };
    rendezvous.services.iter().map(|s| format!("{} {}", s.name, s.address)).collect()
}

#[test]
fn a_service_is_told_where_the_others_are_by_all_their_names() {
    let mut h = cluster(&[("a", 4), ("b", 4)]);
    let mut db = on("b", service("db"));
    db.container.container_name = Some("my_db".to_owned());
    db.container.aliases = vec!["store".to_owned(), "web".to_owned()];
    h.submit(db);
    h.submit(on("b", JobSpec { interface: Some("ib0".to_owned()), ..service("cache") }));
    h.submit(JobSpec { project: "another".to_owned(), ..service("elsewhere") });
    h.follow_all();
    let web = h.submit(on("a", after("web", "db", DependsCondition::Started)));
    h.follow_all();
    // The job's own name is its own, whatever others are also called.
    assert_eq!(names(&h, "a", &web), ["cache 10.1.0.2", "db 10.0.0.2", "my_db 10.0.0.2", "store 10.0.0.2"]);
}

#[test]
fn a_service_that_is_placed_and_not_started_yet_is_found_and_one_that_waits_or_has_ended_is_not() {
    let mut h = cluster(&[("a", 4), ("b", 1)]);
    let done = h.submit(on("a", service("done")));
    h.follow_all();
    h.end_all(&done, ExitStatus::Code(0));
    h.submit(on("b", service("placed")));
    h.submit(on("b", service("queued")));
    let web = h.submit(on("a", service("web")));
    for _ in 0..3 {
        h.follow(&node_id("a"));
    }
    assert_eq!(names(&h, "a", &web), ["placed 10.0.0.2"]);
}

#[test]
fn the_name_of_a_gang_is_node_rank_0_and_the_next_generation_is_told_anew() {
    let mut h = cluster(&[("a", 1), ("b", 2), ("c", 2)]);
    let gang = h.submit(JobSpec { service: "gang".to_owned(), ..spec("gang", 2, 2) });
    h.follow_all();
    let mut web = on("a", service("web"));
    web.restart.application = Some(1);
    let web = h.submit(web);
    h.follow_all();
    assert_eq!(names(&h, "a", &web), ["gang 10.0.0.2"]);
    let before = told(&h, "a", &web);
    h.ok(Event::Stop { job: gang, grace: None });
    h.follow_all();
    assert_eq!(told(&h, "a", &web), before, "what runs is not disturbed");
    h.end_all(&web, ExitStatus::Code(1));
    h.follow_all();
    assert_eq!(h.job(&web).generation, Generation(2));
    assert_eq!(names(&h, "a", &web), Vec::<String>::new());
}

fn mount(source: &str, read_only: bool, content: bool) -> Mount {
    Mount {
        kind: MountKind::Bind,
        source: source.to_owned(),
        target: format!("/w/{source}"),
        read_only,
        content: content.then_some(TreeRef { digest: Digest([1; 32]), files: 0, bytes: 0 }),
        shared: None,
    }
}

fn with(mut spec: JobSpec, volumes: Vec<Mount>) -> JobSpec {
    spec.project_dir = "/home/me/job".to_owned();
    spec.container.volumes = volumes;
    spec
}

fn predecessors(h: &Harness, node: &str, job: &JobId) -> Vec<(String, bool)> {
    let told = told(h, node, job).predecessors;
    told.into_iter().map(|before| (before.job.to_string(), before.ended_before)).collect()
}

const DONE: DependsCondition = DependsCondition::CompletedSuccessfully;

fn run_out(h: &mut Harness, job: &JobId) {
    h.follow_all();
    h.end_all(job, ExitStatus::Code(0));
    assert_eq!(h.state(job), JobState::Succeeded);
}

#[test]
fn a_service_starts_with_the_files_of_those_that_it_waited_for_as_far_as_their_mounts_meet() {
    let mut h = cluster(&[("a", 4)]);
    let first = h.submit(with(service("first"), vec![mount("./data", false, true)]));
    // Its name is before the other's, and it came after.
    let also = with(after("also", "first", DONE), vec![mount(".", false, true), mount("./in", true, true)]);
    let also = h.submit(also);
    let other = with(service("other"), vec![mount("./else", false, true), mount("./data", true, true)]);
    let other = h.submit(other);
    let own = h.submit(with(service("own"), vec![mount("./data", false, false)]));
    let mut train = after("train", "also", DONE);
    train.container.depends_on.extend([("other".to_owned(), DONE), ("own".to_owned(), DONE)]);
    let train = h.submit(with(train, vec![mount("./data/raw", true, true)]));
    for job in [&first, &also, &other, &own] {
        run_out(&mut h, job);
    }
    let expected = [(first.to_string(), false), (also.to_string(), false)];
    assert_eq!(predecessors(&h, "a", &train), expected);
    let told = told(&h, "a", &train).predecessors;
    assert_eq!(told[1].volumes, [mount(".", false, true)], "what it could not write to brings nothing");
    assert_eq!(told[1].project_dir, "/home/me/job");
}

#[test]
fn what_had_ended_before_the_submit_is_told_as_such_and_stays_the_same_job_for_every_generation() {
    let mut h = cluster(&[("a", 4)]);
    let prep = || with(service("prep"), vec![mount("./data", false, true)]);
    let first = h.submit(prep());
    run_out(&mut h, &first);
    h.pass(std::time::Duration::from_secs(1));
    let mut train = with(after("train", "prep", DONE), vec![mount("./data", true, true)]);
    train.restart.application = Some(1);
    let train = h.submit(train);
    h.follow_all();
    assert_eq!(predecessors(&h, "a", &train), [(first.to_string(), true)]);
    let second = h.submit(prep());
    run_out(&mut h, &second);
    h.end_all(&train, ExitStatus::Code(1));
    h.follow_all();
    assert_eq!(h.job(&train).generation, Generation(2));
    assert_eq!(predecessors(&h, "a", &train), [(first.to_string(), true)]);
}

#[test]
fn a_service_waits_for_files_that_are_on_their_way_if_it_mounts_them() {
    let mut h = cluster(&[("a", 4)]);
    let prep = h.submit(with(service("prep"), vec![mount("./data", false, true)]));
    let train = h.submit(with(after("train", "prep", DONE), vec![mount("./data", true, true)]));
    let log = h.submit(with(after("log", "prep", DONE), vec![mount("./logs", true, true)]));
    h.follow_all();
    let key = told(&h, "a", &prep).key();
    let returning = |report: &mut ObservedState| {
        let replica = report.replicas.iter_mut().find(|replica| replica.key == key).unwrap();
        let name = Condition::RETURNING_FILES.to_owned();
        replica.conditions.push(Condition { name, message: String::new() });
    };
    h.edit_report("a", returning);
    h.end_all(&prep, ExitStatus::Code(0));
    assert_eq!(h.state(&log), JobState::Starting);
    assert_eq!(h.state(&train), JobState::Queued);
    assert_eq!(h.job(&train).reason, "waits for job \"prep\" to bring back its files");
    h.edit_report("a", |report| report.replicas.iter_mut().for_each(|replica| replica.conditions.clear()));
    assert_eq!(h.state(&train), JobState::Starting);
}

#[test]
fn a_job_whose_files_another_starts_with_is_not_forgotten_before_that_one_has_ended() {
    let mut h = cluster(&[("a", 4)]);
    let prep = h.submit(with(service("prep"), vec![mount("./data", false, true)]));
    let train = h.submit(with(after("train", "prep", DONE), vec![mount("./data", true, true)]));
    run_out(&mut h, &prep);
    // While it runs, those that follow wait.
    h.submit(service("rest"));
    let end_many = |h: &mut Harness, name: &str| {
        for _ in 0..MAX_ENDED_JOBS {
            h.now = h.now.after(std::time::Duration::from_millis(1));
            let job = h.submit(JobSpec { service: name.to_owned(), ..spec(name, 1, 4) });
            h.ok(Event::Stop { job, grace: None });
        }
    };
    end_many(&mut h, "one");
    assert_eq!(predecessors(&h, "a", &train), [(prep.to_string(), false)]);
    h.ok(Event::Stop { job: train, grace: None });
    h.follow_all();
    end_many(&mut h, "another");
    assert_eq!(h.core.job(&prep), None);
}
