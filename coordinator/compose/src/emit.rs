//! What was understood, as a normalised Compose file that reads back to the same jobs: every
//! default spelled out, variables filled in, short forms in their long form.

use std::borrow::Cow;
use std::collections::BTreeMap;

use convoke_model::{
    Collect, Constraint, ConstraintSubject, ContainerOptions, DependsCondition, DeviceCount, DeviceKind,
    DeviceRequest, FileGrant, Framework, JobSpec, Mount, MountKind, RankLayout, ResourceLimits,
    RestartPolicy, Shards,
};
use saphyr::{Mapping, Scalar, Yaml, YamlEmitter};
use serde_json::{Map, Value as Json, json};

use crate::project::Project;
use crate::units::{cpus_text, duration_text};

impl Project {
    /// A Compose file in YAML.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        YamlEmitter::new(&mut out)
            .dump(&yaml(&self.to_json()))
            .expect("writing to a String cannot fail, and the document holds no aliases");
        let body = out.strip_prefix("---\n").unwrap_or(&out);
        format!("{body}\n")
    }

    /// The same Compose file as JSON. Dollar signs are doubled, as a Compose file needs them.
    pub fn to_json(&self) -> Json {
        let services: Map<_, _> = self.jobs.iter().map(|job| (job.service.clone(), service(job))).collect();
        let mut file = Map::from_iter([
            ("name".to_owned(), self.name.clone().into()),
            ("services".to_owned(), Json::Object(services)),
        ]);
        let containers = || self.jobs.iter().map(|job| &job.container);
        let named = containers()
            .flat_map(|c| &c.volumes)
            .filter(|m| m.kind == MountKind::Volume && !m.source.is_empty());
        let external = |name: &String| containers().any(|c| c.external_volumes.contains(name));
        let volume = |name: &String| match external(name) {
            true => json!({"name": name, "external": true}),
            false => json!({"name": name}),
        };
        let volumes: Map<_, _> = named.map(|m| (m.source.clone(), volume(&m.source))).collect();
        let files = |grants: Vec<&FileGrant>| {
            grants.into_iter().map(|g| (g.source.clone(), json!({"file": g.file}))).collect::<Map<_, _>>()
        };
        let secrets = files(containers().flat_map(|c| &c.secrets).collect());
        let configs = files(containers().flat_map(|c| &c.configs).collect());
        for (key, map) in [("volumes", volumes), ("secrets", secrets), ("configs", configs)] {
            put(&mut file, key, map);
        }
        escaped(Json::Object(file))
    }
}

/// Adds a value unless it is null or empty.
fn put(map: &mut Map<String, Json>, key: &str, value: impl Into<Json>) {
    let value = value.into();
    let empty = match &value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.is_empty(),
        _ => false,
    };
    if !empty {
        map.insert(key.to_owned(), value);
    }
}

fn strings(map: &BTreeMap<String, String>) -> Json {
    map.iter().map(|(k, v)| (k.clone(), Json::from(v.clone()))).collect()
}

fn service(job: &JobSpec) -> Json {
    let mut out = Map::new();
    put(&mut out, "image", job.image.clone());
    if let Some(entrypoint) = &job.entrypoint {
        // Empty has a meaning: not the image's own.
        out.insert("entrypoint".to_owned(), entrypoint.clone().into());
    }
    put(&mut out, "command", job.command.clone());
    put(&mut out, "environment", strings(&job.environment));
    put(&mut out, "working_dir", job.working_dir.clone());
    put(&mut out, "stop_signal", convoke_model::signal_text(job.stop_signal));
    put(&mut out, "stop_grace_period", duration_text(job.stop_grace));
    put(&mut out, "restart", job.restart.after_success.then_some("always"));
    put(&mut out, "deploy", deploy(job));
    put(&mut out, "x-convoke", extension(job));
    container(&mut out, &job.container);
    Json::Object(out)
}

fn deploy(job: &JobSpec) -> Json {
    let mut resources = Map::new();
    put(&mut resources, "limits", limits(&job.limits));
    if job.devices.count != DeviceCount::Count(0) {
        put(&mut resources, "reservations", json!({"devices": [devices(&job.devices)]}));
    }
    let constraints: Vec<Json> = job.constraints.iter().map(|c| constraint(c).into()).collect();
    let mut out = Map::from_iter([("replicas".to_owned(), job.replicas.into())]);
    put(&mut out, "resources", Json::Object(resources));
    if job.restart != RestartPolicy::default() && !job.restart.after_success {
        put(&mut out, "restart_policy", restart(&job.restart));
    }
    if !constraints.is_empty() {
        put(&mut out, "placement", json!({"constraints": constraints}));
    }
    Json::Object(out)
}

