//! What a change of a job means, in a sentence.

use convoke_proto::v1;

use crate::cli::{ps, text};

/// What is worth telling of the change from `before` to `now`; the job's end, and why it failed for good, are
/// told by [`end`] and the command's error. `reason` is the one that was told last.
pub(crate) fn changes(before: Option<&v1::Job>, now: &v1::Job, reason: &mut String) -> Vec<String> {
    let mut told = Vec::new();
    let goes_on = |job: &v1::Job| !text::is_final(job) && job.state() != v1::JobState::Stopping;
    let failed = |job: &v1::Job| job.last_failure.as_ref().map(|f| f.generation).filter(|_| goes_on(job));
    if let Some(failure) = &now.last_failure
        && failed(now).is_some()
        && before.and_then(failed) != failed(now)
    {
        told.push(format!("generation {} failed: {}", failure.generation, anew(reason, &failure.message)));
    }
    told.extend(of_replicas(before.filter(|b| b.generation == now.generation), now));
    let phase = |job: &v1::Job| (job.state(), job.generation);
    if before.map(phase) == Some(phase(now)) && before.map(|b| &b.reason) == Some(&now.reason) {
        return told;
    }
    let generation = now.generation;
    match now.state() {
        v1::JobState::Queued if now.reason.is_empty() => told.push("queued".to_owned()),
        v1::JobState::Queued => told.push(format!("queued: {}", anew(reason, &now.reason))),
        v1::JobState::Starting => told.push(starting(now)),
        v1::JobState::Running if before.map(phase) != Some(phase(now)) => {
            told.push(format!(
                "generation {generation} runs, {}",
                text::count(now.world_size as usize, "rank")
            ));
        }
        v1::JobState::Stopping if is_failure(&now.reason, now) => {
            // What has become known of the failure since is told once that is all.
            if before.map(phase) != Some(phase(now)) {
                told.push(format!("generation {generation} stops: {}", in_short(now)));
            }
        }
        v1::JobState::Stopping if now.reason.is_empty() => {
            told.push(format!("generation {generation} stops"))
        }
        v1::JobState::Stopping => told.push(format!("generation {generation} stops: {}", now.reason)),
        v1::JobState::Running
        | v1::JobState::Unspecified
        | v1::JobState::Succeeded
        | v1::JobState::Failed
        | v1::JobState::Stopped => {}
    }
    told
}

/// `reason`, unless it is the one that was told last.
fn anew<'a>(told: &mut String, reason: &'a str) -> &'a str {
    if told == reason {
        return "as before";
    }
    reason.clone_into(told);
    reason
}

fn is_failure(reason: &str, job: &v1::Job) -> bool {
    job.last_failure.as_ref().is_some_and(|failure| failure.message == reason)
}

/// Which task's end stops a gang, before it is known why that ended.
fn in_short(job: &v1::Job) -> String {
    match &job.last_failure {
        Some(v1::Failure { rank: Some(rank), node: Some(node), exit: Some(exit), .. }) => {
            // Which of a task's ranks it was, is not known yet.
            let alone = |r: &&v1::Replica| r.first_rank == *rank && r.tasks.len() == 1;
            let ranks = job.replicas.iter().find(alone).map_or(1, |replica| replica.local_world);
            format!("{} on {node}: {}", text::ranks(*rank, ranks), text::exit(exit))
        }
        _ => job.reason.clone(),
    }
}

/// Long steps that have begun, and problems that have come up, on each node.
fn of_replicas(before: Option<&v1::Job>, now: &v1::Job) -> Vec<String> {
    let mut told = Vec::new();
    for replica in &now.replicas {
        let old = before.and_then(|job| job.replicas.iter().find(|r| r.node_rank == replica.node_rank));
        let what = |replica: &v1::Replica| replica.progress.as_ref().map(|p| p.what.clone());
        if let Some(progress) = &replica.progress
            && old.and_then(what).as_ref() != Some(&progress.what)
        {
            let size =
                if progress.total > 0 { format!(", {}", text::size(progress.total)) } else { String::new() };
            told.push(format!("{} {}{size}", replica.node, progress.what));
        }
        let new = |c: &&v1::Condition| old.is_none_or(|old| !old.conditions.contains(c));
        let conditions = replica.conditions.iter().filter(new);
        told.extend(conditions.map(|c| format!("warning: {}: {}", replica.node, c.message)));
    }
    told
}

fn starting(job: &v1::Job) -> String {
    let from = match &job.resumed_from {
        Some(c) => format!(", from the checkpoint at step {}", c.step),
        None if job.started_unix_ms.is_some() => {
            ", from the beginning: there is no complete checkpoint".to_owned()
        }
        None => String::new(),
    };
    format!("generation {} starts on {}{from}", job.generation, text::placement(&job.replicas))
}

