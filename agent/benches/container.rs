//! What the agent's Docker runtime adds to a container, beside `docker run` of the same image, in turns.
//! Needs a Docker Engine and `convoke-test/base:1` of tests/images/build.sh.
//!
//! ```text
//! cargo bench -p convoke-agent --bench container -- [ROUNDS]
//! ```
//!
//! Ours: from the call that starts the task until its exit is known with its last line drained, then its
//! removal. Theirs: `docker run --rm` on the host's network with an init, as the agent's containers are, from
//! its start to its end.
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to tell but its reader")]

#[path = "../tests/docker/host.rs"]
#[allow(dead_code, reason = "the tests of the runtime use the rest")]
mod host;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use convoke_agent::runtime::Runtime as _;
use host::{Host, IMAGE, block_on};

/// The image's own `true`: what takes time is all that is around it.
const COMMAND: &[&str] = &["true"];

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(30);
    block_on(async {
        let host = Host::new().await;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first of each finds nothing in any cache.
        for round in 0..=rounds {
            let (our, their) = (through_the_agent(&host, round).await, docker_run());
            if round > 0 {
                ours.push(our);
                theirs.push(their);
            }
        }
        tell(ours, theirs);
    });
}

async fn through_the_agent(host: &Host, round: u32) -> Duration {
    let spec = host.spec(round, COMMAND);
    let started = Instant::now();
    let task = host.start_spec(spec).await;
    let exit = host.ended(&task).await;
    host.runtime.remove(&task).await.unwrap();
    let took = started.elapsed();
    assert!(exit.status.is_success(), "{exit:?}");
    took
}

fn docker_run() -> Duration {
    let started = Instant::now();
    let mut command = Command::new("docker");
    // What the agent asks for by default: the node's network, and an init.
    command.args(["run", "--rm", "--network=host", "--init", IMAGE]).args(COMMAND).stdout(Stdio::null());
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
    started.elapsed()
}

fn tell(ours: Vec<Duration>, theirs: Vec<Duration>) {
    let mut added: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| millis(*o) - millis(*t)).collect();
    added.sort_unstable_by(f64::total_cmp);
    let (least, median, most) = (added[0], added[added.len() / 2], added[added.len() - 1]);
    println!("through the agent {}, docker run {}, median of {}", shown(&ours), shown(&theirs), ours.len());
    println!("a pair differs by {median:+.0} ms ({least:+.0} to {most:+.0})");
}

fn shown(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    format!("{:.0} ms ({:.0} to {:.0})", millis(median), millis(least), millis(most))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
