use super::*;

const JOB: &str = "job-1";

fn job() -> JobId {
    JobId::new(JOB).unwrap()
}

fn start(dir: &Path) -> (Telemetry, std::thread::JoinHandle<()>) {
    Telemetry::start(dir, Retention::default(), &BTreeSet::from([job()])).unwrap()
}

async fn stop((telemetry, thread): (Telemetry, std::thread::JoinHandle<()>)) {
    drop(telemetry);
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
}

fn stream(kind: StreamKind, generation: u64) -> StreamId {
    StreamId { generation, rank: 0, kind }
}

fn push(kind: StreamKind, first: u64, lines: &[&str]) -> Push {
    push_of(kind, 1, first, lines)
}

fn push_of(kind: StreamKind, generation: u64, first: u64, lines: &[&str]) -> Push {
    let stream = stream(kind, generation);
    let record = |(text, sequence): (&&str, u64)| Record {
        stream,
        node: "n".into(),
        sequence,
        at: sequence,
        entry: Entry::Stdout((*text).to_owned()),
    };
    Push { job: job(), stream, records: lines.iter().zip(first..).map(record).collect() }
}

fn all(shared: &Arc<Shared>) -> Vec<Record> {
    let mut reader = SeriesReader::at(shared.clone(), Position::default());
    let mut records = Vec::new();
    loop {
        let chunk = reader.next(1 << 16).unwrap();
        if chunk.is_empty() {
            return records;
        }
        records.extend(chunk.into_iter().map(|(_, record)| record));
    }
}

fn steps(feed: &Feed) -> Vec<u64> {
    all(&feed.metric).iter().filter_map(Metric::of_record).map(|m| m.step).collect()
}

const LINES: [&str; 3] = ["hello", r#"{"step": 1, "loss": 2.5}"#, "bye"];

#[tokio::test]
async fn metrics_in_the_output_are_lines_and_metrics_once_each_also_when_they_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    assert_eq!(running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap(), Stored::UpTo(3));
    assert_eq!(running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap(), Stored::UpTo(3));
    let feed = running.0.feed(&job()).await.unwrap();
    assert_eq!((all(&feed.log).len(), steps(&feed)), (3, vec![1]));
    stop(running).await;
    let running = start(dir.path());
    assert_eq!(running.0.push(push(StreamKind::Output, 1, &LINES[1..])).await.unwrap(), Stored::UpTo(3));
    let feed = running.0.feed(&job()).await.unwrap();
    assert_eq!((all(&feed.log).len(), steps(&feed)), (3, vec![1]));
    stop(running).await;
}

#[tokio::test]
async fn who_follows_the_metrics_is_woken_by_the_end_of_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let output = stream(StreamKind::Output, 1);
    let feed = running.0.feed(&job()).await.unwrap();
    let changes = feed.metric.changes();
    let mut end = push(StreamKind::Output, 0, &["nothing to measure"]);
    end.records.push(Record { entry: Entry::End, sequence: 1, ..end.records[0].clone() });
    running.0.push(end).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(feed.metric.published().cursors[&output].ended);
    stop(running).await;
}

#[tokio::test]
async fn a_crash_between_metric_and_log_neither_loses_nor_doubles_anything() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap();
    stop(running).await;
    // The crash: the metric is on disk, the lines are not.
    std::fs::remove_file(dir.path().join(JOB).join("log-0000000001.jsonl")).unwrap();
    let running = start(dir.path());
    assert_eq!(running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap(), Stored::UpTo(3));
    let feed = running.0.feed(&job()).await.unwrap();
    assert_eq!((all(&feed.log).len(), steps(&feed)), (3, vec![1]));
    stop(running).await;
}

