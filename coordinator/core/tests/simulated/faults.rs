//! What may happen: users, agents, trainers and the network at their usual and at their worst.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use super::agent::{Agent, Link};
use super::world::{Violation, World};
use crate::support::{shard, spec};

type Done = Result<(), Violation>;

impl World {
    pub(crate) fn submit(&mut self) -> Done {
        let dice = &mut self.dice;
        let name = ["p", "q", "r", "s"][dice.below(4)];
        let mut spec = spec(name, dice.upto(3), dice.upto(3));
        spec.priority = i32::try_from(dice.below(3)).unwrap();
        spec.restart.application = [Some(0), Some(2), None][dice.below(3)];
        spec.restart.infrastructure = [Some(1), Some(3), None][dice.below(3)];
        spec.restart.delay = Duration::from_secs([0, 0, 7][dice.below(3)]);
        spec.restart.after_success = dice.percent(20);
        spec.time_limit = dice.percent(15).then(|| Duration::from_secs(90));
        spec.fence = dice.percent(35).then(|| Duration::from_secs(60));
        spec.checkpoint.keep = dice.upto(2);
        if dice.percent(50) {
            spec.checkpoint.shards = Shards::All;
        }
        if dice.percent(20) {
            spec.layout = RankLayout::PerNode;
        }
        if dice.percent(15) {
            spec.devices.count = DeviceCount::All;
        }
        self.share(&mut spec);
        let dice = &mut self.dice;
        let (replace, wait_for_nodes) = (dice.percent(50), dice.percent(30));
        // Now and then a key is used again.
        let number = self.jobs.len() - usize::from(!self.jobs.is_empty() && self.dice.percent(10));
        let id = JobId::new(&format!("job-{}", self.jobs.len())).unwrap();
        let key = IdempotencyKey::new(&format!("key-{number}")).unwrap();
        let event = Event::Submit { id: id.clone(), key, spec: Box::new(spec), replace, wait_for_nodes };
        if let Ok(Decision::Changes(_)) = self.event(event)? {
            self.jobs.push(id);
        }
        Ok(())
    }

    /// Now and then it waits for the first service, if that was ever submitted, and mounts what that writes.
    fn share(&mut self, spec: &mut JobSpec) {
        const FIRST: &str = "p";
        let content = TreeRef { digest: Digest([1; 32]), files: 0, bytes: 0 };
        let mount = Mount {
            kind: MountKind::Bind,
            source: "./x".to_owned(),
            target: "/x".to_owned(),
            read_only: spec.service != FIRST,
            content: Some(content),
            shared: None,
        };
        spec.container.volumes.push(mount);
        let there = self.core.jobs().iter().any(|job| job.spec.service == FIRST);
        if spec.service != FIRST && there && self.dice.percent(25) {
            let conditions = [DependsCondition::Started, DependsCondition::CompletedSuccessfully];
            let condition = conditions[self.dice.below(2)];
            spec.container.depends_on.insert(FIRST.to_owned(), condition);
        }
    }

    pub(crate) fn stop(&mut self) -> Done {
        let grace = self.dice.percent(50).then(|| Duration::from_secs(1));
        let job = self.some_job();
        self.event(Event::Stop { job, grace }).map(drop)
    }

    pub(crate) fn restart_job(&mut self) -> Done {
        let job = self.some_job();
        self.event(Event::Restart { job }).map(drop)
    }

    pub(crate) fn connect_someone(&mut self) -> Done {
        let node = self.some_node();
        if self.agents[&node].link != Link::Open { self.connect(&node) } else { Ok(()) }
    }

    pub(crate) fn connect(&mut self, node: &NodeId) -> Done {
        let agent = &self.agents[node];
        let (info, instance) = (agent.info.clone(), agent.instance());
        let hello = Event::NodeHello { info, instance: instance.clone(), cluster: None };
        if self.event(hello)?.is_err() {
            return Ok(());
        }
        self.core.observe(self.now, Observation::SessionOpened { node: node.clone(), instance });
        self.checks.heard.insert(node.clone(), self.now);
        let agent = self.agents.get_mut(node).unwrap();
        agent.link = Link::Open;
        agent.acknowledged = self.now;
        agent.inbox.clear();
        agent.sent.clear();
        self.push(node);
        self.report(node)
    }

    pub(crate) fn step_agent(&mut self) -> Done {
        let node = self.some_node();
        self.step(&node)
    }

    /// The agent takes in a message, does some of its work, and says so.
    pub(crate) fn step(&mut self, node: &NodeId) -> Done {
        let (now, calm) = (self.now, self.calm);
        let agent = self.agents.get_mut(node).unwrap();
        if agent.link == Link::Open {
            agent.accept();
        }
        agent.work(&mut self.dice, now, calm);
        if calm || self.dice.percent(80) { self.report(node) } else { Ok(()) }
    }

