//! `depends_on`: a job's first start waits for other services of its project.
//!
//! Later generations do not ask again, as Compose does not. A service stands for the newest job of the
//! project that was made from it; one that ended without what is waited for fails the job that waits.

use convoke_model::{DependsCondition, Generation, Health, JobState, NodeState, TaskPhase};

use crate::Job;
use crate::draft::Draft;
use crate::gang::Member;
use crate::project::leaves_files;

/// Whether what a job depends on is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dependencies {
    Met,
    /// Why it waits.
    Waiting(String),
    /// Why it will never be met.
    Broken(String),
}

impl Draft<'_> {
    pub(crate) fn dependencies(&self, job: &Job) -> Dependencies {
        if job.run.generation > Generation(0) {
            return Dependencies::Met;
        }
        let mut waiting = None;
        for (service, condition) in &job.spec.container.depends_on {
            match self.dependency(job, service, *condition) {
                Dependencies::Met => {}
                Dependencies::Waiting(reason) => waiting = waiting.or(Some(reason)),
                broken @ Dependencies::Broken(_) => return broken,
            }
        }
        waiting.map_or(Dependencies::Met, Dependencies::Waiting)
    }

    fn dependency(&self, job: &Job, service: &str, condition: DependsCondition) -> Dependencies {
        let Some(other) = self.service_of(job, service) else {
            return Dependencies::Waiting(format!(
                "waits for service {service}, which is not submitted; see: convoke up {service}"
            ));
        };
        let name = &other.spec.name;
        let state = other.run.phase.state();
        let waits = |what: &str| Dependencies::Waiting(format!("waits for job \"{name}\" to {what}"));
        match (condition, state) {
            (DependsCondition::CompletedSuccessfully, JobState::Succeeded)
                if self.state.is_returning_files(other) && leaves_files(other, job) =>
            {
                waits("bring back its files")
            }
            (DependsCondition::Started, JobState::Running | JobState::Succeeded)
            | (DependsCondition::CompletedSuccessfully, JobState::Succeeded) => Dependencies::Met,
            (DependsCondition::Healthy, JobState::Running) => health(&self.members(other), name.as_str()),
            (_, JobState::Failed | JobState::Stopped | JobState::Succeeded) => Dependencies::Broken(format!(
                "depends on job \"{name}\", which has ended ({}) before it was {}",
                if state == JobState::Succeeded { "succeeded" } else { other.run.phase.reason() },
                wanted(condition)
            )),
            (DependsCondition::Started, _) => waits("run"),
            (DependsCondition::Healthy, _) => waits("be healthy"),
            (DependsCondition::CompletedSuccessfully, _) => waits("succeed"),
        }
    }
}

fn wanted(condition: DependsCondition) -> &'static str {
    match condition {
        DependsCondition::Started => "running",
        DependsCondition::Healthy => "healthy",
        DependsCondition::CompletedSuccessfully => "finished",
    }
}

/// Healthy is every task that says so.
fn health(members: &[Member<'_>], name: &str) -> Dependencies {
    let said: Vec<Option<Health>> = members.iter().flat_map(said_by).collect();
    if said.iter().all(|health| *health == Some(Health::Healthy)) {
        return Dependencies::Met;
    }
    let problem = if said.contains(&Some(Health::Unhealthy)) {
        "to be healthy; its health check fails now"
    } else if said.contains(&None) {
        "to be healthy, but it has no health check; give it one, or depend on service_started"
    } else {
        "to be healthy"
    };
    Dependencies::Waiting(format!("waits for job \"{name}\" {problem}"))
}

/// What each task of a member says. Of a node that is not heard nothing is known now, whatever it said
/// last.
fn said_by(member: &Member<'_>) -> Vec<Option<Health>> {
    match member.observed {
        Some(observed) if member.state == NodeState::Ready && !observed.tasks.is_empty() => {
            observed.tasks.iter().map(|task| said_of(&task.phase)).collect()
        }
        _ => vec![Some(Health::Starting)],
    }
}

fn said_of(phase: &TaskPhase) -> Option<Health> {
    match phase {
        TaskPhase::Running { health, .. } => *health,
        TaskPhase::Waiting | TaskPhase::Exited(_) => Some(Health::Starting),
    }
}
