//! Containers' output on its way into the spool.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions};
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, LogsOptionsBuilder};
use convoke_agent::engine::DEFAULT_SOCKET;
use convoke_agent::runtime::{Runtime as _, TaskKey, ended};
use convoke_agent::spool::{MAX_LINE, Source};
use convoke_model::ExitStatus;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::host::{DEADLINE, Host, IMAGE, block_on};

pub(super) fn sources_stay_apart_and_the_last_line_needs_no_newline() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, r"printf 'a\r50%%\rb\n'; printf 'e1\n\ne2' >&2; printf last").await;
        host.ended(&task).await;
        let lines = host.lines(&task);
        let of = |source| -> Vec<&str> {
            lines.iter().filter(|l| l.source == source).map(|l| l.text.as_str()).collect()
        };
        assert_eq!(of(Source::Stdout), ["a\r50%\rb", "last"]);
        assert_eq!(of(Source::Stderr), ["e1", "", "e2"]);
    });
}

pub(super) fn long_lines_are_joined_and_cut_at_64_kib() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "head -c 200000 /dev/zero | tr '\\0' x; echo; echo short").await;
        host.ended(&task).await;
        let lengths: Vec<usize> = host.texts(&task).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, MAX_LINE, 200_000 - 3 * MAX_LINE, 5]);
    });
}

pub(super) fn a_flood_loses_nothing() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "seq 1 300000; echo end >&2; exit 4").await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(4));
        let lines = host.texts(&task);
        let numbers: Vec<u32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(numbers.len(), 300_000);
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1));
        assert!(lines.contains(&"end".to_owned()));
    });
}

/// Makes the task's container in the runtime's place, with two log files of so many MiB, and starts it.
async fn start_with_small_logs(host: &Host, mib: u32, script: &str) -> TaskKey {
    let key = host.spec(0, &[]).key;
    let labels = HashMap::from(
        [
            ("convoke.instance", host.instance.as_str()),
            ("convoke.job", "job-1"),
            ("convoke.generation", "1"),
            ("convoke.node-rank", "0"),
            ("convoke.rank", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let size = format!("{mib}m");
    let options = [("max-size", size.as_str()), ("max-file", "2")];
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(options.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let name = format!("convoke-test-{}", host.instance);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    host.docker.create_container(Some(options), body).await.unwrap();
    host.docker.start_container(&name, None).await.unwrap();
    key
}

/// Numbers that are missing between two lines must have a remark between them.
fn assert_whole_or_marked(host: &Host, task: &TaskKey) -> (usize, usize) {
    let (mut last, mut marked, mut gaps, mut count) = (0, false, 0, 0);
    for line in host.lines(task) {
        if line.source == Source::Convoke {
            assert!(line.text.contains("may be missing"), "{}", line.text);
            marked = true;
            continue;
        }
        let Ok(number) = line.text.parse::<u32>() else { continue };
        assert!(number > last, "{number} after {last}: a line was repeated");
        if number != last + 1 {
            assert!(marked, "no remark between {last} and {number}");
            gaps += 1;
        }
        (last, marked, count) = (number, false, count + 1);
    }
    (count, gaps)
}

pub(super) fn a_flood_through_small_rotated_files_is_whole_or_marked() {
    block_on(async {
        let host = Host::new().await;
        let script = "echo 1; until [ -e /go ]; do sleep 0.05; done; seq 2 1000000; echo end";
        // At least 30 ms of this flood: an older engine that skips a file leaves a leap in time.
        let task = start_with_small_logs(&host, 3, script).await;
        let runtime = host.another().await;
        host.until_line(&task, "1").await;
        exec(&host, "touch /go").await;
        timeout(DEADLINE, ended(&runtime, &task)).await.unwrap().unwrap();
        let (count, gaps) = assert_whole_or_marked(&host, &task);
        assert!(count > 5_000, "{count} lines, {gaps} gaps");
        let last = host.texts(&task);
        assert_eq!(last.last().unwrap(), "end", "the newest lines are never the ones lost");
    });
}

/// Passes requests on to the host's engine; the first answer with a whole log breaks off, or each.
fn break_last_readings(socket: &Path, always: bool) -> Arc<AtomicBool> {
    let (listener, broken) = (UnixListener::bind(socket).unwrap(), Arc::<AtomicBool>::default());
    let shared = broken.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, shared.clone(), always));
        }
    });
    broken
}