fn limits(limits: &ResourceLimits) -> Json {
    let mut out = Map::new();
    put(&mut out, "cpus", limits.milli_cpus.map(cpus_text));
    put(&mut out, "memory", limits.memory.map(|b| b.to_string()));
    put(&mut out, "pids", limits.pids);
    Json::Object(out)
}

fn devices(request: &DeviceRequest) -> Json {
    let mut out = Map::new();
    match request.kind {
        DeviceKind::Gpu => {
            put(&mut out, "driver", "nvidia");
            put(&mut out, "capabilities", json!(["gpu"]));
        }
        DeviceKind::Cpu => put(&mut out, "driver", "cpu"),
    }
    match &request.count {
        DeviceCount::Count(n) => put(&mut out, "count", *n),
        DeviceCount::All => put(&mut out, "count", "all"),
        DeviceCount::Ids(ids) => put(&mut out, "device_ids", ids.clone()),
    }
    Json::Object(out)
}

/// A Compose file knows one budget; the model's two are the same in every spec that came from one.
fn restart(policy: &RestartPolicy) -> Json {
    let mut out = Map::new();
    put(&mut out, "condition", if policy.application == Some(0) { "none" } else { "on-failure" });
    put(&mut out, "max_attempts", policy.application);
    put(&mut out, "delay", duration_text(policy.delay));
    Json::Object(out)
}

fn constraint(constraint: &Constraint) -> String {
    let subject = match &constraint.subject {
        ConstraintSubject::Hostname => "node.hostname".to_owned(),
        ConstraintSubject::Id => "node.id".to_owned(),
        ConstraintSubject::Label(label) => format!("node.labels.{label}"),
    };
    format!("{subject} {} {}", if constraint.equal { "==" } else { "!=" }, constraint.value)
}

fn extension(job: &JobSpec) -> Json {
    let ranks = match job.layout {
        RankLayout::PerNode => "per-node",
        RankLayout::PerGpu => "per-gpu",
    };
    let framework = match job.framework {
        Framework::Torch => "torch",
        Framework::Jax => "jax",
        Framework::Tensorflow => "tensorflow",
    };
    let shards = match job.checkpoint.shards {
        Shards::RankZero => "rank0",
        Shards::All => "all",
    };
    let collect = match job.collect {
        Collect::NodeRankZero => "rank0",
        Collect::All => "all",
    };
    let mut checkpoint = Map::new();
    put(&mut checkpoint, "dir", job.checkpoint.dir.clone());
    put(&mut checkpoint, "keep", job.checkpoint.keep);
    put(&mut checkpoint, "shards", shards);
    let mut out = Map::new();
    put(&mut out, "ranks", ranks);
    put(&mut out, "framework", framework);
    put(&mut out, "priority", job.priority);
    put(&mut out, "checkpoint", Json::Object(checkpoint));
    put(&mut out, "collect", collect);
    put(&mut out, "time_limit", job.time_limit.map(duration_text));
    put(&mut out, "interface", job.interface.clone());
    put(&mut out, "fence", job.fence.map(duration_text));
    put(&mut out, "failure_grace", duration_text(job.failure_grace));
    put(&mut out, "preflight", job.preflight);
    Json::Object(out)
}

fn container(out: &mut Map<String, Json>, options: &ContainerOptions) {
    put(out, "container_name", options.container_name.clone());
    let build = options.build.as_ref().and_then(|b| serde_json::from_str::<Json>(b).ok());
    put(out, "build", build);
    put(out, "volumes", options.volumes.iter().map(mount).collect::<Vec<_>>());
    put(out, "tmpfs", options.tmpfs.clone());
    put(out, "shm_size", options.shm_size.map(|b| b.to_string()));
    put(out, "ipc", options.ipc.clone());
    let ulimits = options.ulimits.iter();
    let ulimits = ulimits.map(|(name, u)| (name.clone(), json!({"soft": u.soft, "hard": u.hard})));
    put(out, "ulimits", ulimits.collect::<Map<_, _>>());
    put(out, "user", options.user.clone());
    put(out, "init", options.init);
    put(out, "cap_add", options.cap_add.clone());
    put(out, "labels", strings(&options.labels));
    put(out, "ports", ports(options));
    put(out, "expose", options.expose.clone());
    put(out, "healthcheck", healthcheck(options));
    put(out, "secrets", options.secrets.iter().map(grant).collect::<Vec<_>>());
    put(out, "configs", options.configs.iter().map(grant).collect::<Vec<_>>());
    put(out, "depends_on", depends_on(options));
    put(out, "devices", options.devices.clone());
    put(out, "network_mode", options.network_mode.clone());
    if !options.aliases.is_empty() {
        put(out, "networks", json!({"default": {"aliases": options.aliases}}));
    }
    put(out, "hostname", options.hostname.clone());
    put(out, "extra_hosts", options.extra_hosts.clone());
    put(out, "dns", options.dns.clone());
    put(out, "group_add", options.group_add.clone());
    put(out, "sysctls", strings(&options.sysctls));
}

