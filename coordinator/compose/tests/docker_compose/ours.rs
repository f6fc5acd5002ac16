//! What Convoke understood, as facts: a path and a text each, without what is only its default.

use std::collections::BTreeMap;
use std::time::Duration;

use convoke_compose::Project;
use convoke_model::{
    CheckpointPolicy, Collect, ConstraintSubject, ContainerOptions, DependsCondition, DeviceCount,
    DeviceKind, FileGrant, Framework, JobSpec, MountKind, RankLayout, RestartPolicy, Shards,
};
use serde_json::{Value as Json, json};

pub(crate) type Facts = BTreeMap<String, String>;

pub(crate) fn facts(project: &Project) -> Facts {
    let mut facts = Facts::new();
    for job in &project.jobs {
        let mut of = Of { facts: &mut facts, service: &job.service };
        of.job(job);
        of.deploy(job);
        of.extension(job);
        of.container(&job.container);
        of.files(&job.container);
    }
    facts
}

/// Collects the facts of one service.
struct Of<'a> {
    facts: &'a mut Facts,
    service: &'a str,
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

impl Of<'_> {
    fn put(&mut self, path: impl AsRef<str>, value: impl ToString) {
        self.facts.insert(format!("{}.{}", self.service, path.as_ref()), value.to_string());
    }

    fn maybe(&mut self, path: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.put(path, value);
        }
    }

    /// A value that differs from the one that a file without it gets.
    fn unless<T: PartialEq>(&mut self, path: &str, value: &T, default: &T, text: impl ToString) {
        if value != default {
            self.put(path, text);
        }
    }

    fn job(&mut self, job: &JobSpec) {
        // Every service is a fact, even one of which nothing else is known.
        self.put("", "");
        // A name that Convoke gives to what it builds is its own default.
        let built = job.container.build.is_some().then(|| format!("{}-{}", job.project, job.service));
        self.maybe("image", job.image.clone().filter(|image| built.as_ref() != Some(image)));
        self.maybe("entrypoint", job.entrypoint.as_ref().map(|words| json!(words)));
        if !job.command.is_empty() {
            self.put("command", json!(job.command));
        }
        for (key, value) in &job.environment {
            self.put(format!("environment.{key}"), value);
        }
        self.maybe("working_dir", job.working_dir.clone());
        self.unless("stop_signal", &job.stop_signal, &15, job.stop_signal);
        self.unless("stop_grace_period", &job.stop_grace, &Duration::from_secs(10), millis(job.stop_grace));
    }

    fn deploy(&mut self, job: &JobSpec) {
        self.unless("replicas", &job.replicas, &1, job.replicas);
        self.maybe("limits.cpus", job.limits.milli_cpus);
        self.maybe("limits.memory", job.limits.memory);
        self.maybe("limits.pids", job.limits.pids);
        let kind = match job.devices.kind {
            DeviceKind::Gpu => "gpu",
            DeviceKind::Cpu => "cpu",
        };
        let count = match &job.devices.count {
            DeviceCount::Count(n) => n.to_string(),
            DeviceCount::All => "all".to_owned(),
            DeviceCount::Ids(ids) => ids.join(","),
        };
        let devices = format!("{kind} {count}");
        self.unless("devices", &devices, &"cpu 0".to_owned(), &devices);
        let restart = &job.restart;
        assert!(
            restart == &RestartPolicy::default() || restart.infrastructure == restart.application,
            "{restart:?}"
        );
        let budget = restart.application.map_or("unlimited".to_owned(), |n| n.to_string());
        let text = format!("{budget} after {}", millis(restart.delay));
        self.unless("restart", restart, &RestartPolicy::default(), text);
        for constraint in &job.constraints {
            let subject = match &constraint.subject {
                ConstraintSubject::Hostname => "node.hostname".to_owned(),
                ConstraintSubject::Id => "node.id".to_owned(),
                ConstraintSubject::Label(label) => format!("node.labels.{label}"),
            };
            let sign = if constraint.equal { "==" } else { "!=" };
            self.put(format!("constraints.{subject}{sign}{}", constraint.value), "");
        }
    }

    fn extension(&mut self, job: &JobSpec) {
        let per_gpu = RankLayout::PerGpu;
        self.unless("x-convoke.ranks", &(job.layout == per_gpu), &false, "per-gpu");
        let framework = match job.framework {
            Framework::Torch => "torch",
            Framework::Jax => "jax",
            Framework::Tensorflow => "tensorflow",
        };
        self.unless("x-convoke.framework", &framework, &"torch", framework);
        self.unless("x-convoke.priority", &job.priority, &0, job.priority);
        self.unless("x-convoke.collect", &job.collect, &Collect::default(), "all");
        self.maybe("x-convoke.interface", job.interface.clone());
        self.maybe("x-convoke.time_limit", job.time_limit.map(millis));
        self.maybe("x-convoke.fence", job.fence.map(millis));
        let grace = millis(job.failure_grace);
        self.unless("x-convoke.failure_grace", &grace, &"2000".to_owned(), &grace);
        let default = CheckpointPolicy::default();
        self.maybe("x-convoke.checkpoint.dir", job.checkpoint.dir.clone());
        self.unless("x-convoke.checkpoint.keep", &job.checkpoint.keep, &default.keep, job.checkpoint.keep);
        self.unless("x-convoke.checkpoint.shards", &job.checkpoint.shards, &Shards::default(), "all");
    }

    fn container(&mut self, options: &ContainerOptions) {
        self.maybe("container_name", options.container_name.clone());
        self.maybe("shm_size", options.shm_size);
        self.maybe("ipc", options.ipc.clone());
        self.maybe("user", options.user.clone());
        self.maybe("init", options.init);
        self.maybe("network_mode", options.network_mode.clone());
        self.maybe("hostname", options.hostname.clone());
        for (name, limit) in &options.ulimits {
            self.put(format!("ulimits.{name}"), format!("{}:{}", limit.soft, limit.hard));
        }
        for name in &options.cap_add {
            self.put(format!("cap_add.{name}"), "");
        }
        for (key, names) in [("dns", &options.dns), ("group_add", &options.group_add)] {
            for name in names {
                self.put(format!("{key}.{name}"), "");
            }
        }
        for (key, value) in &options.sysctls {
            self.put(format!("sysctls.{key}"), value);
        }
        for (key, value) in &options.labels {
            self.put(format!("labels.{key}"), value);
        }
        for port in &options.ports {
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            let (ip, published) = (part(&port.host_ip), part(&port.published));
            self.put(format!("ports.{ip}:{published}:{}/{}", port.target, port.protocol), "");
        }
        for port in &options.expose {
            self.put(format!("expose.{port}"), "");
        }
        for host in &options.extra_hosts {
            let (host, address) = host.split_once(':').expect("HOST:ADDRESS");
            self.put(format!("extra_hosts.{host}"), address);
        }
        for (name, condition) in &options.depends_on {
            let condition = match condition {
                DependsCondition::Started => "service_started",
                DependsCondition::Healthy => "service_healthy",
                DependsCondition::CompletedSuccessfully => "service_completed_successfully",
            };
            self.put(format!("depends_on.{name}"), condition);
        }
        if let Some(check) = &options.healthcheck {
            self.put("healthcheck.test", json!(check.test));
            self.maybe("healthcheck.interval", check.interval.map(millis));
            self.maybe("healthcheck.timeout", check.timeout.map(millis));
            self.maybe("healthcheck.start_period", check.start_period.map(millis));
            self.maybe("healthcheck.retries", check.retries);
        }
        if let Some(build) = &options.build {
            let build: Json = serde_json::from_str(build).expect("a build section is JSON");
            self.build(&build);
        }
    }

    fn build(&mut self, build: &Json) {
        for (key, value) in build.as_object().expect("a build section is a map") {
            let path = format!("build.{key}");
            match (key.as_str(), value) {
                ("shm_size", Json::String(size)) => self.put(path, crate::units::bytes(size)),
                (_, Json::Object(map)) => {
                    for (key, value) in map {
                        self.maybe(&format!("{path}.{key}"), value.as_str());
                    }
                }
                (_, Json::Array(items)) => {
                    for item in items.iter().filter_map(Json::as_str) {
                        self.put(format!("{path}.{item}"), "");
                    }
                }
                (_, value) => self.maybe(&path, value.as_str()),
            }
        }
    }

    fn files(&mut self, options: &ContainerOptions) {
        for mount in &options.volumes {
            let kind = match mount.kind {
                MountKind::Bind => "bind",
                MountKind::Volume => "volume",
                MountKind::Tmpfs => panic!("a tmpfs is in its own list"),
            };
            let mode = if mount.read_only { "ro" } else { "rw" };
            self.put(format!("volumes.{}", mount.target), format!("{kind} {} {mode}", mount.source));
        }
        for tmpfs in &options.tmpfs {
            let (target, tmpfs) = tmpfs.split_once(':').unwrap_or((tmpfs, ""));
            let mut tmpfs: Vec<&str> = tmpfs.split(',').collect();
            tmpfs.sort_unstable();
            self.put(format!("tmpfs.{target}"), tmpfs.join(","));
        }
        for device in &options.devices {
            let mut parts = device.split(':');
            let host = parts.next().expect("a split has a first part");
            let (inside, permissions) = (parts.next().unwrap_or(host), parts.next().unwrap_or("rwm"));
            self.put(format!("device_files.{inside}"), format!("{host} {permissions}"));
        }
        let mut grants = |kind: &str, grants: &[FileGrant]| {
            for grant in grants {
                let target = grant.target.as_deref().unwrap_or_default();
                let file = grant.file.as_deref().unwrap_or_default();
                let near = if file.starts_with(['/', '.']) { "" } else { "./" };
                self.put(format!("{kind}.{}.{target}", grant.source), format!("{near}{file}"));
            }
        };
        grants("secrets", &options.secrets);
        grants("configs", &options.configs);
    }
}
