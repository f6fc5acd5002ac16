//! Finding the tasks that an earlier agent left: by their directories, and by their containers' labels.
//!
//! | directory | container | what it is |
//! |---|---|---|
//! | with an exit record | any or none | ended |
//! | yes | made, never started | what a crash left of a start: both go |
//! | yes | running or ended | a task, watched again |
//! | says that it was made | none | a task whose container somebody removed |
//! | does not say so | none | what a crash left of a start: it goes |
//! | none | running or ended | a task, its directory is made again |
//! | any | the engine is away | a task of which nobody knows more; watched when the engine is back |
//! | yes, its record damaged | any | the same, by the directory's name and what the engine knows of the container |
//!
//! If the engine is away, or the host has restarted, a container that is then found to have ended did so
//! with it, as far as anybody can tell. If the engine is there it may have restarted while no agent was: then it must
//! tell of the end of a container that counts as ended by itself.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::ListContainersOptionsBuilder;
use tokio::time::sleep;
use tracing::{info, warn};

use super::super::layout::whole;
use super::super::procfs::boot;
use super::super::{ContainerRecord, DAMAGED_RECORD, RuntimeError, TaskDir, TaskKey, TaskStatus, io_error};
use super::describe::record as described;
use super::exit::Went;
use super::logs::Drain;
use super::remove::{remove_container, remove_dir};
use super::{DockerRuntime, Known, Shared, labels};
use crate::engine::{Engine, EngineError};

/// How long the start of an agent waits for an engine: one that is there answers within milliseconds.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Pause before an engine that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);
const UNKNOWN: TaskStatus = TaskStatus::running(0);

/// A container of this agent's.
struct Found {
    id: String,
    name: String,
    /// Made, and never started.
    unstarted: bool,
}

impl DockerRuntime {
    pub(super) async fn recover_all(&self) -> Result<Vec<TaskKey>, RuntimeError> {
        let engine = self.reach(FIRST_ANSWER).await.ok().map(|reached| reached.engine.clone());
        let mut found = match &engine {
            Some(engine) => self.shared.list(engine).await.map(Some).unwrap_or_else(|error| {
                warn!("the containers cannot be listed: {error}");
                None
            }),
            None => None,
        };
        let tasks_dir = &self.shared.config.tasks_dir;
        let failed = || io_error(format!("reading {}", tasks_dir.display()));
        let entries = match fs::read_dir(tasks_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.and_then(Iterator::collect).map_err(failed())?,
        };
        for entry in entries {
            let dir = TaskDir::new(entry.path());
            let recovered = self.recover_entry(&dir, found.as_mut(), engine.as_ref()).await;
            // What is not understood is left alone, running or not.
            if let Err(error) = recovered {
                self.leave_alone(&dir, &error);
            }
        }
        for (task, found) in found.unwrap_or_default() {
            self.recover_stray(task, found, engine.as_ref()).await;
        }
        let mut tasks = super::Runtime::tasks(self);
        tasks.sort();
        Ok(tasks)
    }

    async fn recover_entry(
        &self,
        dir: &TaskDir,
        found: Option<&mut BTreeMap<TaskKey, Found>>,
        engine: Option<&Engine>,
    ) -> io::Result<()> {
        if !dir.is_container() {
            return Ok(());
        }
        match whole(dir.container())?.flatten() {
            Some(record) => {
                let container = found.map(|found| found.remove(&record.key));
                self.recover_dir(dir, record, container, engine).await
            }
            None => {
                let task = dir
                    .task()
                    .ok_or_else(|| io::Error::other("its record is damaged, and its name is no task's"))?;
                match (found, engine) {
                    (Some(found), Some(engine)) => {
                        let container = found.remove(&task);
                        self.recover_damaged(dir, task, container, engine).await
                    }
                    _ => {
                        self.recover_later(dir, task);
                        Ok(())
                    }
                }
            }
        }
    }

    /// A task whose record is damaged: what its container's labels and the engine say of it is certain.
    async fn recover_damaged(
        &self,
        dir: &TaskDir,
        task: TaskKey,
        container: Option<Found>,
        engine: &Engine,
    ) -> io::Result<()> {
        warn!(%task, "its record is damaged or gone; it is known by its container");
        let record = match &container {
            Some(found) => described(engine, &task, &found.id).await.map_err(io::Error::other)?,
            None => unknown_record(task, dir.created().unwrap_or_default()),
        };
        dir.create_container(&record)?;
        self.recover_dir(dir, record, Some(container), Some(engine)).await
    }

    /// The same while the engine is away: nobody knows more until it is back.
    fn recover_later(&self, dir: &TaskDir, task: TaskKey) {
        let text = format!(
            "the record of {task} is damaged ({}), and the Docker Engine is not there to tell of its container, which \
             is left alone until it is",
            dir.path().join("container.json").display()
        );
        self.shared.config.conditions.raise(DAMAGED_RECORD, &task.to_string(), text);
        let status = dir.exit().ok().flatten().map_or(UNKNOWN, TaskStatus::Ended);
        let record = unknown_record(task.clone(), dir.created().unwrap_or_default());
        self.know(&record, &record.name, dir, status);
        let (runtime, dir) = (self.clone(), dir.clone());
        tokio::spawn(async move {
            loop {
                let Some(reached) = runtime.shared.presence.there().await else { return };
                if !runtime.shared.tasks().contains_key(&task) {
                    return;
                }
                let Ok(mut found) = runtime.shared.list(&reached.engine).await else {
                    sleep(RETRY).await;
                    continue;
                };
                let container = found.remove(&task);
                match runtime.recover_damaged(&dir, task.clone(), container, &reached.engine).await {
                    Ok(()) => {
                        return runtime.shared.config.conditions.clear(DAMAGED_RECORD, &task.to_string());
                    }
                    Err(error) => warn!(%task, %error, "cannot be told from its container yet; trying again"),
                }
                sleep(RETRY).await;
            }
        });
    }

