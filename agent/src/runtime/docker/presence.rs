//! Whether the engine is there: one future dials it, listens to its events for as long as it can, and
//! dials again.
//!
//! `Away` → dial → `There` → the events end, or a ping is not answered → `Away` → … Only an engine that
//! could not be dialled is a condition of the node: one that restarts within a second is back before
//! anybody needs to know.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EventMessage, HealthStatusEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use convoke_model::{Condition, Health};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};

use super::super::{RuntimeError, TaskKey, TaskStatus};
use super::{Shared, labels};
use crate::engine::create::Node;
use crate::engine::images::{Credentials, Images, ImagesConfig};
use crate::engine::{Engine, EngineError, EngineInfo};

/// How often an engine that is away is dialled: soon enough to be no delay for a person who starts it.
const REDIAL: Duration = Duration::from_millis(500);
/// How often an engine that says nothing is asked whether it still lives.
const PING: Duration = Duration::from_secs(10);
/// An engine on a host that swaps may take seconds to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// An engine that answered, and what it said of itself.
#[derive(Debug, Clone)]
pub struct Reached {
    pub engine: Engine,
    pub info: EngineInfo,
    pub node: Node,
    pub images: Images,
}

#[derive(Debug, Clone)]
pub enum State {
    /// Not dialled yet.
    Unknown,
    Away(Arc<EngineError>),
    There(Arc<Reached>),
}

#[derive(Debug)]
pub(super) struct Presence(watch::Sender<State>);

impl Default for Presence {
    fn default() -> Self {
        Self(watch::Sender::new(State::Unknown))
    }
}

impl Presence {
    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    pub(super) fn now(&self) -> Result<Arc<Reached>, RuntimeError> {
        match &*self.0.borrow() {
            State::There(reached) => Ok(reached.clone()),
            State::Away(error) => Err(RuntimeError::Away(Some(error.clone()))),
            State::Unknown => Err(RuntimeError::Away(None)),
        }
    }

    /// Waits, for as long as it takes, until the engine is there: a task has nowhere else to go.
    pub(super) async fn there(&self) -> Option<Arc<Reached>> {
        let mut state = self.subscribe();
        let there = state.wait_for(|state| matches!(state, State::There(_))).await.ok()?;
        match &*there {
            State::There(reached) => Some(reached.clone()),
            State::Unknown | State::Away(_) => None,
        }
    }
}

/// Looks after the presence for as long as the process lives.
pub(super) async fn keep(shared: Arc<Shared>) {
    let conditions = &shared.config.conditions;
    let mut back = false;
    loop {
        match dial(&shared).await {
            Ok(reached) => {
                if std::mem::replace(&mut back, true) {
                    // Before anything is started. What an earlier agent left is for the recovery.
                    shared.sweep(&reached.engine).await;
                }
                conditions.clear(Condition::DOCKER_DOWN, "");
                if let Err(error) = std::fs::File::create(&shared.config.seen_file) {
                    warn!(%error, "cannot note that there is an engine; after a restart it may not be missed");
                }
                info!(engine = reached.info.describe(), "the engine is there");
                let reached = Arc::new(reached);
                shared.presence.0.send_replace(State::There(reached.clone()));
                let lost = listen(&shared, &reached.engine).await;
                info!("the engine is gone: {lost}");
                shared.presence.0.send_replace(State::Away(Arc::new(lost)));
            }
            Err(error) => {
                let text = format!("{error}; its containers are left alone, and no new ones are started");
                conditions.raise(Condition::DOCKER_DOWN, "", text);
                shared.presence.0.send_replace(State::Away(Arc::new(error)));
                sleep(REDIAL).await;
            }
        }
    }
}

async fn dial(shared: &Shared) -> Result<Reached, EngineError> {
    let config = &shared.config;
    let engine = Engine::connect(&config.socket).await?.with_gpu_injection(config.gpu_injection);
    let info = engine.info().await?;
    let node = Node::read(Path::new("/"), &info);
    let images = shared.images.get_or_init(|| {
        let config = ImagesConfig {
            book: config.images_file.clone(),
            data_root: info.data_root.clone(),
            policy: config.image_policy,
            credentials: Credentials::of_user(),
        };
        Images::new(engine.clone(), config)
    });
    let images = images.clone();
    Ok(Reached { engine, info, node, images })
}

/// Takes the events of this agent's containers until the engine is gone.
async fn listen(shared: &Arc<Shared>, engine: &Engine) -> EngineError {
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("event", ["health_status", "pause", "unpause"].map(str::to_owned).to_vec()),
        ("label", vec![labels::filter(&shared.config.instance)]),
    ]);
    let options = EventsOptionsBuilder::default().filters(&filters).build();
    let mut events = engine.docker().events(Some(options)).boxed();
    let mut ping = interval(PING);
    // What happened before the stream was open was not heard.
    tokio::spawn(refresh(shared.clone(), engine.clone()));
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => heard(shared, event),
                Some(Err(error)) => return engine.error("ended its stream of events", error),
                None => return EngineError::NotRunning { socket: engine.socket().to_owned() },
            },
            _ = ping.tick() => match timeout(PING_TIMEOUT, engine.docker().ping()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return engine.error("does not answer", error),
                Err(_) => {
                    let (socket, what) = (engine.socket().to_owned(), "does not answer".to_owned());
                    return EngineError::Silent { socket, what };
                }
            },
        }
    }
}

/// `health_status: healthy`, `pause`, `unpause`.
fn heard(shared: &Shared, event: EventMessage) {
    let labels = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
    let Some((action, task)) = event.action.zip(labels::task(&labels)) else { return };
    match action.split_once(':').map_or((action.as_str(), ""), |(action, word)| (action, word.trim())) {
        ("pause", _) => shared.set_paused(&task, true),
        ("unpause", _) => shared.set_paused(&task, false),
        ("health_status", "healthy") => shared.set_health(&task, Health::Healthy),
        ("health_status", "unhealthy") => shared.set_health(&task, Health::Unhealthy),
        ("health_status", _) => shared.set_health(&task, Health::Starting),
        _ => {}
    }
}

/// Asks how each container is.
async fn refresh(shared: Arc<Shared>, engine: Engine) {
    let running = |(key, known): (&TaskKey, &super::Known)| match known.status {
        TaskStatus::Running { .. } => Some((key.clone(), known.container.clone())),
        _ => None,
    };
    let tasks: Vec<(TaskKey, String)> = shared.tasks().iter().filter_map(running).collect();
    for (task, container) in tasks {
        let Ok(seen) = engine.docker().inspect_container(&container, None).await else { continue };
        let Some(state) = seen.state else { continue };
        shared.set_paused(&task, state.paused.unwrap_or_default());
        if let Some(health) = state.health.and_then(|health| health_of(health.status?)) {
            shared.set_health(&task, health);
        }
    }
}

/// `None` for a container without a health check.
pub(super) fn health_of(status: HealthStatusEnum) -> Option<Health> {
    match status {
        HealthStatusEnum::STARTING => Some(Health::Starting),
        HealthStatusEnum::HEALTHY => Some(Health::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
    }
}
