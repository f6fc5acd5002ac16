//! Two nodes of two ranks each under plain `torchrun`: rank 3 fails in one of many ways and is the one that is told,
//! though the launcher of the other node is noticed as soon.

use convoke_tests::{Scene, TORCH};
use serde_json::Value;

/// All ranks meet once; then rank 3 does what the story says, and the others wait for it.
const TRAIN: &str = r#"import ctypes, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
print("rank", dist.get_rank(), "is up", flush=True)
t = torch.ones(1)
dist.all_reduce(t)
if dist.get_rank() == 3:
    match sys.argv[1]:
        case "raise": raise ValueError("bad batch at index 17")
        case "exit": sys.exit(3)
        case "crash": ctypes.string_at(0)
        case "fill":
            filled = []
            while True: filled.append(torch.ones(10_000_000))
while True: dist.all_reduce(t)
"#;

/// `up` tells all of `words` of rank 3, and `cause`.
async fn rank_3_is_told(how: &str, cause: &str, words: &[&str]) {
    let scene = Scene::start(&[2, 2]).await;
    scene.write("train.py", TRAIN);
    scene.compose(&format!(
        "image: {TORCH}\nvolumes: [\"./train.py:/app/train.py:ro\"]\nenvironment: {{OMP_NUM_THREADS: 1}}\n\
         command: torchrun --nproc_per_node=2 /app/train.py {how}\ndeploy:\n  replicas: 2\n  resources:\n    limits: \
         {{memory: 1g}}\n    reservations:\n      devices: [{{driver: cpu, count: 2, capabilities: [cpu]}}]"
    ));
    scene.up_fails(1, words).await;
    let job = scene.job().await;
    let failure = &job["last_failure"];
    assert_eq!((&failure["rank"], &failure["node"]), (&3.into(), &"node-1".into()), "{failure}");
    let of_task = |node: usize| &job["replicas"][node]["tasks"][0]["exit"];
    let causes = [0, 1].map(|node| of_task(node)["explanation"]["cause"].as_str());
    assert_eq!(causes, [Some("PeerLost"), Some(cause)]);
    assert_eq!(of_task(1)["oom_killed"], Value::from(cause == "OutOfMemory"));
    let inspect = scene.convoke(&["inspect", "story-job"]).run().await.expect_code(0).stdout;
    assert!(inspect.contains(": another rank went away while this one waited for it\n"), "{inspect}");
    let logs = scene.convoke(&["logs", "story-job", "--rank", "3"]).run().await.expect_code(0).stdout;
    assert!(logs.contains("rank 3 is up") && !logs.contains("rank 0 is up"), "{logs}");
    scene.cluster.finish().await;
}

pub(crate) async fn a_rank_that_raised_is_told_with_its_traceback() {
    let words = [
        "rank 3 on node-1: ValueError: bad batch at index 17\n",
        "\n      File \"/app/train.py\", line 9, in <module>\n",
        "\n  try: fix the program: line 9 of /app/train.py\n",
    ];
    rank_3_is_told("raise", "PythonException", &words).await;
}

pub(crate) async fn a_rank_that_exited_without_a_word_is_told_by_its_launcher_s() {
    let words = ["rank 3 on node-1: its process exited with code 3", "\n      exitcode  : 3 (pid: "];
    rank_3_is_told("exit", "WorkerFailed", &words).await;
}

pub(crate) async fn a_rank_that_ran_out_of_memory_is_told_with_the_limit() {
    let words = [
        "rank 3 on node-1: the kernel killed a process of the task because its memory ran out: it may use 1.0 GiB",
        "\n  docker-compose.yml:11: services.job.deploy.resources.limits.memory\n",
    ];
    rank_3_is_told("fill", "OutOfMemory", &words).await;
}

pub(crate) async fn a_rank_that_crashed_is_told_by_its_signal() {
    let words = ["rank 3 on node-1: it crashed: it touched memory that is not its own (SIGSEGV)\n"];
    rank_3_is_told("crash", "Segfault", &words).await;
}
