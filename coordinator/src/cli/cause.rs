//! Why a job failed, as its agents found out: the lines that show it, what to try, and where to change it.

use convoke_compose::Project;
use convoke_proto::v1;
use serde_json::{Value, json};

use super::text;

/// An explanation, and the line of the user's file where that is at hand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    explanation: v1::Explanation,
    service: String,
    place: Option<Change>,
}

/// Where something is to be changed.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    /// `docker-compose.yml:12`.
    line: String,
    /// `services.train.shm_size`, or what is to be added there.
    what: String,
}

impl Cause {
    pub(crate) fn of(explanation: &v1::Explanation) -> Self {
        Self { explanation: explanation.clone(), service: String::new(), place: None }
    }

    /// What ended the job's last failed generation, if that is known.
    pub(crate) fn of_job(job: &v1::Job) -> Option<Self> {
        let explanation = job.last_failure.as_ref()?.explanation.as_ref()?;
        let service = job.spec.as_ref().map(|spec| spec.service.clone()).unwrap_or_default();
        Some(Self { service, ..Self::of(explanation) })
    }

    /// Finds the line to change in the project that the job came from.
    pub(crate) fn locate(&mut self, project: &Project) {
        let key = self.explanation.key.as_deref();
        self.place = key.and_then(|key| change(project, &self.service, key));
    }

    /// Below the sentence that names the summary.
    pub(crate) fn lines(&self) -> Vec<String> {
        let evidence = self.explanation.evidence.iter().map(|line| format!("    {line}"));
        let advice = format!("  try: {}", self.explanation.advice);
        let place = self.place.iter().map(|change| format!("  {}: {}", change.line, change.what));
        evidence.chain([advice]).chain(place).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let v1::Explanation { cause, summary, evidence, advice, key, rank } = &self.explanation;
        json!({
            "cause": cause, "summary": summary, "evidence": evidence, "advice": advice, "key": key, "rank": rank,
            "place": self.place.as_ref().map(|change| &change.line),
        })
    }

    fn summary(&self) -> &str {
        &self.explanation.summary
    }
}

fn change(project: &Project, service: &str, key: &str) -> Option<Change> {
    let found = project.place_of(service, key)?;
    let what = if found.found {
        format!("services.{service}.{key}")
    } else {
        format!("services.{service}, which has no {key}")
    };
    Some(Change { line: found.place.to_string(), what })
}

/// `rank 1 on node-a: it was killed`, or of a refusal `node-a: there is no such image`.
pub(crate) fn sentence(failure: &v1::Failure) -> Option<String> {
    let summary = &failure.explanation.as_ref()?.summary;
    Some(match (&failure.rank, &failure.node) {
        (Some(rank), Some(node)) => format!("rank {rank} on {node}: {summary}"),
        (None, Some(node)) => format!("{node}: {summary}"),
        (Some(rank), None) => format!("rank {rank}: {summary}"),
        (None, None) => summary.clone(),
    })
}

