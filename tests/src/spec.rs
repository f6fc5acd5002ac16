//! Job specifications in few words.

use std::path::Path;

use convoke_proto::v1;

/// Builds a [`v1::JobSpec`]: by default one rank on one node, no restarts for the application.
#[derive(Debug, Clone)]
pub struct Job(v1::JobSpec);

/// A job whose every rank runs `script` in `/bin/sh`.
pub fn sh(name: &str, script: &str) -> Job {
    Job::new(name, ["/bin/sh", "-c", script])
}

/// The shell commands that leave a finished checkpoint of `step` with `content`.
pub fn checkpoint(step: u64, content: &str) -> String {
    let directory = "\"$CONVOKE_CHECKPOINT_DIR\"";
    format!(
        "mkdir {directory}/.next && printf '%s' '{content}' > {directory}/.next/weights && \
         mv {directory}/.next {directory}/step-{step}"
    )
}

impl Job {
    pub fn new<'a>(name: &str, command: impl IntoIterator<Item = &'a str>) -> Self {
        Self(v1::JobSpec {
            name: name.to_owned(),
            project: "stories".to_owned(),
            service: name.to_owned(),
            project_dir: "/".to_owned(),
            command: command.into_iter().map(str::to_owned).collect(),
            replicas: 1,
            devices: Some(v1::DeviceRequest {
                kind: v1::DeviceKind::Cpu.into(),
                count: Some(v1::device_request::Count::Exactly(1)),
            }),
            layout: v1::RankLayout::PerGpu.into(),
            framework: v1::Framework::Torch.into(),
            restart: Some(v1::RestartPolicy {
                infrastructure: Some(3),
                application: Some(0),
                ..Default::default()
            }),
            stop_signal: 15,
            stop_grace_ms: 10_000,
            failure_grace_ms: 2_000,
            checkpoint: Some(v1::CheckpointPolicy {
                dir: None,
                keep: 3,
                shards: v1::Shards::RankZero.into(),
            }),
            collect: v1::Collect::NodeRankZero.into(),
            ..Default::default()
        })
    }

    /// `nodes` replicas of `ranks` ranks each.
    pub fn gang(mut self, nodes: u32, ranks: u32) -> Self {
        self.0.replicas = nodes;
        self.0.devices = Some(v1::DeviceRequest {
            kind: v1::DeviceKind::Cpu.into(),
            count: Some(v1::device_request::Count::Exactly(ranks)),
        });
        self
    }

    pub fn directory(mut self, project_dir: &Path) -> Self {
        self.0.project_dir = project_dir.display().to_string();
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.0.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// How many restarts the application's own failures get.
    pub fn application_restarts(mut self, restarts: u32) -> Self {
        self.0.restart.get_or_insert_default().application = Some(restarts);
        self
    }

    pub fn infrastructure_restarts(mut self, restarts: u32) -> Self {
        self.0.restart.get_or_insert_default().infrastructure = Some(restarts);
        self
    }

    /// Anything else.
    pub fn with(mut self, change: impl FnOnce(&mut v1::JobSpec)) -> Self {
        change(&mut self.0);
        self
    }

    pub fn spec(&self) -> v1::JobSpec {
        self.0.clone()
    }
}
