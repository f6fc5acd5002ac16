use std::process::{Child, Command};

use convoke_model::{Device, DeviceKind, Generation, JobId, NodeRank};

use super::super::state::Sample;
use super::*;

const GIB: u64 = 1 << 30;

fn id() -> DeviceId {
    DeviceId::new("GPU-1").unwrap()
}

fn replica() -> ReplicaKey {
    ReplicaKey { job: JobId::new("job").unwrap(), generation: Generation(2), node_rank: NodeRank(0) }
}

fn cleaner() -> Cleaner {
    let (_, state) = channel::channel(Arc::new(State::default()));
    let (requests, _) = std::sync::mpsc::sync_channel(1);
    Cleaner::new(Gpus { state, problems: channel::Sender::new(Vec::new()), requests })
}

/// A look that begins now.
fn look(used: u64, pids: &[u32]) -> State {
    let device =
        Device { id: id(), index: 0, kind: DeviceKind::Gpu, model: "H100".to_owned(), memory: 0, gpu: None };
    let processes = pids.iter().map(|pid| Process { pid: *pid, memory: Some(GIB) }).collect();
    let sample = Sample { memory_used: used, processes, ..Sample::default() };
    let gpu = Gpu { sample: Some(sample), ..Gpu::new(device) };
    State { nvml: Nvml::Up, taken: Some(Instant::now()), gpus: vec![gpu], ..State::default() }
}

fn names(problems: &[DeviceCondition]) -> Vec<&str> {
    problems.iter().map(|problem| problem.name.as_str()).collect()
}

fn sleeper(marker: &str) -> Child {
    let child = Command::new("sleep").arg("600").env("CONVOKE_TASK", marker).spawn().unwrap();
    // A new program's environment can be read only a moment after its start has succeeded.
    while std::fs::read(format!("/proc/{}/environ", child.id())).unwrap().is_empty() {
        std::thread::yield_now();
    }
    child
}

#[test]
fn only_a_look_that_began_after_the_end_proves_a_gpu_clean() {
    let cleaner = cleaner();
    let before = look(0, &[]);
    cleaner.begin(&replica(), &[id()], Traces::default());
    cleaner.judge(&before, &|_| true);
    assert!(cleaner.is_open(&[id()]));
    assert!(cleaner.judge(&look(0, &[]), &|_| true).is_empty());
    assert!(!cleaner.is_open(&[id()]));
}

#[test]
fn what_the_replica_left_is_killed_and_a_stranger_is_not() {
    let (cleaner, mut own, mut stranger) = (cleaner(), sleeper("ours"), sleeper("theirs"));
    let traces = Traces::marked(&["ours"]);
    cleaner.begin(&replica(), &[id()], traces);
    let problems = cleaner.judge(&look(2 * GIB, &[own.id(), stranger.id()]), &|_| true);
    assert!(problems.is_empty() && cleaner.is_open(&[id()]), "it may still go");
    assert!(!own.wait().unwrap().success());
    let problems = cleaner.judge(&look(GIB, &[stranger.id()]), &|_| false);
    assert_eq!(names(&problems), ["GpuBusy"]);
    let told = format!("GPU 0: pid {} (sleep) of user ", stranger.id());
    assert!(problems[0].message.starts_with(&told), "{}", problems[0].message);
    assert!(stranger.try_wait().unwrap().is_none(), "it runs on");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(cleaner.judge(&look(0, &[]), &|_| false).is_empty());
}

#[test]
fn a_gpu_in_use_by_a_replica_is_nobodys_business() {
    let cleaner = cleaner();
    assert!(cleaner.judge(&look(70 * GIB, &[1]), &|_| true).is_empty());
}

#[test]
fn a_gpu_that_is_not_clean_in_time_is_quarantined_until_it_is() {
    let cleaner = cleaner();
    cleaner.begin(&replica(), &[id()], Traces::default());
    let long_ago = Instant::now().checked_sub(BOUND).unwrap();
    cleaner.book().get_mut(&id()).unwrap().mark.as_mut().unwrap().since = long_ago;
    let problems = cleaner.judge(&look(3 * GIB, &[]), &|_| true);
    assert_eq!(names(&problems), ["GpuQuarantined"]);
    let told = "not clean 15 s after job job generation 2 ended: 3.0 GiB of its memory are in use";
    assert!(problems[0].message.contains(told), "{}", problems[0].message);
    assert!(!cleaner.is_open(&[id()]), "the replica's end waits no longer");
    // The message does not follow the number.
    assert_eq!(cleaner.judge(&look(4 * GIB, &[]), &|_| false), problems);
    assert!(cleaner.judge(&look(0, &[]), &|_| false).is_empty());
}

#[test]
fn a_gpu_that_nobody_can_look_at_is_quarantined_in_time_and_not_before() {
    let cleaner = cleaner();
    let down = State { nvml: Nvml::Down("why".to_owned()), ..look(0, &[]) };
    assert!(
        cleaner.judge(&down, &|_| false).is_empty(),
        "never used, so NVML's failure is all there is to tell"
    );
    cleaner.begin(&replica(), &[id()], Traces::default());
    assert!(cleaner.judge(&down, &|_| true).is_empty() && cleaner.is_open(&[id()]));
    let long_ago = Instant::now().checked_sub(BOUND).unwrap();
    cleaner.book().get_mut(&id()).unwrap().mark.as_mut().unwrap().since = long_ago;
    assert_eq!(names(&cleaner.judge(&down, &|_| true)), ["GpuQuarantined"]);
    assert!(cleaner.judge(&look(0, &[]), &|_| false).is_empty());
}
