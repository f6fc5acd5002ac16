//! The part of a job specification that only means something to a container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{JobSpec, Marker, TreeRef};

/// The longest name of a host (RFC 1035).
const MAX_HOST_NAME: usize = 253;

/// The keys that only mean something to a container runtime. The process runtime ignores them;
/// the Compose reader notes that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerOptions {
    pub container_name: Option<String>,
    /// A `build` section, as JSON in Compose's long form; the submitter's Docker builds it.
    pub build: Option<String>,
    pub volumes: Vec<Mount>,
    pub tmpfs: Vec<String>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub ipc: Option<String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub user: Option<String>,
    pub init: Option<bool>,
    pub cap_add: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<PortMapping>,
    pub expose: Vec<String>,
    pub healthcheck: Option<Healthcheck>,
    pub secrets: Vec<FileGrant>,
    pub configs: Vec<FileGrant>,
    pub depends_on: BTreeMap<String, DependsCondition>,
    pub devices: Vec<String>,
    pub network_mode: Option<String>,
    pub hostname: Option<String>,
    pub extra_hosts: Vec<String>,
    /// Addresses of name servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Groups, by name or number, that its processes are in beside their own.
    #[serde(default)]
    pub group_add: Vec<String>,
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Named volumes that a node must have already: its engine makes none of them.
    #[serde(default)]
    pub external_volumes: BTreeSet<String>,
    /// The registry's manifest that `image` meant at submit (`sha256:…`): every node runs these bits.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// The image itself, as `docker save` unpacks, where no registry has it.
    #[serde(default)]
    pub image_content: Option<TreeRef>,
    /// Names that other services of the project find it by, beside its own.
    #[serde(default)]
    pub aliases: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Host path, volume name, or empty (anonymous volume, tmpfs).
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// What the submitter's directory (a bind with a relative source) held at submit; the nodes lay it
    /// out. `None` for what is the node's own.
    #[serde(default)]
    pub content: Option<TreeRef>,
    /// Instead of content: the nodes see the submitter's directory by themselves, where this marker lies.
    #[serde(default)]
    pub shared: Option<Marker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// -1 is unlimited.
    pub soft: i64,
    /// -1 is unlimited.
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub host_ip: Option<String>,
    /// A port or a range (`8000-8010`); `None` lets the engine choose.
    pub published: Option<String>,
    pub target: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// As Docker's API takes it: `["CMD", …]`, `["CMD-SHELL", …]` or `["NONE"]`.
    pub test: Vec<String>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub retries: Option<u32>,
}

/// A secret or config given to the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileGrant {
    pub source: String,
    /// The submitter's file.
    pub file: Option<String>,
    pub target: Option<String>,
    /// What the file held at submit.
    #[serde(default)]
    pub content: Option<TreeRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependsCondition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

impl ContainerOptions {
    /// True if its container is reached by the ports that it publishes, not by those that it listens on: the
    /// user's word; else the node's network, where the ranks' addresses are, unless the job is one replica that
    /// publishes ports, which may mean other ports of the node.
    pub fn is_behind_ports(&self, gang: bool) -> bool {
        match self.network_mode.as_deref().filter(|word| !word.is_empty()) {
            None => !gang && !self.ports.is_empty(),
            Some(word) => word != "host",
        }
    }
}

impl Mount {
    /// The submitter's directory or file that its content is of; `project_dir` is the submitter's, too. Taken as
    /// written: links are not followed.
    pub fn submitted(&self, project_dir: &str) -> Option<PathBuf> {
        self.content.as_ref()?;
        let mut path = PathBuf::new();
        for part in Path::new(project_dir).join(&self.source).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                Component::CurDir => {}
                other => path.push(other),
            }
        }
        Some(path)
    }
}

impl JobSpec {
    /// What other services of its project call it, its own name first: those that can be names of hosts.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        let ContainerOptions { container_name, hostname, aliases, .. } = &self.container;
        let names = [Some(&self.service), container_name.as_ref(), hostname.as_ref()];
        let names = names.into_iter().flatten().chain(aliases);
        names.map(String::as_str).filter(|name| is_host_name(name))
    }
}

/// As `/etc/hosts` can have it, underscores included, which engines allow in the names of containers.
pub fn is_host_name(name: &str) -> bool {
    let may_have = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= MAX_HOST_NAME && name.chars().all(may_have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, JobName};

    #[test]
    fn a_job_is_called_by_its_names_that_hosts_can_have() {
        let mut spec = JobSpec::processes(JobName::new("p-db").unwrap(), vec!["x".to_owned()]);
        spec.service = "db".to_owned();
        spec.container.container_name = Some("my_db".to_owned());
        spec.container.hostname = Some("evil\n10.0.0.1 bank".to_owned());
        spec.container.aliases = vec!["db.local".to_owned(), String::new()];
        assert_eq!(spec.host_names().collect::<Vec<_>>(), ["db", "my_db", "db.local"]);
    }

    #[test]
    fn what_travels_is_known_by_its_path_at_the_submitter() {
        let content = Some(TreeRef { digest: Digest([0; 32]), files: 0, bytes: 0 });
        let mount = |source: &str, content| Mount {
            kind: MountKind::Bind,
            source: source.to_owned(),
            target: "/x".to_owned(),
            read_only: true,
            content,
            shared: None,
        };
        let path = |source| mount(source, content.clone()).submitted("/home/me/job");
        assert_eq!(path("./out/"), Some("/home/me/job/out".into()));
        assert_eq!(path("."), Some("/home/me/job".into()));
        assert_eq!(path("../data/./x"), Some("/home/me/data/x".into()));
        assert_eq!(mount("./out", None).submitted("/home/me/job"), None);
    }

    #[test]
    fn only_one_replica_that_publishes_ports_is_behind_them_unless_the_user_says_so() {
        let port = PortMapping { host_ip: None, published: None, target: 80, protocol: "tcp".to_owned() };
        let mut options = ContainerOptions { ports: vec![port], ..ContainerOptions::default() };
        assert_eq!((options.is_behind_ports(false), options.is_behind_ports(true)), (true, false));
        options.network_mode = Some("host".to_owned());
        assert!(!options.is_behind_ports(false));
        options = ContainerOptions { network_mode: Some("bridge".to_owned()), ..ContainerOptions::default() };
        assert!(options.is_behind_ports(false));
    }
}
