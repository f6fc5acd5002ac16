//! Starting a container, and what keeps one from starting.

use std::time::Duration;

use convoke_agent::runtime::{Runtime as _, RuntimeError, TaskStatus};
use convoke_agent::spool::Source;
use convoke_model::{ExitStatus, Generation, Health, Healthcheck, JobId, PortMapping};

use super::host::{DEADLINE, Host, block_on};

pub(super) fn a_container_that_returns_zero_or_three_is_reported_so() {
    block_on(async {
        let host = Host::new().await;
        for (rank, code) in [(0, 0), (1, 3)] {
            let task = host.start(rank, &format!("echo out; echo err >&2; exit {code}")).await;
            let exit = host.ended(&task).await;
            assert_eq!((exit.status, exit.stopped, exit.message), (ExitStatus::Code(code), false, None));
            let mut lines = host.lines(&task);
            lines.sort_by_key(|line| line.source == Source::Stderr);
            assert_eq!(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["out", "err"]);
            assert_eq!(host.containers().await.len(), 1, "it is kept until it is removed");
            host.runtime.remove(&task).await.unwrap();
            assert_eq!((host.containers().await.len(), host.directories()), (0, 0));
            assert_eq!(host.runtime.status(&task), None);
        }
    });
}

pub(super) fn a_failed_start_leaves_no_container_and_no_directory() {
    block_on(async {
        let host = Host::new().await;
        let mut spec = host.spec(0, &["true"]);
        spec.container.as_mut().unwrap().options.devices = vec!["/dev/convoke-no-such-device".into()];
        let error = host.runtime.start(spec.clone()).await.unwrap_err();
        assert!(error.to_string().contains("convoke-no-such-device"), "{error}");
        assert_eq!((host.containers().await.len(), host.directories()), (0, 0));
        assert_eq!(host.runtime.tasks(), Vec::new());
        // And it can be tried again.
        spec.container.as_mut().unwrap().options.devices.clear();
        let task = host.start_spec(spec).await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
    });
}

pub(super) fn a_command_that_is_not_in_the_image_is_127_by_name() {
    block_on(async {
        let host = Host::new().await;
        for (rank, init) in [(0, true), (1, false)] {
            let mut spec = host.spec(rank, &["convoke-no-such-trainer", "--epochs"]);
            spec.container.as_mut().unwrap().options.init = Some(init);
            let task = host.start_spec(spec).await;
            let exit = host.ended(&task).await;
            assert_eq!(exit.status, ExitStatus::Code(127));
            let message = exit.message.unwrap();
            assert!(
                message.contains("convoke-no-such-trainer") && message.contains(super::host::IMAGE),
                "{message}"
            );
            assert!(host.texts(&task).iter().any(|line| line.contains("convoke-no-such-trainer")));
            host.runtime.remove(&task).await.unwrap();
            assert_eq!(host.containers().await.len(), 0);
        }
    });
}

pub(super) fn what_cannot_be_run_is_126() {
    block_on(async {
        let host = Host::new().await;
        for (rank, init) in [(0, true), (1, false)] {
            let mut spec = host.spec(rank, &["/etc"]);
            spec.container.as_mut().unwrap().options.init = Some(init);
            let exit = host.ended(&host.start_spec(spec).await).await;
            assert_eq!(exit.status, ExitStatus::Code(126));
            assert!(exit.message.unwrap().contains("/etc"));
        }
        let mut spec = host.spec(2, &["true"]);
        spec.container.as_mut().unwrap().options.user = Some("convoke-nobody".to_owned());
        let exit = host.ended(&host.start_spec(spec).await).await;
        assert_eq!(exit.status, ExitStatus::Code(126));
        assert!(exit.message.unwrap().contains("unable to find user convoke-nobody"));
    });
}

pub(super) fn an_image_that_is_gone_is_named() {
    block_on(async {
        let host = Host::new().await;
        let mut spec = host.spec(0, &["true"]);
        spec.container.as_mut().unwrap().image = "convoke-test/no-such-image:1".to_owned();
        let error = host.runtime.start(spec).await.unwrap_err();
        assert!(error.to_string().contains("convoke-test/no-such-image:1"), "{error}");
        assert_eq!((host.containers().await.len(), host.directories()), (0, 0));
    });
}

pub(super) fn a_taken_port_is_named_and_counts_as_no_fault_of_the_jobs() {
    block_on(async {
        let host = Host::new().await;
        let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut spec = host.spec(0, &["true"]);
        spec.container.as_mut().unwrap().options.ports = vec![PortMapping {
            host_ip: None,
            published: Some(port.to_string()),
            target: 80,
            protocol: "tcp".to_owned(),
        }];
        let error = host.runtime.start(spec).await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::PortTaken { port: named, .. } if *named == port.to_string()),
            "{error}"
        );
        assert_eq!((host.containers().await.len(), host.directories()), (0, 0));
    });
}

pub(super) fn tasks_of_one_replica_share_memory_and_network() {
    block_on(async {
        let host = Host::new().await;
        let ports = vec![PortMapping { host_ip: None, published: None, target: 80, protocol: "tcp".into() }];
        let mut first =
            host.spec(0, &["sh", "-c", "echo shared > /dev/shm/note; exec nc -l -p 7777 -e echo met"]);
        first.container.as_mut().unwrap().options.ports = ports.clone();
        let name = first.container.as_ref().unwrap().name.clone();
        let leader = host.start_spec(first).await;
        let script = "until cat /dev/shm/note 2>/dev/null; do sleep 0.1; done; \
                      until nc 127.0.0.1 7777; do sleep 0.1; done";
        let mut second = host.spec(1, &["sh", "-c", script]);
        second.container.as_mut().unwrap().options.ports = ports;
        second.container.as_mut().unwrap().ipc_of = Some(name);
        let task = host.start_spec(second).await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
        let said: Vec<String> = host.texts(&task).into_iter().filter(|l| !l.starts_with("nc:")).collect();
        assert_eq!(said, ["shared", "met"]);
        host.ended(&leader).await;
    });
}

