//! Lines that tasks print: many, long, and odd ones, through crashes.

use convoke_proto::v1;
use convoke_tests::{LocalCluster, sh};

/// Lines between two crashes.
const RUN: u64 = 5_000;

#[tokio::test]
async fn every_line_of_a_flood_arrives_once_and_in_order_through_crashes_of_coordinator_and_agent() {
    let mut cluster = LocalCluster::start(&[1, 1]).await;
    let (mut first, mut second) = (cluster.gate("first"), cluster.gate("second"));
    let script = format!(
        "seq 1 {RUN}; {}; seq {} {}; {}; seq {} {}",
        first.wait(),
        RUN + 1,
        2 * RUN,
        second.wait(),
        2 * RUN + 1,
        3 * RUN
    );
    let id = cluster.submit(&sh("flood", &script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_coordinator();
    first.open();
    cluster.start_coordinator().await;
    cluster.kill_agent(1);
    second.open();
    cluster.start_agent(1);
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let log = cluster.log(&id).await;
    for rank in 0..2 {
        let lines = log.iter().filter(|line| line.rank == rank);
        let (sequences, texts): (Vec<_>, Vec<_>) =
            lines.map(|line| (line.sequence, line.text.clone())).unzip();
        assert!(sequences.iter().copied().eq(0..3 * RUN), "rank {rank}: a line is missing, or comes twice");
        assert!(texts.iter().cloned().eq((1..=3 * RUN).map(|n| n.to_string())), "rank {rank}: another text");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_long_line_comes_in_pieces_and_bytes_that_are_no_text_are_replaced() {
    let cluster = LocalCluster::start(&[1]).await;
    let script =
        r"head -c 200000 /dev/zero | tr '\0' x; echo; printf 'a\377b\n'; printf 'no newline at the end'";
    let id = cluster.submit(&sh("odd", script)).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let mut texts: Vec<_> = cluster.log(&id).await.into_iter().map(|line| line.text).collect();
    assert_eq!(texts.pop().as_deref(), Some("no newline at the end"));
    assert_eq!(texts.pop().as_deref(), Some("a\u{fffd}b"));
    assert!(texts.iter().all(|text| text.len() <= 64 << 10), "a piece is longer than 64 KiB");
    assert_eq!(texts.concat(), "x".repeat(200_000));
    cluster.finish().await;
}

#[tokio::test]
async fn what_looks_like_a_metric_and_is_none_stays_a_line() {
    let cluster = LocalCluster::start(&[1]).await;
    let script = r#"echo '{"step": 1, "loss": NaN}'; echo '{"step": -1}'; echo '{"step": "two"}'; echo '[1]'; echo '{'
        echo '{"step": 3, "note": "warm", "loss": 1e-3}'; echo '{"step": 4}' >> "$CONVOKE_METRICS"; echo junk >> "$CONVOKE_METRICS""#;
    let id = cluster.submit(&sh("almost", script)).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let mut metrics = cluster.metrics(&id).await;
    metrics.sort_by_key(|record| record.step);
    let found: Vec<_> =
        metrics.iter().map(|record| (record.step, record.values.get("loss").copied())).collect();
    assert_eq!(found, [(3, Some(0.001)), (4, None)]);
    assert_eq!(cluster.log(&id).await.len(), 6);
    cluster.finish().await;
}