fn mount(mount: &Mount) -> Json {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    };
    let mut out = Map::new();
    put(&mut out, "type", kind);
    if !mount.source.is_empty() {
        put(&mut out, "source", mount.source.clone());
    }
    put(&mut out, "target", mount.target.clone());
    put(&mut out, "read_only", mount.read_only);
    Json::Object(out)
}

fn ports(options: &ContainerOptions) -> Vec<Json> {
    let port = |p: &convoke_model::PortMapping| {
        let mut out = Map::new();
        put(&mut out, "host_ip", p.host_ip.clone());
        put(&mut out, "published", p.published.clone());
        put(&mut out, "target", p.target);
        put(&mut out, "protocol", p.protocol.clone());
        Json::Object(out)
    };
    options.ports.iter().map(port).collect()
}

fn healthcheck(options: &ContainerOptions) -> Json {
    let Some(check) = &options.healthcheck else { return Json::Null };
    let mut out = Map::new();
    put(&mut out, "test", check.test.clone());
    put(&mut out, "interval", check.interval.map(duration_text));
    put(&mut out, "timeout", check.timeout.map(duration_text));
    put(&mut out, "start_period", check.start_period.map(duration_text));
    put(&mut out, "retries", check.retries);
    Json::Object(out)
}

fn grant(grant: &FileGrant) -> Json {
    let mut out = Map::new();
    put(&mut out, "source", grant.source.clone());
    put(&mut out, "target", grant.target.clone());
    Json::Object(out)
}

fn depends_on(options: &ContainerOptions) -> Map<String, Json> {
    let condition = |condition: &DependsCondition| match condition {
        DependsCondition::Started => "service_started",
        DependsCondition::Healthy => "service_healthy",
        DependsCondition::CompletedSuccessfully => "service_completed_successfully",
    };
    options.depends_on.iter().map(|(name, c)| (name.clone(), json!({"condition": condition(c)}))).collect()
}

/// Doubles the dollar signs of every value, so that reading fills in nothing.
fn escaped(json: Json) -> Json {
    match json {
        Json::String(text) => Json::String(text.replace('$', "$$")),
        Json::Array(items) => items.into_iter().map(escaped).collect(),
        Json::Object(entries) => entries.into_iter().map(|(k, v)| (k, escaped(v))).collect(),
        other => other,
    }
}

fn yaml(json: &Json) -> Yaml<'static> {
    let string = |text: &str| Yaml::Value(Scalar::String(Cow::Owned(text.to_owned())));
    match json {
        Json::Null => Yaml::Value(Scalar::Null),
        Json::Bool(flag) => Yaml::Value(Scalar::Boolean(*flag)),
        // Every number here fits: counts and ports; sizes are written as strings.
        Json::Number(number) => match number.as_i64() {
            Some(number) => Yaml::Value(Scalar::Integer(number)),
            None => string(&number.to_string()),
        },
        Json::String(text) => string(text),
        Json::Array(items) => Yaml::Sequence(items.iter().map(yaml).collect()),
        Json::Object(entries) => {
            Yaml::Mapping(entries.iter().map(|(k, v)| (string(k), yaml(v))).collect::<Mapping<'_>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Node, Value};
    use crate::yaml::parse;

    fn back(node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Scalar(text) => text.clone().into(),
            Value::List(items) => items.iter().map(back).collect(),
            Value::Map(entries) => entries.iter().map(|e| (e.key.clone(), back(&e.node))).collect(),
        }
    }

    fn emitted(json: &Json) -> String {
        let mut out = String::new();
        YamlEmitter::new(&mut out).dump(&yaml(json)).unwrap();
        out
    }

    proptest! {
        #[test]
        fn any_text_survives_as_key_and_as_value(texts in proptest::collection::vec("\\PC{0,12}|[-:{}\\[\\],&*#?|<>=!%@`'\"\\\\ \t\n~nulltrueyes0-9.]{0,8}", 1..5)) {
            let json = json!({
                "list": texts,
                "map": texts.iter().map(|t| (t.clone(), Json::from(t.clone()))).collect::<Map<_, _>>(),
            });
            let text = emitted(&json);
            let read = parse(&Arc::from("f"), text.as_bytes());
            prop_assert!(read.is_ok(), "{read:?}\n{text}");
            prop_assert_eq!(back(&read.unwrap()), json, "{}", text);
        }
    }
}