async fn pass_on(mut client: UnixStream, broken: Arc<AtomicBool>, always: bool) -> std::io::Result<()> {
    let mut engine = UnixStream::connect(DEFAULT_SOCKET).await?;
    let (mut asked, mut told) = ([0; 64 << 10], vec![0; 64 << 10]);
    let mut left = usize::MAX;
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let asked = &asked[..count?];
                let text = String::from_utf8_lossy(asked);
                if text.contains("/logs?") && text.contains("follow=false") && (!broken.swap(true, Ordering::Relaxed) || always) {
                    left = 100_000;
                }
                engine.write_all(asked).await?;
                if asked.is_empty() {
                    return Ok(());
                }
            }
            count = engine.read(&mut told) => {
                let told = &told[..count?];
                left = left.saturating_sub(told.len());
                if told.is_empty() || left == 0 {
                    return Ok(());
                }
                client.write_all(told).await?;
            }
        }
    }
}

pub(super) fn a_last_reading_that_breaks_off_goes_on_when_the_engine_is_back() {
    block_on(async {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("docker.sock");
        let broken = break_last_readings(&socket, false);
        let host = Host::behind(&socket).await;
        let task = host.start(0, "seq 1 20000; exit 4").await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(4));
        assert!(broken.load(Ordering::Relaxed));
        let expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
        assert!(host.texts(&task) == expected, "every line once, and no remark");
    });
}

pub(super) fn a_last_reading_that_always_breaks_off_costs_lines_and_not_the_end() {
    block_on(async {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("docker.sock");
        break_last_readings(&socket, true);
        let host = Host::behind(&socket).await;
        let task = host.start(0, "seq 1 20000; exit 4").await;
        assert_eq!(host.ended(&task).await.status, ExitStatus::Code(4));
        let last = host.texts(&task).pop().unwrap();
        assert!(last.contains("the last lines of output are missing here"), "{last}");
    });
}

pub(super) fn lines_that_were_rotated_away_while_nobody_read_are_marked() {
    block_on(async {
        let host = Host::new().await;
        let script = "seq 1 100; until [ -e /go ]; do sleep 0.05; done; seq 101 100000; exec sleep 600";
        let task = start_with_small_logs(&host, 1, script).await;
        // One agent takes the first lines, and dies.
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                block_on(async {
                    let runtime = host.another().await;
                    host.until_line(&task, "100").await;
                    drop(runtime);
                });
            });
            first.join()
        });
        first.unwrap();
        exec(&host, "touch /go").await;
        let caught_up = async {
            while !last_line(&host).await.contains("100000") {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, caught_up).await.unwrap();
        let runtime = host.another().await;
        host.until_line(&task, "100000").await;
        runtime.stop(&task, Duration::ZERO).await.unwrap();
        timeout(DEADLINE, ended(&runtime, &task)).await.unwrap().unwrap();
        let (_, gaps) = assert_whole_or_marked(&host, &task);
        assert_eq!(gaps, 1);
    });
}

/// Runs a command in the test's container.
async fn exec(host: &Host, script: &str) {
    let container = host.containers().await.remove(0);
    let options = CreateExecOptions { cmd: Some(vec!["sh", "-c", script]), ..CreateExecOptions::default() };
    let exec = host.docker.create_exec(container.trim_start_matches('/'), options).await.unwrap();
    let detached = StartExecOptions { detach: true, ..StartExecOptions::default() };
    host.docker.start_exec(&exec.id, Some(detached)).await.unwrap();
}

/// The last line of the engine's log.
async fn last_line(host: &Host) -> String {
    let container = host.containers().await.remove(0);
    let options = LogsOptionsBuilder::default().stdout(true).tail("1").build();
    let lines = host.docker.logs(container.trim_start_matches('/'), Some(options));
    let lines: Vec<String> = lines.map(|line| line.unwrap().to_string()).collect().await;
    lines.concat()
}
