//! The end of every life: faults stop, agents are quick, tasks end with 0; then every job must
//! have ended, or wait for nodes that are not there; one that starts over for ever is stopped. In some lives one node never comes back.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use super::agent::{Agent, Link};
use super::faults::end_one;
use super::world::{Violation, World};

/// Turns of all agents, each with some seconds: enough for every job of a life to run through all
/// its pauses, one after the other.
const TURNS: u32 = 400;

impl World {
    pub(crate) fn calm_down(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.note(format_args!("calm"));
        let dead = if self.dice.percent(30) { Some(self.some_node()) } else { None };
        if let Some(node) = &dead {
            self.note(format_args!("{node} is gone for ever"));
            self.agents.get_mut(node).unwrap().link = Link::Cut;
        }
        self.stop_what_starts_over()?;
        for _ in 0..TURNS {
            self.turn(dead.as_ref())?;
            if self.is_over(dead.as_ref()) {
                return Ok(());
            }
        }
        let left = self.core.jobs().into_iter().filter(|job| !job.state.is_final());
        let left: Vec<String> = left.map(|j| format!("{} {:?}: {}", j.id, j.state, j.reason)).collect();
        Err(format!("after the faults these jobs came to no end: {}", left.join("; ")))
    }

    fn stop_what_starts_over(&mut self) -> Result<(), Violation> {
        let over = |job: &JobView| !job.state.is_final() && job.spec.restart.after_success;
        for job in self.core.jobs().into_iter().filter(over) {
            self.event(Event::Stop { job: job.id, grace: None })?
                .expect("a job that has not ended can be stopped");
        }
        Ok(())
    }

    fn turn(&mut self, dead: Option<&NodeId>) -> Result<(), Violation> {
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        for node in nodes.into_iter().filter(|node| Some(node) != dead) {
            if self.agents[&node].link != Link::Open {
                self.connect(&node)?;
            }
            let now = self.now;
            let agent = self.agents.get_mut(&node).unwrap();
            while end_one(agent, ExitStatus::Code(0), now) {}
            for _ in 0..2 {
                self.step(&node)?;
            }
            if self.dice.percent(10) {
                self.repeat(&node)?;
            }
        }
        self.pass(Duration::from_secs(3))
    }

    /// Every job has ended or waits for what is not there, and all agents are as they should be.
    fn is_over(&self, dead: Option<&NodeId>) -> bool {
        let idle = |(node, agent): (&NodeId, &Agent)| {
            Some(node) == dead || (agent.replicas.is_empty() && agent.inbox.is_empty())
        };
        let waits_for_nodes = |job: &JobView| {
            let plan = self.core.plan(self.now, &job.spec, &[]).expect("it was accepted once");
            job.state == JobState::Queued && plan.placement.is_err()
        };
        let jobs = self.core.jobs();
        let waits_for_another = |job: &JobView| {
            let depends = &job.spec.container.depends_on;
            let mut others = jobs.iter().filter(|other| depends.contains_key(&other.spec.service));
            job.state == JobState::Queued && others.any(waits_for_nodes)
        };
        self.agents.iter().all(idle)
            && jobs.iter().all(|job| job.state.is_final() || waits_for_nodes(job) || waits_for_another(job))
    }
}
