//! A gang of four ranks on two nodes, from its submission to its end.

use std::collections::{BTreeMap, BTreeSet};

use convoke_proto::v1;
use convoke_tests::{LocalCluster, checkpoint, procfs, sh};

const LINES: usize = 300;

fn script() -> String {
    format!(
        r#"echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $NODE_RANK $CONVOKE_GENERATION $MASTER_ADDR:$MASTER_PORT"
        echo "$GREETING" >&2
        i=1; while [ $i -lt {LINES} ]; do echo "line $i"; i=$((i + 1)); done
        echo '{{"step": 1, "loss": 0.5}}'
        echo '{{"step": 2, "accuracy": 0.25}}' >> "$CONVOKE_METRICS"
        if [ "$RANK" = 0 ]; then {}; fi"#,
        checkpoint(2, "trained")
    )
}

#[tokio::test]
async fn a_gang_of_four_ranks_on_two_nodes_runs_to_success_and_everything_comes_back() {
    let cluster = LocalCluster::start(&[2, 2]).await;
    let id = cluster.submit(&sh("gang", &script()).gang(2, 2).variable("GREETING", "good day")).await;
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(procfs::of_job(&id), [], "tasks are left");
    has_contiguous_ranks(&job);
    let log = cluster.log(&id).await;
    has_every_line_in_order(&log);
    environment_is_the_gangs(&log);
    metrics_came(&cluster.metrics(&id).await);

    let checkpoints = cluster.checkpoints(&id).await;
    assert_eq!(checkpoints.len(), 1);
    assert_eq!(checkpoints[0].state(), v1::CheckpointState::Complete);
    assert_eq!((checkpoints[0].bytes, checkpoints[0].reference.as_ref().unwrap().step), (7, 2));
    assert_eq!(cluster.pull(&id).await, [(0, "weights".to_owned(), b"trained".to_vec())]);
    assert_eq!(job.latest_checkpoint, checkpoints[0].reference);

    let kinds = cluster.event_kinds(&id).await;
    let story = ["JobSubmitted", "GenerationPlaced", "GenerationReleased", "JobRunning", "JobSucceeded"];
    let told: Vec<_> = kinds.iter().filter(|kind| story.contains(&kind.as_str())).collect();
    assert_eq!(told, story, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "CheckpointComplete").count(), 1);
    cluster.finish().await;
}