pub(super) fn a_task_whose_first_has_ended_runs_alone() {
    block_on(async {
        let host = Host::new().await;
        let first = host.spec(0, &["true"]);
        let name = first.container.as_ref().unwrap().name.clone();
        host.ended(&host.start_spec(first).await).await;
        let mut second = host.spec(1, &["echo", "alone"]);
        second.container.as_mut().unwrap().ipc_of = Some(name);
        let task = host.start_spec(second).await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
        assert_eq!(host.texts(&task), ["alone"]);
    });
}

pub(super) fn a_name_that_an_ended_generation_has_is_taken_over() {
    block_on(async {
        let host = Host::new().await;
        let first = host.spec(0, &["sh", "-c", "exec sleep 600"]);
        let old = host.start_spec(first.clone()).await;
        let mut next = first.clone();
        next.key.replica.generation = Generation(2);
        let error = host.runtime.start(next.clone()).await.unwrap_err();
        assert!(error.to_string().contains("already in use by job job-1 (generation 1)"), "{error}");
        host.runtime.stop(&old, Duration::ZERO).await.unwrap();
        host.ended(&old).await;
        let new = host.start_spec(next).await;
        let name = &first.container.as_ref().unwrap().name;
        let mut names = host.containers().await;
        names.sort();
        assert!(names[0] == format!("/{name}") && names[1].starts_with(&format!("/{name}.g1-")), "{names:?}");
        // Another job of the same name and generation takes it over, too, before the first is removed.
        host.runtime.stop(&new, Duration::ZERO).await.unwrap();
        host.ended(&new).await;
        let mut other = first.clone();
        (other.key.replica.job, other.key.replica.generation) = (JobId::new("job-2").unwrap(), Generation(2));
        let third = host.start_spec(other).await;
        host.runtime.stop(&third, Duration::ZERO).await.unwrap();
        host.ended(&third).await;
        let mut last = first.clone();
        last.key.replica.generation = Generation(3);
        let last = host.start_spec(last).await;
        for task in [old, new, third] {
            host.runtime.remove(&task).await.unwrap();
        }
        assert_eq!(host.containers().await, [format!("/{name}")]);
        host.runtime.stop(&last, Duration::ZERO).await.unwrap();
        host.ended(&last).await;
    });
}

pub(super) fn a_name_that_another_jobs_container_has_is_refused_by_that_jobs_name() {
    block_on(async {
        let host = Host::new().await;
        let spec = host.spec(0, &["sh", "-c", "exec sleep 600"]);
        let first = host.start_spec(spec.clone()).await;
        let mut other = spec.clone();
        other.key.replica.job = JobId::new("job-2").unwrap();
        let error = host.runtime.start(other.clone()).await.unwrap_err().to_string();
        for said in ["already in use by job job-1 (generation 1)", "another container_name"] {
            assert!(error.contains(said), "{error}");
        }
        assert!(matches!(host.runtime.status(&first), Some(TaskStatus::Running { .. })));
        assert_eq!(host.runtime.status(&other.key), None);
        // Somebody else's, running or not, is never renamed.
        let stranger = host.stranger(&format!("{}-s", host.instance)).await;
        other.container.as_mut().unwrap().name.clone_from(&stranger);
        let error = host.runtime.start(other).await.unwrap_err().to_string();
        assert!(error.contains("by a container that is not this agent's"), "{error}");
        host.docker.inspect_container(&stranger, None).await.unwrap();
        host.runtime.stop(&first, Duration::ZERO).await.unwrap();
        host.ended(&first).await;
    });
}

pub(super) fn a_task_that_runs_already_is_taken_over_by_who_starts_it_and_not_made_twice() {
    block_on(async {
        let host = Host::new().await;
        let spec = host.spec(0, &["sh", "-c", "echo once; exec sleep 600"]);
        let task = host.start_spec(spec.clone()).await;
        host.until_line(&task, "once").await;
        let forgetful = host.forgetful().await;
        forgetful.start(spec).await.unwrap();
        assert!(matches!(forgetful.status(&task), Some(TaskStatus::Running { .. })));
        assert_eq!(host.containers().await.len(), 1);
        forgetful.stop(&task, Duration::ZERO).await.unwrap();
        host.ended(&task).await;
    });
}

pub(super) fn the_health_check_is_reported() {
    block_on(async {
        let host = Host::new().await;
        let mut spec = host.spec(0, &["sh", "-c", "sleep 2; touch /ok; sleep 2; rm /ok; exec sleep 600"]);
        spec.container.as_mut().unwrap().options.healthcheck = Some(Healthcheck {
            test: ["CMD", "test", "-e", "/ok"].map(str::to_owned).to_vec(),
            interval: Some(Duration::from_millis(200)),
            timeout: Some(Duration::from_secs(10)),
            start_period: Some(Duration::from_secs(2)),
            retries: Some(1),
        });
        let task = host.start_spec(spec).await;
        let mut changes = host.runtime.changes();
        for wanted in [Health::Starting, Health::Healthy, Health::Unhealthy] {
            let seen = changes.wait_for(|_| {
                matches!(host.runtime.status(&task), Some(TaskStatus::Running { health: Some(h), .. }) if h == wanted)
            });
            tokio::time::timeout(DEADLINE, seen)
                .await
                .unwrap_or_else(|_| panic!("never {wanted:?}"))
                .unwrap();
        }
        host.runtime.stop(&task, Duration::ZERO).await.unwrap();
        host.ended(&task).await;
    });
}