    pub(crate) fn report(&mut self, node: &NodeId) -> Done {
        let agent = self.agents.get_mut(node).unwrap();
        if agent.link != Link::Open {
            return Ok(());
        }
        let observed = agent.report();
        if agent.sent.last() == Some(&observed) {
            return Ok(());
        }
        agent.sent.push(observed.clone());
        agent.acknowledged = self.now;
        self.core.observe(self.now, Observation::Heard { node: node.clone() });
        self.event(Event::NodeObserved { node: node.clone(), observed }).map(drop)
    }

    /// A message of the same session once more, or out of order.
    pub(crate) fn late_message(&mut self) -> Done {
        let node = self.some_node();
        self.repeat(&node)
    }

    pub(crate) fn repeat(&mut self, node: &NodeId) -> Done {
        let agent = &self.agents[node];
        // Mostly one of the last few: those before them differ from what is known in any case.
        let few = agent.sent.len().saturating_sub(if self.dice.percent(70) { 3 } else { 1_000 });
        let Some(observed) = self.dice.pick(&agent.sent[few..]).cloned() else { return Ok(()) };
        if agent.link != Link::Open {
            return Ok(());
        }
        self.event(Event::NodeObserved { node: node.clone(), observed })?.map_err(|e| e.to_string())?;
        Ok(())
    }

    pub(crate) fn end_task(&mut self) -> Done {
        let node = self.some_node();
        let (now, dice) = (self.now, &mut self.dice);
        let status = match dice.below(20) {
            0 => ExitStatus::Code(3),
            1 => ExitStatus::Signal(9),
            2 => ExitStatus::Signal(11),
            _ => ExitStatus::Code(0),
        };
        end_one(self.agents.get_mut(&node).unwrap(), status, now);
        if self.dice.percent(80) { self.report(&node) } else { Ok(()) }
    }

    pub(crate) fn fault(&mut self) -> Done {
        let node = self.some_node();
        let kind = self.dice.below(10);
        self.note(format_args!("fault {kind} on {node}"));
        let agent = self.agents.get_mut(&node).unwrap();
        match kind {
            0..4 => return self.disconnect(&node),
            4..7 => agent.link = if agent.link == Link::Open { Link::Cut } else { agent.link },
            7..9 => {
                agent.reboot(self.now);
                return self.disconnect(&node);
            }
            _ => {
                agent.reinstall();
                return self.disconnect(&node);
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, node: &NodeId) -> Done {
        let agent = self.agents.get_mut(node).unwrap();
        agent.inbox.clear();
        if agent.link == Link::Closed {
            return Ok(());
        }
        agent.link = Link::Closed;
        self.core.observe(self.now, Observation::SessionClosed { node: node.clone() });
        self.event(Event::Tick).map(drop)
    }

    pub(crate) fn publish(&mut self) -> Done {
        let job = self.some_job();
        let current = self.core.job(&job).map_or(Generation(1), |job| job.generation);
        let generation = Generation(current.0.saturating_sub(u64::from(self.dice.percent(20))));
        let group = GroupName::new(["world", "tensor"][self.dice.below(2)]).unwrap();
        let id = vec![u8::from(self.dice.percent(20)); if self.dice.percent(10) { 127 } else { 128 }];
        self.event(Event::PublishUniqueId { job, generation, group, id }).map(drop)
    }

    pub(crate) fn store(&mut self) -> Done {
        let job = self.some_job();
        let Some(view) = self.core.job(&job) else { return Ok(()) };
        let generation = Generation(view.generation.0.saturating_sub(u64::from(self.dice.percent(20))));
        let step = Step(10 * (1 + self.dice.below(5) as u64));
        let reference = CheckpointRef { job, generation, step };
        for rank in 0..view.world_size {
            if self.dice.percent(85) {
                let shard = shard(rank, u8::from(self.dice.percent(5)));
                self.event(Event::ShardStored { reference: reference.clone(), shard })?.ok();
            }
        }
        Ok(())
    }
}

/// The first task that runs ends.
pub(crate) fn end_one(agent: &mut Agent, status: ExitStatus, at: Timestamp) -> bool {
    for held in agent.replicas.values_mut() {
        let running = |task: &&mut ObservedTask| matches!(task.phase, TaskPhase::Running { .. });
        if let Some(task) = held.tasks.iter_mut().find(running) {
            task.phase = TaskPhase::Exited(TaskExit::new(status, at));
            held.settle();
            return true;
        }
    }
    false
}