/// How a job ended.
pub(crate) fn end(job: &v1::Job) -> String {
    let generations = text::count(usize::try_from(job.generation).unwrap_or(usize::MAX), "generation");
    let ran = if job.started_unix_ms.is_some() { format!(" after {}", ps::ran(job)) } else { String::new() };
    let checkpoint = match &job.latest_checkpoint {
        Some(c) => format!(", newest checkpoint at step {}", c.step),
        None => String::new(),
    };
    format!("{}{ran}, {generations}{checkpoint}", text::job_state(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To somebody who was told nothing before.
    fn of(before: Option<&v1::Job>, now: &v1::Job) -> Vec<String> {
        changes(before, now, &mut String::new())
    }

    fn job(state: v1::JobState, generation: u64) -> v1::Job {
        v1::Job { state: state.into(), generation, ..Default::default() }
    }

    #[test]
    fn a_failure_and_the_restart_from_a_checkpoint_are_told() {
        let before = job(v1::JobState::Running, 1);
        let mut now = job(v1::JobState::Starting, 2);
        now.last_failure =
            Some(v1::Failure { message: "rank 2 was killed".into(), generation: 1, ..Default::default() });
        now.resumed_from = Some(v1::CheckpointRef { step: 63, ..Default::default() });
        let told = of(Some(&before), &now);
        assert_eq!(told[0], "generation 1 failed: rank 2 was killed");
        assert!(told[1].starts_with("generation 2 starts") && told[1].ends_with("checkpoint at step 63"));
        assert!(of(Some(&now), &now).is_empty());
    }

    #[test]
    fn a_long_step_and_a_warning_of_a_node_are_told_once() {
        let progress = v1::Progress { what: "pulls the image".into(), done: 1, total: 2048 };
        let condition = v1::Condition { name: "NeverMet".into(), message: "nobody listens".into() };
        let replica = v1::Replica {
            node: "a".into(),
            progress: Some(progress),
            conditions: vec![condition],
            ..Default::default()
        };
        let now = v1::Job { replicas: vec![replica], ..job(v1::JobState::Starting, 1) };
        let before = job(v1::JobState::Starting, 1);
        assert_eq!(of(Some(&before), &now), ["a pulls the image, 2.0 KiB", "warning: a: nobody listens"]);
        let mut later = now.clone();
        later.replicas[0].progress.as_mut().unwrap().done = 2;
        assert!(of(Some(&now), &later).is_empty());
    }

    #[test]
    fn a_failure_is_told_in_short_when_it_stops_the_gang_and_in_full_when_the_job_goes_on() {
        let exit = v1::TaskExit { status: Some(v1::task_exit::Status::Code(3)), ..Default::default() };
        let failure = |message: &str| v1::Failure {
            message: message.into(),
            generation: 1,
            rank: Some(2),
            node: Some("a".into()),
            exit: Some(exit.clone()),
            ..Default::default()
        };
        let with = |state, generation, message: &str| v1::Job {
            reason: message.into(),
            last_failure: Some(failure(message)),
            ..job(state, generation)
        };
        let running = job(v1::JobState::Running, 1);
        let bare = with(v1::JobState::Stopping, 1, "rank 2 on a exited with code 3");
        let known = with(v1::JobState::Stopping, 1, "rank 2 on a: /dev/shm was full");
        let next = with(v1::JobState::Starting, 2, "rank 2 on a: /dev/shm was full");
        let over = with(v1::JobState::Failed, 1, "rank 2 on a: /dev/shm was full");
        assert_eq!(of(Some(&running), &bare), ["generation 1 stops: rank 2 on a: exit code 3"]);
        assert!(of(Some(&bare), &known).is_empty());
        assert_eq!(of(Some(&known), &next)[0], "generation 1 failed: rank 2 on a: /dev/shm was full");
        assert!(of(Some(&known), &over).is_empty(), "the command's error tells it");
    }

    #[test]
    fn a_reason_that_comes_again_is_not_told_again() {
        let mut told = String::new();
        let mut queued = job(v1::JobState::Queued, 1);
        queued.reason = "node a could not prepare it".into();
        let starting = job(v1::JobState::Starting, 2);
        let again = v1::Job { generation: 2, ..queued.clone() };
        assert_eq!(changes(None, &queued, &mut told), ["queued: node a could not prepare it"]);
        changes(Some(&queued), &starting, &mut told);
        assert_eq!(changes(Some(&starting), &again, &mut told), ["queued: as before"]);
    }

    #[test]
    fn a_queued_job_tells_its_reason_when_that_changes() {
        let mut waiting = job(v1::JobState::Queued, 0);
        waiting.reason = "needs 2 nodes".into();
        assert_eq!(of(None, &waiting), ["queued: needs 2 nodes"]);
        assert!(of(Some(&waiting), &waiting.clone()).is_empty());
    }
}