#[tokio::test]
async fn the_streams_of_a_task_are_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap();
    let stored = running.0.push(push(StreamKind::Metrics, 0, &[r#"{"step": 9}"#])).await.unwrap();
    assert_eq!(stored, Stored::UpTo(1));
    let feed = running.0.feed(&job()).await.unwrap();
    assert_eq!(steps(&feed), [1, 9]);
    stop(running).await;
}

#[tokio::test]
async fn a_generation_of_long_ago_is_unwanted() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    running.0.push(push_of(StreamKind::Output, 20, 0, &["new"])).await.unwrap();
    let old = running.0.push(push_of(StreamKind::Output, 1, 0, &["old"])).await.unwrap();
    assert_eq!(old, Stored::Unwanted);
    let feed = running.0.feed(&job()).await.unwrap();
    assert_eq!(all(&feed.log).len(), 1);
    stop(running).await;
}

#[tokio::test]
async fn the_telemetry_of_a_forgotten_job_goes_at_once_or_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    running.0.push(push(StreamKind::Output, 0, &LINES)).await.unwrap();
    running.0.forget(&job());
    stop(running).await;
    assert!(!dir.path().join(JOB).exists());
    std::fs::create_dir(dir.path().join("job-2")).unwrap();
    stop(start(dir.path())).await;
    assert!(!dir.path().join("job-2").exists());
}

#[tokio::test]
async fn above_the_total_the_job_that_was_silent_longest_loses_first() {
    let dir = tempfile::tempdir().unwrap();
    let other = JobId::new("job-2").unwrap();
    let retention = Retention { logs_per_job: 1 << 20, telemetry_total: 400 << 10, ..Retention::default() };
    let (telemetry, thread) =
        Telemetry::start(dir.path(), retention, &BTreeSet::from([job(), other.clone()])).unwrap();
    let text = "x".repeat(10_000);
    for n in 0..30 {
        telemetry.push(push(StreamKind::Output, n, &[&text])).await.unwrap();
    }
    for n in 0..30 {
        let push = Push { job: other.clone(), ..push(StreamKind::Output, n, &[&text]) };
        telemetry.push(push).await.unwrap();
    }
    let first = telemetry.feed(&job()).await.unwrap().log.published().bytes();
    let second = telemetry.feed(&other).await.unwrap().log.published().bytes();
    assert!(first + second <= 400 << 10, "{first} + {second}");
    assert!(second > 300_000 && first < second, "{first} {second}");
    stop((telemetry, thread)).await;
}

#[tokio::test]
async fn a_tail_is_the_last_lines_of_each_rank_even_of_a_rank_that_has_long_been_silent() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { logs_per_job: 1 << 16, ..Retention::default() };
    let (telemetry, thread) = Telemetry::start(dir.path(), retention, &BTreeSet::from([job()])).unwrap();
    let silent = StreamId { rank: 1, ..stream(StreamKind::Output, 1) };
    let mut first = push(StreamKind::Output, 0, &["a", "b", "c"]);
    first.records.iter_mut().for_each(|r| r.stream = silent);
    telemetry.push(first).await.unwrap();
    for n in 0..300 {
        telemetry
            .push(push(StreamKind::Output, n, &["a line of some length, to fill segments"]))
            .await
            .unwrap();
    }
    let feed = telemetry.feed(&job()).await.unwrap();
    assert!(feed.log.published().segments.len() > 3);
    let starts = tail_positions(&feed.log, 2, &[], |_| true).unwrap();
    let kept = |record: &(Position, Record)| record.0 >= starts[&record.1.stream.rank];
    let mut reader = SeriesReader::at(feed.log.clone(), *starts.values().min().unwrap());
    let mut tail = Vec::new();
    loop {
        let chunk = reader.next(1 << 16).unwrap();
        if chunk.is_empty() {
            break;
        }
        tail.extend(chunk.into_iter().filter(kept).map(|(_, r)| (r.stream.rank, r.sequence)));
    }
    assert_eq!(tail, [(1, 1), (1, 2), (0, 298), (0, 299)]);
    stop((telemetry, thread)).await;
}