fn has_contiguous_ranks(job: &v1::Job) {
    assert_eq!((job.generation, job.world_size), (1, 4));
    let replicas: Vec<_> =
        job.replicas.iter().map(|r| (r.node.as_str(), r.node_rank, r.first_rank, r.local_world)).collect();
    assert_eq!(replicas, [("node-0", 0, 0, 2), ("node-1", 1, 2, 2)]);
    let tasks: Vec<_> = job.replicas.iter().flat_map(|r| &r.tasks).collect();
    assert_eq!(tasks.iter().map(|task| task.rank).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for task in tasks {
        let exit = task.exit.as_ref().expect("it has exited");
        assert_eq!(exit.status, Some(v1::task_exit::Status::Code(0)));
        assert!(!exit.stopped);
    }
    assert!(
        job.started_unix_ms >= Some(job.submitted_unix_ms) && job.finished_unix_ms >= job.started_unix_ms
    );
}

fn has_every_line_in_order(log: &[v1::LogLine]) {
    let mut ranks: BTreeMap<u32, Vec<&v1::LogLine>> = BTreeMap::new();
    for line in log {
        ranks.entry(line.rank).or_default().push(line);
    }
    assert_eq!(ranks.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (rank, lines) in ranks {
        let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
        assert_eq!(sequences, (0..lines.len() as u64).collect::<Vec<_>>(), "rank {rank}");
        assert!(lines.iter().all(|line| line.node == format!("node-{}", rank / 2) && line.generation == 1));
        let of =
            |source| lines.iter().filter(move |line| line.source() == source).map(|line| line.text.as_str());
        assert_eq!(of(v1::LogSource::Stderr).collect::<Vec<_>>(), ["good day"]);
        let printed: Vec<_> = of(v1::LogSource::Stdout).skip(1).take(LINES - 1).map(str::to_owned).collect();
        assert_eq!(printed, (1..LINES).map(|i| format!("line {i}")).collect::<Vec<_>>());
    }
}

fn environment_is_the_gangs(log: &[v1::LogLine]) {
    let first = |rank| {
        let is_it = |line: &&v1::LogLine| line.rank == rank && line.source() == v1::LogSource::Stdout;
        log.iter().find(is_it).expect("every rank prints").text.clone()
    };
    let mut masters = BTreeSet::new();
    for rank in 0..4 {
        let line = first(rank);
        let (numbers, master) = line.rsplit_once(' ').expect("words");
        assert_eq!(numbers, format!("{rank} {} 4 2 {} 1", rank % 2, rank / 2));
        masters.insert(master.to_owned());
    }
    assert_eq!(masters.len(), 1, "every rank has the same master: {masters:?}");
    let master = masters.first().expect("one");
    assert!(master.starts_with("127.0.0.1:") && !master.ends_with(":0"), "{master}");
}

fn metrics_came(records: &[v1::MetricRecord]) {
    for rank in 0..4 {
        let mine = records.iter().filter(|record| record.rank == rank);
        let mut mine: Vec<_> = mine.map(|record| (record.step, record.values.clone())).collect();
        mine.sort_by_key(|(step, _)| *step);
        let expected = [(1, [("loss".to_owned(), 0.5)].into()), (2, [("accuracy".to_owned(), 0.25)].into())];
        assert_eq!(mine, expected, "rank {rank}");
    }
}

#[tokio::test]
async fn every_rank_of_a_sharded_checkpoint_stores_its_part_and_finds_all_parts_on_resume() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let script = format!(
        r#"if [ -n "$CONVOKE_RESUME_FROM" ]; then
             echo "found $(cat "$CONVOKE_RESUME_FROM/rank-0/weights") $(cat "$CONVOKE_RESUME_FROM/rank-1/weights")"
             exit 0
           fi
           {}"#,
        checkpoint(7, "part").replace("'part'", "\"part-$RANK\"")
    );
    let all = |spec: &mut v1::JobSpec| {
        spec.checkpoint.get_or_insert_default().shards = v1::Shards::All.into();
    };
    let id = cluster.submit(&sh("sharded", &script).gang(2, 1).with(all)).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let checkpoints = cluster.checkpoints(&id).await;
    assert_eq!(checkpoints[0].state(), v1::CheckpointState::Complete);
    assert_eq!(checkpoints[0].expected_ranks, [0, 1]);

    cluster.jobs().restart_job(v1::RestartJobRequest { job: id.clone() }).await.unwrap();
    let second = |job: &v1::Job| job.generation == 2 && job.state() == v1::JobState::Succeeded;
    let job = cluster.wait_for(&id, "the second generation succeeded", second).await;
    assert_eq!(job.resumed_from, checkpoints[0].reference);
    let found = cluster.log(&id).await.into_iter().filter(|line| line.text == "found part-0 part-1");
    assert_eq!(found.count(), 2);
    cluster.finish().await;
}

#[tokio::test]
async fn a_task_per_node_with_two_slots_finds_the_torchrun_contract_and_no_rank() {
    let cluster = LocalCluster::start(&[2, 2]).await;
    let script = r#"echo "${RANK-none} ${WORLD_SIZE-none} $PET_NNODES $PET_NPROC_PER_NODE $PET_NODE_RANK $PET_MASTER_ADDR""#;
    let per_node = |spec: &mut v1::JobSpec| spec.layout = v1::RankLayout::PerNode.into();
    let id = cluster.submit(&sh("torchrun", script).gang(2, 2).with(per_node)).await;
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.world_size, 4);
    let mut lines: Vec<_> = cluster.log(&id).await.into_iter().map(|line| line.text).collect();
    lines.sort();
    assert_eq!(lines, ["none none 2 2 0 127.0.0.1", "none none 2 2 1 127.0.0.1"]);
    cluster.finish().await;
}
