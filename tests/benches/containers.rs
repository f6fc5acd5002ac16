//! Containers through Convoke beside the same without it, in turns, on this machine. Needs a Docker Engine,
//! docker-compose, zstd, and `convoke-test/base:1` of tests/images/build.sh. After `cargo build --release`:
//!
//! ```text
//! cargo bench -p convoke-tests --bench containers -- [ROUNDS]
//! ```
//!
//! - *one*: `convoke run IMAGE true` beside `docker run --rm --network=host --init IMAGE true`, which are
//!   Convoke's defaults, start of the command to its end.
//! - *three*: `convoke up -d` until its three containers run on three agents, beside `docker-compose up -d`
//!   of three services on one host.
//! - *files*: 1 GiB in 2,000 files to three agents, laid out, beside `tar | zstd | tar` to one directory.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_tests::{ClusterOptions, LocalCluster};

const IMAGE: &str = "convoke-test/base:1";
const FILES: usize = 2_000;
const FILE_BYTES: usize = (1 << 30) / FILES;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    runtime.block_on(Box::pin(measure(rounds)));
}

async fn measure(rounds: usize) {
    let options = ClusterOptions { slots: vec![1, 1, 1], containers: true, ..ClusterOptions::default() };
    let cluster = LocalCluster::start_with(options).await;
    // The image travels once; what is measured is what comes after.
    run_one(&cluster).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(run_one(&cluster).await);
        let run = ["run", "--rm", "--network=host", "--init", IMAGE, "true"];
        theirs.push(timed(Command::new("docker").args(run)));
    }
    tell("one container to its end", "convoke run", ours, "docker run", theirs);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(three(&cluster, round).await);
        theirs.push(compose(cluster.directory()));
    }
    tell("three containers until they run", "convoke up -d", ours, "docker-compose up -d", theirs);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds.div_ceil(2) {
        let source = cluster.directory().join(format!("files-{round}"));
        fill(&source.join("data"));
        ours.push(ship(&cluster, &source).await);
        theirs.push(tar(&source.join("data"), &cluster.directory().join(format!("copy-{round}"))));
    }
    let (ours, theirs) = tell("1 GiB in 2,000 files", "to 3 agents", ours, "tar | zstd | tar", theirs);
    let megabytes = (FILES * FILE_BYTES) as f64 / 1e6;
    println!(
        "  {:.0} MB/s to each of 3 agents, whose disk is one; tar {:.0} MB/s",
        megabytes / ours,
        megabytes / theirs
    );
    cluster.finish().await;
}

async fn run_one(cluster: &LocalCluster) -> Duration {
    let started = Instant::now();
    cluster.cli(&["run", IMAGE, "true"]).run().await.expect_code(0);
    started.elapsed()
}

/// From the start of `up -d` until every container runs.
async fn three(cluster: &LocalCluster, round: usize) -> Duration {
    let directory = cluster.directory().join(format!("three-{round}"));
    fs::create_dir(&directory).expect("it is writable");
    let body = format!(
        "name: bench{round}\nservices:\n  three:\n    image: {IMAGE}\n    command: sleep 600\n    stop_signal: SIGKILL\n    deploy:\n      replicas: 3\n"
    );
    fs::write(directory.join("compose.yaml"), body).expect("it is writable");
    let started = Instant::now();
    cluster.cli(&["up", "-d"]).directory(&directory).run().await.expect_code(0);
    let job = format!("bench{round}-three");
    cluster.wait_state(&job, v1::JobState::Running).await;
    let took = started.elapsed();
    cluster.stop(&job).await;
    cluster.wait_state(&job, v1::JobState::Stopped).await;
    took
}

fn compose(directory: &Path) -> Duration {
    let file = directory.join("docker-compose.yml");
    let service =
        |n: usize| format!("  s{n}:\n    image: {IMAGE}\n    command: sleep 600\n    network_mode: host\n");
    let services: String = (0..3).map(service).collect();
    fs::write(&file, format!("version: '3.8'\nservices:\n{services}")).expect("it is writable");
    let command = |verb: &[&str]| {
        let mut command = Command::new("docker-compose");
        command.arg("-f").arg(&file).args(["-p", "convokebench"]).args(verb);
        command
    };
    let took = timed(&mut command(&["up", "-d"]));
    timed(&mut command(&["down", "-t", "0"]));
    took
}

/// From the start of `up -d` until every container runs, which is after its files are laid out.
async fn ship(cluster: &LocalCluster, source: &Path) -> Duration {
    let name = source.file_name().expect("a directory of ours").to_string_lossy().into_owned();
    let body = format!(
        "name: {name}\nservices:\n  s:\n    image: {IMAGE}\n    command: sleep 600\n    stop_signal: SIGKILL\n    volumes: [./data:/data]\n    deploy:\n      replicas: 3\n"
    );
    fs::write(source.join("compose.yaml"), body).expect("it is writable");
    let started = Instant::now();
    cluster.cli(&["up", "-d"]).directory(source).run().await.expect_code(0);
    let job = format!("{name}-s");
    cluster.wait_state(&job, v1::JobState::Running).await;
    let took = started.elapsed();
    cluster.stop(&job).await;
    cluster.wait_state(&job, v1::JobState::Stopped).await;
    took
}

fn tar(from: &Path, to: &Path) -> Duration {
    fs::create_dir(to).expect("it is writable");
    let script = "tar c -C \"$0\" . | zstd -q -T2 | zstd -qd | tar x -C \"$1\" && sync -f \"$1\"";
    timed(Command::new("bash").args(["-c", script]).arg(from).arg(to))
}

/// Bytes that do not compress, as trained data hardly does.
fn fill(directory: &Path) {
    fs::create_dir_all(directory).expect("it is writable");
    let mut random = fs::File::open("/dev/urandom").expect("every Linux has it");
    for n in 0..FILES {
        let mut file = fs::File::create(directory.join(format!("{n:04}.bin"))).expect("it is writable");
        let mut bytes = vec![0; FILE_BYTES];
        std::io::Read::read_exact(&mut random, &mut bytes).expect("it never ends");
        file.write_all(&bytes).expect("there is room");
    }
}

/// Wall time of a command that must succeed.
fn timed(command: &mut Command) -> Duration {
    let started = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = started.elapsed();
    assert!(status.as_ref().is_ok_and(|s| s.success()), "{command:?} ended with {status:?}");
    took
}

/// Prints and returns the medians, in seconds.
fn tell(what: &str, our: &str, ours: Vec<Duration>, their: &str, theirs: Vec<Duration>) -> (f64, f64) {
    let shown = |mut times: Vec<Duration>| {
        times.sort_unstable();
        let (least, middle, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        let text = format!(
            "{:.2} s ({:.2} to {:.2})",
            middle.as_secs_f64(),
            least.as_secs_f64(),
            most.as_secs_f64()
        );
        (middle.as_secs_f64(), text)
    };
    let rounds = ours.len();
    let ((ours, our_text), (theirs, their_text)) = (shown(ours), shown(theirs));
    println!(
        "{what}, median of {rounds}: {our} {our_text}; {their} {their_text}; ratio {:.2}",
        ours / theirs
    );
    (ours, theirs)
}
