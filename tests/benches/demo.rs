//! How long the main job takes: the demo's cluster of 4 ranks beside the same training in one
//! process alone, in turns, on this machine. Run after `cargo build --release`:
//!
//! ```text
//! cargo bench -p convoke-tests --bench demo -- [ROUNDS]
//! ```
//!
//! The cluster's time includes starting a coordinator and two agents and taking them down again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The batch of one process that equals the demo's 4 ranks with 64 each.
const WHOLE_BATCH: &str = "256";

fn main() {
    // Cargo passes `--bench` as well.
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(3);
    let binaries = binaries();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mnist/data");
    let (mut cluster, mut alone) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut demo = Command::new(binaries.join("convoke"));
        demo.args(["demo", "--output", "json"]);
        cluster.push(timed(demo));

        let scratch = tempfile::tempdir().expect("a temporary directory can be made");
        let mut trainer = Command::new(binaries.join("convoke-trainer"));
        trainer.args(["--batch", WHOLE_BATCH]).arg("--data").arg(&data);
        trainer.arg("--checkpoint-dir").arg(scratch.path());
        alone.push(timed(trainer));
        let (cluster, alone) = (cluster[round - 1], alone[round - 1]);
        println!(
            "round {round}: demo, 4 ranks on 2 nodes {:.1} s; one process {:.1} s",
            cluster.as_secs_f64(),
            alone.as_secs_f64()
        );
    }
    let (cluster, alone) = (median(cluster), median(alone));
    println!(
        "median of {rounds}: demo {:.1} s, one process {:.1} s, ratio {:.2}",
        cluster.as_secs_f64(),
        alone.as_secs_f64(),
        cluster.as_secs_f64() / alone.as_secs_f64()
    );
}

/// Wall time of a command that must succeed.
fn timed(mut command: Command) -> Duration {
    let started = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = started.elapsed();
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{command:?} ended with {status:?}");
    took
}

/// `target/release`, from `target/release/deps/demo-<hash>`.
fn binaries() -> PathBuf {
    let here = std::env::current_exe().expect("this program has a path");
    let release = here.ancestors().nth(2).expect("benches lie below the target directory").to_owned();
    assert!(
        release.join("convoke").exists(),
        "no convoke in {}; run `cargo build --release`",
        release.display()
    );
    release
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
