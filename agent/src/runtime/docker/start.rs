//! Starting a task: its directory, its container, and what the engine says to it.

use std::io;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use convoke_model::TaskExit;
use tokio::sync::watch as channel;
use tracing::{info, warn};

use super::super::procfs::boot;
use super::super::{Container, ContainerRecord, RuntimeError, TaskKey, TaskSpec, TaskStatus, io_error};
use super::exit::{self, NotStarted};
use super::logs::Drain;
use super::name::Name;
use super::presence::Reached;
use super::remove::{remove_container, remove_dir};
use super::{DockerRuntime, Known, labels};
use crate::clock::now;
use crate::engine::EngineError;
use crate::engine::create::{self, Context, Created};

/// How often a container is made for one start: each time without another ulimit that the host
/// refuses, or without the namespaces of a container that has ended.
const ATTEMPTS: usize = 5;

impl DockerRuntime {
    pub(super) async fn start_one(&self, task: TaskSpec) -> Result<(), RuntimeError> {
        let (runtime, key) = (self.clone(), task.key.clone());
        let Some(container) = task.container.clone() else { return Err(RuntimeError::NoEngine) };
        let reached = self.reached()?;
        {
            let mut tasks = self.shared.tasks();
            if tasks.contains_key(&key) {
                return Err(RuntimeError::Exists(key));
            }
            tasks.insert(key.clone(), Known::starting(&container.name, task.stop_signal));
        }
        // Known before anything is waited for, and then in a task of its own: given up half-way it would leave a
        // container of which nobody knows.
        let failed = io_error(format!("starting the container of {key}"));
        let starting = tokio::spawn(async move {
            let started = runtime.launch(&reached, &task, &container).await;
            if started.is_err() {
                runtime.give_up(&reached, &key).await;
            }
            started
        });
        starting.await.map_err(|e| failed(io::Error::other(e)))?
    }

    async fn launch(
        &self,
        reached: &Reached,
        task: &TaskSpec,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        let key = &task.key;
        let record = ContainerRecord {
            key: key.clone(),
            name: container.name.clone(),
            image: container.image_name.clone(),
            stop_signal: task.stop_signal,
            memory_limit: container.limits.memory,
            boot: boot().unwrap_or_default(),
        };
        let drain = self.prepare_dir(&record).await?;
        let mut container = container.clone();
        for _ in 0..ATTEMPTS {
            if self.shared.is_stopped(key) {
                return Err(RuntimeError::Unwanted(key.clone()));
            }
            let Created { body, notes } = self.body(reached, task, &container).await?;
            match self.create_and_start(reached, key, &record, body.clone()).await {
                Ok(None) => return Err(RuntimeError::Unwanted(key.clone())),
                Ok(Some(id)) => {
                    // Its siblings would be told the same.
                    for note in notes.iter().filter(|_| container.ipc_of.is_none()) {
                        info!(task = %key, "{note}");
                        drain.remark(note.clone()).await.map_err(io_error("writing a note"))?;
                    }
                    if !self.shared.set_started(key) {
                        return Err(RuntimeError::Unwanted(key.clone()));
                    }
                    self.watch(record, id, drain, None);
                    return Ok(());
                }
                Err(error) if self.learn(&body, &error) => {}
                Err(error) => match exit::not_started(&error, &record.image, now()) {
                    NotStarted::NobodyToJoin if container.ipc_of.is_some() => container.ipc_of = None,
                    NotStarted::Command(exit) => return self.never_ran(key, exit, &drain).await,
                    NotStarted::PortTaken(port) => {
                        let port = port.map_or("(unknown)".to_owned(), |port| port.to_string());
                        return Err(RuntimeError::PortTaken { port, problem: error.to_string() });
                    }
                    NotStarted::NobodyToJoin | NotStarted::Other => return Err(error.into()),
                },
            }
        }
        let problem = format!("the container of {key} was made {ATTEMPTS} times and could not be started");
        Err(io_error(problem)(io::ErrorKind::Other.into()))
    }

    async fn prepare_dir(&self, record: &ContainerRecord) -> Result<Drain, RuntimeError> {
        let (dir, record, limit) =
            (self.shared.dir(&record.key), record.clone(), self.shared.config.output_limit);
        let what = format!("preparing {} for {}", dir.path().display(), record.key);
        let preparing = tokio::task::spawn_blocking(move || {
            dir.create_container(&record)?;
            Drain::create(&dir.output(), limit)
        });
        preparing.await.map_err(io::Error::other).flatten().map_err(io_error(what))
    }

