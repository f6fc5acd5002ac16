//! A container's request: a task, as the engine's API words it.
//!
//! [`body`] is pure: what it needs to know of the node is a [`Node`], read once. What cannot be
//! honoured here comes back as notes for the user, beside the request; what makes no sense at all is
//! an error.

mod hosts;
mod limits;
mod mounts;
mod network;
mod node;

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use convoke_model::Healthcheck;

pub use hosts::{HOSTS, hosts_file};
pub use network::Network;
pub use node::Node;

use super::RefusedUlimits;
use super::gpu::{self, GpuError, GpuRequest};
use crate::runtime::{Container, TaskSpec};

/// The engine keeps a task's output until the agent has read it. The older of two files is dropped when
/// the newer is full, so the last 512 MB are always there: a quarter of an hour of a rank that prints
/// 2,500 lines a second (200 bytes each, as stored), with the agent away for an upgrade. What the eight
/// tasks of a node can take is bounded at 8 GB.
const LOG_FILE_BYTES: &str = "512m";
const LOG_FILES: &str = "2";

/// What the body of a container also depends on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub node: &'a Node,
    /// The runtime's own, by which it finds its containers again. They win over the user's.
    pub labels: &'a BTreeMap<String, String>,
    /// `LD_LIBRARY_PATH` of the image; asked for only if [`needs_library_path`].
    pub image_library_path: Option<&'a str>,
    pub refused: &'a RefusedUlimits,
}

/// A request, and what to tell the user about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    pub body: ContainerCreateBody,
    /// Sentences.
    pub notes: Vec<String>,
}

/// Why no container can be made of a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// The request for a container of `task`.
pub fn body(task: &TaskSpec, container: &Container, context: &Context<'_>) -> Result<Created, CreateError> {
    let node = context.node;
    let options = &container.options;
    let gpus = gpu::request(&node.gpus, container.gpu_injection, &container.gpus)?;
    let mut notes = Vec::new();
    let network = Network::of(container);
    let mut host = HostConfig {
        init: Some(options.init.unwrap_or(true)),
        cap_add: (!options.cap_add.is_empty()).then(|| options.cap_add.clone()),
        group_add: (!options.group_add.is_empty()).then(|| options.group_add.clone()),
        sysctls: (!options.sysctls.is_empty()).then(|| options.sysctls.clone().into_iter().collect()),
        auto_remove: Some(false),
        // The gang is restarted as a whole, by the coordinator.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(log_config()),
        device_requests: (!gpus.device_requests.is_empty()).then(|| gpus.device_requests.clone()),
        ..HostConfig::default()
    };
    mounts::fill(&mut host, container, node, &gpus);
    limits::fill(&mut host, container, context, &mut notes);
    let mut body = ContainerCreateBody {
        image: Some(container.image.clone()),
        entrypoint: container.entrypoint.clone(),
        cmd: (!container.command.is_empty()).then(|| container.command.clone()),
        working_dir: container.working_dir.clone(),
        user: options.user.clone(),
        env: Some(environment(task, container, context, &gpus)),
        labels: Some(labels(container, context)),
        healthcheck: options.healthcheck.as_ref().map(healthcheck),
        stop_signal: Some(task.stop_signal.to_string()),
        stop_timeout: container.stop_grace.map(|grace| grace.as_secs().try_into().unwrap_or(i64::MAX)),
        ..ContainerCreateBody::default()
    };
    network::fill(&mut body, &mut host, container, &network, &mut notes);
    body.host_config = Some(host);
    Ok(Created { body, notes })
}

/// True if the body puts libraries in front of the image's own `LD_LIBRARY_PATH`, which must be known
/// for that: a variable of a container replaces the image's.
pub fn needs_library_path(task: &TaskSpec, container: &Container) -> bool {
    let direct = container.gpu_injection == Some(convoke_model::GpuInjection::Direct);
    direct && !container.gpus.is_empty() && !task.environment.contains_key(LIBRARY_PATH)
}

const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

fn environment(
    task: &TaskSpec,
    container: &Container,
    context: &Context<'_>,
    gpus: &GpuRequest,
) -> Vec<String> {
    let mut variables = task.environment.clone();
    variables.extend(gpus.variables.clone());
    if container.gpus.is_empty() && context.node.nvidia_by_default {
        variables.extend(gpu::hidden());
    }
    if gpus.libraries {
        let theirs = variables.get(LIBRARY_PATH).map(String::as_str).or(context.image_library_path);
        let path = match theirs.filter(|path| !path.is_empty()) {
            Some(theirs) => format!("{}:{theirs}", gpu::LIBRARY_DIR),
            None => gpu::LIBRARY_DIR.to_owned(),
        };
        variables.insert(LIBRARY_PATH.to_owned(), path);
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn labels(container: &Container, context: &Context<'_>) -> HashMap<String, String> {
    let theirs = container.options.labels.iter();
    theirs.chain(context.labels).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let nanos = |duration: Option<std::time::Duration>| {
        duration.map(|duration| duration.as_nanos().try_into().unwrap_or(i64::MAX))
    };
    HealthConfig {
        test: Some(check.test.clone()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        retries: check.retries.map(Into::into),
        start_interval: None,
    }
}

fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", LOG_FILE_BYTES), ("max-file", LOG_FILES)];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    }
}