    fn leave_alone(&self, dir: &TaskDir, error: &io::Error) {
        let place = dir.path().display().to_string();
        let text = format!("cannot tell which task {place} is of: {error}; its container is left alone");
        self.shared.config.conditions.raise(DAMAGED_RECORD, &place, text);
    }

    /// Watches the container of a start that failed half-way.
    pub(super) async fn take_over(&self, dir: &TaskDir, engine: &Engine) -> io::Result<()> {
        let record = dir.container()?.ok_or(io::ErrorKind::NotFound)?;
        self.recover_dir(dir, record, None, Some(engine)).await
    }

    /// `container` is `None` while the engine is away, `Some(None)` if it has none of this task.
    async fn recover_dir(
        &self,
        dir: &TaskDir,
        record: ContainerRecord,
        container: Option<Option<Found>>,
        engine: Option<&Engine>,
    ) -> io::Result<()> {
        let made = dir.created();
        if let Some(exit) = dir.exit()? {
            let container = made.unwrap_or_else(|| record.name.clone());
            self.know(&record, &container, dir, TaskStatus::Ended(exit));
            return Ok(());
        }
        let id = match (container, made) {
            (Some(Some(found)), _) if found.unstarted => {
                self.clear_start(&found, engine).await;
                return remove_dir(dir.path());
            }
            (Some(None), None) => {
                info!(task = %record.key, "removing what is left of a start");
                return remove_dir(dir.path());
            }
            (Some(Some(found)), None) => {
                dir.mark_created(&found.id)?;
                found.id
            }
            (Some(Some(found)), Some(_)) => found.id,
            (Some(None) | None, Some(id)) => id,
            (None, None) => record.name.clone(),
        };
        let drain = Drain::resume(&dir.output(), self.shared.config.output_limit)?;
        self.know(&record, &id, dir, UNKNOWN);
        let doubt = if boot()? != record.boot {
            Went::Host
        } else if engine.is_none() {
            Went::Engine
        } else {
            Went::Unseen
        };
        self.watch(record, id, drain, Some(doubt));
        Ok(())
    }

    /// A container of a task whose directory is gone.
    async fn recover_stray(&self, task: TaskKey, found: Found, engine: Option<&Engine>) {
        if found.unstarted {
            return self.clear_start(&found, engine).await;
        }
        let described = match engine {
            Some(engine) => described(engine, &task, &found.id).await,
            None => return,
        };
        let record = match described {
            Ok(record) => record,
            Err(error) => return warn!(%task, container = found.id, "cannot take over a container: {error}"),
        };
        let dir = self.shared.dir(&record.key);
        if let Err(error) = dir.create_container(&record).and_then(|()| dir.mark_created(&found.id)) {
            return warn!(task = %record.key, %error, "cannot take over a container");
        }
        if let Err(error) = self.recover_dir(&dir, record, Some(Some(found)), engine).await {
            warn!(dir = %dir.path().display(), %error, "cannot take over a container");
        }
    }

    fn know(&self, record: &ContainerRecord, container: &str, dir: &TaskDir, status: TaskStatus) {
        let mut known = Known::starting(container, record.stop_signal);
        known.stopped = dir.is_stopping();
        known.status = status;
        self.shared.tasks().insert(record.key.clone(), known);
    }

    async fn clear_start(&self, found: &Found, engine: Option<&Engine>) {
        info!(container = found.name, "removing a container that was never started");
        let Some(engine) = engine else { return };
        if let Err(error) = remove_container(engine, &found.id).await {
            warn!(container = found.name, "it cannot be removed: {error}");
        }
    }
}

impl Shared {
    /// Every container of this agent's, by its task.
    async fn list(&self, engine: &Engine) -> Result<BTreeMap<TaskKey, Found>, EngineError> {
        let filters = HashMap::from([("label", vec![labels::filter(&self.config.instance)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = engine.docker().list_containers(Some(options)).await;
        let listed = listed.map_err(|error| engine.error("does not list its containers", error))?;
        Ok(listed.into_iter().filter_map(found).collect())
    }

    /// Removes the containers of starts that failed while the engine could not be asked to.
    pub(super) async fn sweep(&self, engine: &Engine) {
        let Ok(found) = self.list(engine).await else { return };
        for (task, found) in found {
            if found.unstarted && !self.tasks().contains_key(&task) {
                info!(container = found.name, "removing a container that was never started");
                // What fails now is tried at the engine's next return, or by the next agent.
                let _ = remove_container(engine, &found.id).await;
            }
        }
    }
}

/// Of a task whose container is gone, or cannot be asked for.
fn unknown_record(key: TaskKey, container: String) -> ContainerRecord {
    let name = if container.is_empty() { key.to_string() } else { container };
    let boot = boot().unwrap_or_default();
    ContainerRecord { key, name, image: String::new(), stop_signal: 15, memory_limit: None, boot }
}

fn found(summary: ContainerSummary) -> Option<(TaskKey, Found)> {
    let task = labels::task(&summary.labels.unwrap_or_default())?;
    let names = summary.names.unwrap_or_default();
    let found = Found {
        id: summary.id?,
        name: names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default(),
        unstarted: summary.state == Some(ContainerSummaryStateEnum::CREATED),
    };
    Some((task, found))
}
