use convoke_proto::v1;

use crate::agent::{lines, running};
use crate::coordinator::{Coordinator, reason, soon};

async fn logs(
    coordinator: &Coordinator,
    change: impl FnOnce(&mut v1::StreamLogsRequest),
) -> Vec<v1::LogLine> {
    let mut request = v1::StreamLogsRequest { job: "a".to_owned(), ..Default::default() };
    change(&mut request);
    let mut stream = coordinator.jobs().stream_logs(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(message) = soon("log lines", stream.message()).await.unwrap() {
        lines.extend(message.lines);
    }
    lines
}

fn texts(lines: &[v1::LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn lines_that_come_again_are_shown_once_and_lost_ones_are_marked() {
    let (coordinator, agent, job) = running().await;
    assert_eq!(agent.push(lines(&job, 0, &["0", "1"], false)).await.unwrap().next_sequence, 2);
    assert_eq!(agent.push(lines(&job, 1, &["1", "2"], false)).await.unwrap().next_sequence, 3);
    assert_eq!(agent.push(lines(&job, 5, &["5"], false)).await.unwrap().next_sequence, 6);
    let shown = logs(&coordinator, |_| {}).await;
    assert_eq!(texts(&shown), ["0", "1", "2", "2 lines from number 3 on were lost", "5"]);
    assert_eq!(shown[3].source(), v1::LogSource::Convoke);
    assert_eq!((shown[0].node.as_str(), shown[0].rank, shown[0].generation), ("n1", 0, 1));
    coordinator.stop().await;
}

#[tokio::test]
async fn metrics_are_found_in_the_output_and_in_their_own_stream() {
    let (coordinator, agent, job) = running().await;
    agent.push(lines(&job, 0, &["hi", r#"{"step": 1, "loss": 0.5}"#], false)).await.unwrap();
    let mut own = lines(&job, 0, &[r#"{"step": 2, "loss": 0.25}"#], false);
    own.stream.as_mut().unwrap().kind = v1::StreamKind::Metrics.into();
    agent.push(own).await.unwrap();
    for (latest, steps) in [(false, vec![1, 2]), (true, vec![2])] {
        let request = v1::StreamMetricsRequest { job: "a".to_owned(), latest, ..Default::default() };
        let mut stream = coordinator.jobs().stream_metrics(request).await.unwrap().into_inner();
        let mut records = Vec::new();
        while let Some(message) = soon("metrics", stream.message()).await.unwrap() {
            records.extend(message.records);
        }
        assert_eq!(records.iter().map(|r| r.step).collect::<Vec<_>>(), steps);
        assert_eq!(records.last().unwrap().values["loss"], 0.25);
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_ends_after_the_last_line_of_an_ended_job() {
    let (coordinator, mut agent, job) = running().await;
    agent.push(lines(&job, 0, &["before"], false)).await.unwrap();
    let request = v1::StreamLogsRequest { job: "a".to_owned(), follow: true, ..Default::default() };
    let mut stream = coordinator.jobs().stream_logs(request).await.unwrap().into_inner();
    let first = soon("the first line", stream.message()).await.unwrap().unwrap();
    assert_eq!(texts(&first.lines), ["before"]);
    agent.end(0).await;
    agent.push(lines(&job, 1, &["after the end"], true)).await.unwrap();
    let mut rest = Vec::new();
    while let Some(message) = soon("the end of the stream", stream.message()).await.unwrap() {
        rest.extend(message.lines);
    }
    assert_eq!(texts(&rest), ["after the end"]);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_follower_of_an_ended_job_whose_last_lines_never_come_is_not_kept_for_ever() {
    let (coordinator, mut agent, job) = running().await;
    agent.push(lines(&job, 0, &["only"], false)).await.unwrap();
    agent.end(0).await;
    let shown = logs(&coordinator, |request| request.follow = true).await;
    assert_eq!(texts(&shown), ["only"]);
    coordinator.stop().await;
}

#[tokio::test]
async fn tail_since_and_ranks_choose_lines() {
    let (coordinator, agent, job) = running().await;
    let mut push = lines(&job, 0, &["0", "1", "2", "3"], false);
    for (line, at) in push.lines.iter_mut().zip([100, 200, 300, 400]) {
        line.at_unix_ms = at;
    }
    agent.push(push).await.unwrap();
    assert_eq!(texts(&logs(&coordinator, |r| r.tail = Some(2)).await), ["2", "3"]);
    assert_eq!(texts(&logs(&coordinator, |r| r.since_unix_ms = Some(200)).await), ["1", "2", "3"]);
    assert_eq!(
        texts(&logs(&coordinator, |r| (r.since_unix_ms, r.tail) = (Some(300), Some(3))).await),
        ["2", "3"]
    );
    assert!(logs(&coordinator, |r| r.ranks = vec![4]).await.is_empty());
    assert!(logs(&coordinator, |r| r.tail = Some(0)).await.is_empty());
    coordinator.stop().await;
}

#[tokio::test]
async fn streams_of_unknown_jobs_and_of_generations_to_come_are_unwanted() {
    let (coordinator, agent, job) = running().await;
    assert!(agent.push(lines("nobody", 0, &["x"], false)).await.unwrap().unwanted);
    let mut future = lines(&job, 0, &["x"], false);
    future.stream.as_mut().unwrap().generation = 2;
    assert!(agent.push(future).await.unwrap().unwanted);
    assert!(logs(&coordinator, |_| {}).await.is_empty());
    coordinator.stop().await;
}

#[tokio::test]
async fn a_push_that_breaks_the_contract_is_refused() {
    let (coordinator, agent, job) = running().await;
    let good = lines(&job, 0, &["x"], false);
    let no_stream = v1::PushTelemetryRequest { stream: None, ..good.clone() };
    assert_eq!(reason(agent.push(no_stream).await), "INVALID_MESSAGE");
    let mut no_kind = good.clone();
    no_kind.stream.as_mut().unwrap().kind = 9;
    assert_eq!(reason(agent.push(no_kind).await), "INVALID_MESSAGE");
    let bad_job = lines("../x", 0, &["x"], false);
    assert_eq!(reason(agent.push(bad_job).await), "INVALID_MESSAGE");
    let endless = v1::PushTelemetryRequest { first_sequence: u64::MAX, ..good.clone() };
    assert_eq!(reason(agent.push(endless).await), "INVALID_MESSAGE");
    let mut long = good;
    long.lines[0].text = "x".repeat(300 << 10);
    assert_eq!(reason(agent.push(long).await), "INVALID_MESSAGE");
    coordinator.stop().await;
}