/// Every other task of the job that ended otherwise than well, those that say the same once. What is only another
/// one's doing is a line.
pub(crate) fn others(job: &v1::Job) -> Vec<String> {
    let told = job.last_failure.as_ref().filter(|failure| failure.generation == job.generation);
    let told = told.and_then(|failure| task_of(job, failure.rank?));
    let mut groups: Vec<(Cause, Vec<u32>)> = Vec::new();
    for (replica, task) in job.replicas.iter().flat_map(|r| r.tasks.iter().map(move |task| (r, task))) {
        let Some(explanation) = task.exit.as_ref().and_then(|exit| exit.explanation.as_ref()) else {
            continue;
        };
        if told == Some(task.rank) {
            continue;
        }
        let ranks = match explanation.rank {
            Some(rank) => rank..rank.saturating_add(1),
            // A task without siblings runs them all.
            None if replica.tasks.len() == 1 => {
                task.rank..task.rank.saturating_add(replica.local_world.max(1))
            }
            None => task.rank..task.rank.saturating_add(1),
        };
        let cause = Cause::of(explanation);
        match groups.iter_mut().find(|(known, _)| known.summary() == cause.summary()) {
            Some((_, known)) => known.extend(ranks),
            None => groups.push((cause, ranks.collect())),
        }
    }
    let block = |(cause, ranks): (Cause, Vec<u32>)| {
        let first = format!("{}: {}", text::rank_list(&ranks), cause.summary());
        let name = cause.explanation.cause.as_str();
        let followed = convoke_explain::is_stop(name) || convoke_explain::is_consequence(name);
        let lines = if followed { Vec::new() } else { cause.lines() };
        [first].into_iter().chain(lines).collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(block).collect()
}

/// The first rank of the task that runs `rank`.
pub(crate) fn task_of(job: &v1::Job, rank: u32) -> Option<u32> {
    let runs = |replica: &&v1::Replica| {
        (replica.first_rank..replica.first_rank.saturating_add(replica.local_world)).contains(&rank)
    };
    let replica = job.replicas.iter().find(runs)?;
    replica.tasks.iter().map(|task| task.rank).filter(|first| *first <= rank).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(summary: &str) -> v1::Explanation {
        v1::Explanation {
            cause: "SharedMemoryFull".into(),
            summary: summary.into(),
            evidence: vec!["dd: no space".into()],
            advice: "raise `shm_size`".into(),
            key: Some("shm_size".into()),
            rank: None,
        }
    }

    fn task(rank: u32, summary: Option<&str>, stopped: bool) -> v1::Task {
        let exit = v1::TaskExit { explanation: summary.map(explanation), stopped, ..Default::default() };
        v1::Task { rank, exit: Some(exit), ..Default::default() }
    }

    #[test]
    fn a_cause_shows_its_lines_then_what_to_try() {
        let failure = v1::Failure {
            rank: Some(1),
            node: Some("a".into()),
            explanation: Some(explanation("full")),
            ..Default::default()
        };
        assert_eq!(sentence(&failure).as_deref(), Some("rank 1 on a: full"));
        let job = v1::Job { last_failure: Some(failure), ..Default::default() };
        let cause = Cause::of_job(&job).unwrap();
        assert_eq!(cause.lines(), ["    dd: no space", "  try: raise `shm_size`"]);
        assert_eq!(cause.json()["place"], Value::Null);
    }

    #[test]
    fn ranks_that_say_the_same_are_told_once_and_those_that_only_followed_in_a_line() {
        let told = v1::Failure { rank: Some(0), generation: 1, ..Default::default() };
        let mut stopped = task(3, Some("Convoke stopped it"), true);
        stopped.exit.as_mut().unwrap().explanation.as_mut().unwrap().cause = "Stopped".into();
        let tasks = vec![
            task(0, Some("the cause"), false),
            task(1, Some("lost"), false),
            task(2, Some("lost"), false),
            stopped,
            task(4, None, false),
        ];
        let replica = v1::Replica { tasks, local_world: 5, ..Default::default() };
        let job = v1::Job {
            generation: 1,
            last_failure: Some(told),
            replicas: vec![replica],
            ..Default::default()
        };
        assert_eq!(others(&job)[0], "ranks 1, 2: lost");
        assert_eq!(others(&job).len(), 4);
        assert_eq!(others(&job)[3], "rank 3: Convoke stopped it");
    }

    #[test]
    fn a_rank_inside_a_task_is_told_as_itself_and_belongs_to_its_task() {
        let mut crashed = task(2, Some("it crashed"), false);
        crashed.exit.as_mut().unwrap().explanation.as_mut().unwrap().rank = Some(3);
        let replica = |first_rank, task| v1::Replica {
            first_rank,
            local_world: 2,
            tasks: vec![task],
            ..Default::default()
        };
        let mut job = v1::Job {
            generation: 1,
            replicas: vec![replica(0, task(0, Some("lost"), false)), replica(2, crashed)],
            ..Default::default()
        };
        assert_eq!((task_of(&job, 3), task_of(&job, 4)), (Some(2), None));
        assert_eq!(others(&job)[3], "rank 3: it crashed");
        job.last_failure = Some(v1::Failure { rank: Some(3), generation: 1, ..Default::default() });
        assert_eq!(others(&job)[0], "ranks 0, 1: lost");
        assert_eq!(others(&job).len(), 3);
    }
}
