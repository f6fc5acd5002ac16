//! Records that a full disk or a lost block damaged: what the engine knows of the containers counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_agent::engine::DEFAULT_SOCKET;
use convoke_agent::runtime::{Runtime as _, TaskStatus, ended};
use convoke_model::{ExitStatus, TaskPhase};

use super::host::{DEADLINE, Host, block_on};
use super::lives::{World, contained};
use super::support::{running, until};

fn damage(file: &Path) {
    let whole = fs::read(file).unwrap();
    // Some end with a page of spaces.
    fs::write(file, &whole[..20]).unwrap();
}

pub(super) fn a_running_container_is_known_by_its_labels_and_its_engine() {
    block_on(async {
        for name in ["container.json", "created"] {
            let host = Host::new().await;
            let script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done";
            let mut spec = host.spec(0, &["sh", "-c", script]);
            spec.stop_signal = 2;
            let task = host.start_spec(spec).await;
            host.until_line(&task, "ready").await;
            damage(&host.runtime.task_dir(&task).path().join(name));
            let next = host.another().await;
            assert!(matches!(next.status(&task), Some(TaskStatus::Running { .. })), "{name}");
            assert_eq!(host.containers().await.len(), 1);
            next.stop(&task, DEADLINE).await.unwrap();
            let exit = tokio::time::timeout(DEADLINE, ended(&next, &task)).await.unwrap().unwrap();
            assert_eq!((exit.status, exit.stopped), (ExitStatus::Code(5), true), "{name}: by its own signal");
        }
    });
}

pub(super) fn a_container_with_a_damaged_record_is_left_alone_until_its_engine_is_back() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "echo ready; exec sleep 600").await;
        host.until_line(&task, "ready").await;
        for name in ["container.json", "created"] {
            damage(&host.runtime.task_dir(&task).path().join(name));
        }
        let (next, socket) = host.without_engine().await;
        assert_eq!(next.status(&task), Some(TaskStatus::running(0)));
        let again = next.start(host.spec(0, &["true"])).await;
        assert!(again.is_err() && host.containers().await.len() == 1, "{again:?}");
        std::os::unix::fs::symlink(DEFAULT_SOCKET, socket).unwrap();
        let mut changes = next.changes();
        let seen = async {
            while !matches!(next.status(&task), Some(TaskStatus::Running { pid: 1.., .. })) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect("it is watched again");
        next.stop(&task, Duration::ZERO).await.unwrap();
        let exit = tokio::time::timeout(DEADLINE, ended(&next, &task)).await.unwrap().unwrap();
        assert!(exit.stopped, "{exit:?}");
    });
}

pub(super) fn how_a_container_ended_is_told_by_its_engine() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "echo said; exit 7").await;
        host.ended(&task).await;
        damage(&host.runtime.task_dir(&task).path().join("exit.json"));
        let next = host.another().await;
        let exit = tokio::time::timeout(DEADLINE, ended(&next, &task)).await.unwrap().unwrap();
        assert_eq!(exit.status, ExitStatus::Code(7));
        assert_eq!((host.texts(&task), host.containers().await.len()), (vec!["said".to_owned()], 1));
    });
}

/// Every file of that name below `directory`.
fn files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path().join(name));
    entries.filter(|file| file.exists()).collect()
}

pub(super) fn an_agent_without_records_takes_its_containers_over_and_starts_none_twice() {
    block_on(async {
        let world = World::new().await;
        let agent = world.agent();
        let go = world.site.path("go");
        fs::create_dir(&go).unwrap();
        let script = "set -e; until [ -e /go/now ]; do sleep 0.05; done; cd /go/ckpt; mkdir new; echo w > new/w; \
                      mv new step-7; echo done";
        let mut replica = contained("j", &["cpu-0", "cpu-1"], script);
        replica.spec.layout = convoke_model::RankLayout::PerNode;
        replica.spec.container.volumes = vec![super::lives::bind(&go, "/go", false)];
        replica.spec.checkpoint.dir = Some("/go/ckpt".to_owned());
        world.coordinator.want(&[running(&replica)]);
        let pids = world.pids(&replica).await;
        agent.kill();
        let records = files(&world.site.state().join("replicas"), "record.json");
        assert_eq!(records.len(), 1);
        records.iter().for_each(|file| damage(file));
        for name in ["container.json", "created"] {
            files(&world.site.state().join("tasks"), name).iter().for_each(|file| damage(file));
        }
        world.coordinator.memory().observed = None;
        let agent = world.agent();
        assert_eq!(world.pids(&replica).await, pids, "nothing was started again");
        let calm = |m: &super::support::Memory| {
            let observed = m.observed.as_ref()?;
            (!observed.conditions.iter().any(|c| c.name == "DamagedRecord")).then_some(())
        };
        world.coordinator.wait("its record is made anew", calm).await;
        assert_eq!(world.containers().await.len(), 1);
        // The record that was made anew is as good as the first one.
        agent.kill();
        world.coordinator.memory().observed = None;
        let _agent = world.agent();
        assert_eq!(world.pids(&replica).await, pids);
        fs::write(go.join("now"), "").unwrap();
        let exits = world.ended(&replica).await;
        assert_eq!(exits[0].status, ExitStatus::Code(0), "{:?}", world.output(&replica, 0));
        assert_eq!(world.output(&replica, 0), ["done"]);
        let stored = world.coordinator.wait("the checkpoint", |m| m.uploads.values().next().cloned()).await;
        assert_eq!(stored, [("w".to_owned(), b"w\n".to_vec())]);
    });
}

pub(super) fn containers_without_a_record_are_ended_only_when_the_coordinator_does_not_want_them() {
    block_on(async {
        let mut world = World::new().await;
        let agent = world.agent();
        let replica = contained("j", &["cpu-0", "cpu-1"], "exec sleep 600");
        world.coordinator.want(&[running(&replica)]);
        let pids = world.pids(&replica).await;
        world.coordinator.stop().await;
        agent.kill();
        let records = files(&world.site.state().join("replicas"), "record.json");
        records.iter().for_each(|file| fs::write(file, "").unwrap());
        let _agent = world.agent();
        let told = || world.site.log().contains("is taken over once the coordinator says").then_some(());
        until("it tells of them", told).await;
        assert_eq!(world.containers().await.len(), 2);
        // The next generation of the job waits until they are gone.
        let mut next = replica.clone();
        next.generation.0 += 1;
        world.coordinator.memory().observed = None;
        world.coordinator.want(&[running(&next)]);
        world.coordinator.start_again().await;
        let known = |m: &super::support::Memory| {
            let old = m.observed.as_ref()?.replicas.iter().find(|r| r.key == replica.key())?;
            let pid = |phase: &TaskPhase| matches!(phase, TaskPhase::Running { .. } | TaskPhase::Exited(_));
            old.tasks.iter().all(|task| pid(&task.phase)).then_some(())
        };
        world.coordinator.wait("what nobody wants is reported", known).await;
        let fresh = world.pids(&next).await;
        assert!(fresh.iter().all(|pid| !pids.contains(pid)));
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        let gone = async {
            while world.containers().await.len() > 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.expect("the old ones are removed");
    });
}
