//! A decision in the making: a copy of the state on which each change takes effect at once, so
//! that later rules of the same decision see the earlier ones.

use std::collections::BTreeSet;

use convoke_model::{EventLevel, EventRecord, Generation, JobId, NodeId, NodeState, Revision, Timestamp};

use crate::session::Sessions;
use crate::{Change, Changes, Config, Denied, Job, JobRun, Node, State};

pub(crate) struct Draft<'a> {
    pub(crate) config: &'a Config,
    pub(crate) sessions: &'a Sessions,
    pub(crate) now: Timestamp,
    pub(crate) state: State,
    changes: Vec<Change>,
    events: Vec<EventRecord>,
    /// Nodes whose desired state has changed.
    touched: BTreeSet<NodeId>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(config: &'a Config, sessions: &'a Sessions, state: &State, now: Timestamp) -> Self {
        let state = state.clone();
        Self {
            config,
            sessions,
            now,
            state,
            changes: Vec::new(),
            events: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    pub(crate) fn make(&mut self, change: Change) {
        self.state.take(self.now, &change);
        self.changes.push(change);
    }

    /// The decision's changes; `None` if there are none.
    pub(crate) fn into_changes(mut self) -> Option<Changes> {
        if !self.touched.is_empty() {
            let nodes = std::mem::take(&mut self.touched).into_iter().collect();
            self.make(Change::Desired { revision: self.next_revision(), nodes });
        }
        let changes = Changes { at: self.now, changes: self.changes, events: self.events };
        (!changes.changes.is_empty()).then_some(changes)
    }

    /// The revision that this decision makes, if it changes any node's desired state.
    pub(crate) fn next_revision(&self) -> Revision {
        self.state.revision.next()
    }

    pub(crate) fn node_state(&self, node: &Node) -> NodeState {
        self.sessions.state(self.config, node, self.now)
    }

    pub(crate) fn find(&self, id: &JobId) -> Result<&Job, Denied> {
        self.state.jobs.get(id).map(|job| &**job).ok_or_else(|| Denied::UnknownJob(id.to_string()))
    }

    pub(crate) fn job(&self, id: &JobId) -> &Job {
        self.state.jobs.get(id).expect("ids within a decision come from the state, which drops jobs last")
    }

    /// Changes a job's run, if `edit` does.
    pub(crate) fn edit(&mut self, id: &JobId, edit: impl FnOnce(&mut JobRun)) {
        let mut run = self.job(id).run.clone();
        edit(&mut run);
        if run != self.job(id).run {
            self.make(Change::JobRun { job: id.clone(), run: Box::new(run) });
        }
    }

    /// Every node of the job's gang gets a new desired state.
    pub(crate) fn touch_gang(&mut self, id: &JobId) {
        let gang = self.state.jobs.get(id).and_then(|job| job.run.gang.as_ref());
        let nodes = gang.into_iter().flat_map(|gang| &gang.placement.replicas).map(|r| r.node.clone());
        self.touched.extend(nodes);
    }

    pub(crate) fn tell_job(&mut self, level: EventLevel, kind: &str, id: &JobId, message: String) {
        let job = self.job(id);
        let generation = (job.run.generation > Generation(0)).then_some(job.run.generation);
        let (name, id) = (job.spec.name.clone(), id.clone());
        let record = self.record(level, kind, message);
        self.events.push(EventRecord { job: Some(id), job_name: Some(name), generation, ..record });
    }

    pub(crate) fn tell_node(&mut self, level: EventLevel, kind: &str, node: &NodeId, message: String) {
        let record = self.record(level, kind, message);
        self.events.push(EventRecord { node: Some(node.clone()), ..record });
    }

    pub(crate) fn tell(&mut self, kind: &str, message: String) {
        self.events.push(self.record(EventLevel::Info, kind, message));
    }

    fn record(&self, level: EventLevel, kind: &str, message: String) -> EventRecord {
        EventRecord {
            at: self.now,
            level,
            kind: kind.to_owned(),
            job: None,
            job_name: None,
            generation: None,
            node: None,
            message,
        }
    }
}