    async fn body(
        &self,
        reached: &Reached,
        task: &TaskSpec,
        container: &Container,
    ) -> Result<Created, RuntimeError> {
        let labels = labels::of(&self.shared.config.instance, task, container);
        let library_path = if create::needs_library_path(task, container) {
            library_path(reached, &container.image).await?
        } else {
            None
        };
        let context = Context {
            node: &reached.node,
            labels: &labels,
            image_library_path: library_path.as_deref(),
            refused: &self.shared.refused_ulimits,
        };
        Ok(create::body(task, container, &context)?)
    }

    /// The started container's id; `None` if the task was asked to end before. A container that does not start
    /// is removed again.
    async fn create_and_start(
        &self,
        reached: &Reached,
        key: &TaskKey,
        record: &ContainerRecord,
        body: ContainerCreateBody,
    ) -> Result<Option<String>, EngineError> {
        let docker = reached.engine.docker();
        let create = || {
            let options = CreateContainerOptionsBuilder::default().name(&record.name).build();
            docker.create_container(Some(options), body.clone())
        };
        let refused = |error| reached.engine.error("does not make the container", error);
        let (id, started) = match create().await.map_err(refused) {
            Err(EngineError::Refused { status: 409, .. }) => {
                match self.free_name(reached, key, &record.name).await? {
                    Name::Free => (create().await.map_err(refused)?.id, false),
                    Name::Own(id) => (id, true),
                }
            }
            made => (made?.id, false),
        };
        if let Some(known) = self.shared.tasks().get_mut(key) {
            known.container.clone_from(&id);
        }
        if let Err(error) = self.shared.dir(key).mark_created(&id) {
            warn!(task = %key, %error, "cannot note that the container was made");
        }
        if self.shared.is_stopped(key) {
            return Ok(None);
        }
        if started {
            return Ok(Some(id));
        }
        match docker.start_container(&id, None).await {
            Ok(()) => Ok(Some(id)),
            Err(error) => {
                let error = reached.engine.error("does not start the container", error);
                remove_container(&reached.engine, &id).await?;
                Err(error)
            }
        }
    }

    fn learn(&self, body: &ContainerCreateBody, error: &EngineError) -> bool {
        let ulimits = body.host_config.as_ref().and_then(|host| host.ulimits.as_deref());
        self.shared.refused_ulimits.learn(ulimits.unwrap_or_default(), error)
    }

    /// The command cannot be run: the task ends as if a shell had said so.
    async fn never_ran(&self, key: &TaskKey, exit: TaskExit, drain: &Drain) -> Result<(), RuntimeError> {
        let failed = || io_error(format!("recording the end of {key}"));
        drain.remark(exit.message.clone().unwrap_or_default()).await.map_err(failed())?;
        drain.seal().await.map_err(failed())?;
        self.shared.dir(key).write_exit(&exit).map_err(failed())?;
        self.shared.set(key, TaskStatus::Ended(exit));
        Ok(())
    }

    /// Nothing of a failed start may be left, so that it can be tried again.
    async fn give_up(&self, reached: &Reached, key: &TaskKey) {
        let container = self.shared.tasks().get(key).map(|known| known.container.clone());
        let dir = self.shared.dir(key);
        let made = container.filter(|_| dir.created().is_some());
        if let Some(container) = made
            && let Err(error) = remove_container(&reached.engine, &container).await
        {
            warn!(task = %key, "the container of a failed start is still there: {error}");
            // It may run, now or soon: known, so that it can be stopped.
            match self.take_over(&dir, &reached.engine).await {
                Ok(()) => return,
                Err(error) => warn!(task = %key, %error, "nobody watches the container of a failed start"),
            }
        }
        if let Err(error) = remove_dir(dir.path()) {
            warn!(task = %key, %error, "the directory of a failed start is still there");
        }
        self.shared.forget(key);
    }
}

impl Known {
    pub(super) fn starting(container: &str, stop_signal: i32) -> Self {
        let kill_at = channel::Sender::new(None);
        Self {
            status: TaskStatus::Starting,
            container: container.to_owned(),
            stop_signal,
            stopped: false,
            kill_at,
        }
    }
}

/// `LD_LIBRARY_PATH` of an image.
async fn library_path(reached: &Reached, image: &str) -> Result<Option<String>, EngineError> {
    let seen = reached.engine.docker().inspect_image(image).await;
    let seen = seen.map_err(|error| reached.engine.error("does not describe the image", error))?;
    let variables = seen.config.and_then(|config| config.env).unwrap_or_default();
    Ok(variables.iter().find_map(|v| v.strip_prefix("LD_LIBRARY_PATH=").map(str::to_owned)))
}
