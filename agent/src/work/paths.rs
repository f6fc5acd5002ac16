//! Where a task finds what is its own: the path on the host, and the name that the task has for it.
//!
//! A process sees the host's paths. A container sees `/run/convoke/…`, or the directory that its job
//! names for checkpoints; what is mounted there is writable for any user, and lies on the host below the
//! state directory, which is the agent's alone.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use convoke_model::{DesiredReplica, Rank, Shards};
use serde::{Deserialize, Serialize};

use crate::beneath::Beneath;
use crate::files::{HostMount, HostSource};
use crate::home::socket_in;
use crate::host::Host;
use crate::runtime::TaskKey;
use crate::runtime::docker::Described;

/// Where a container finds Convoke's own files.
const INSIDE: &str = "/run/convoke";

/// One file or directory, by both of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: Beneath,
    pub inside: PathBuf,
}

/// What a container's replica needs to know from its preparation on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// The engine's id of the image.
    pub image: String,
    /// The directory that the job names for its checkpoints.
    pub checkpoints: Option<NamedDir>,
}

/// A directory that the job names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedDir {
    /// Absolute, in the container.
    pub inside: PathBuf,
    /// Where the mount that has it is on the host, if one of the job's does; else it is one of Convoke's.
    pub host: Option<PathBuf>,
    /// What of its path lies below the mount; older records have it in `host`.
    #[serde(default)]
    pub below: PathBuf,
}

impl Inside {
    /// As it was prepared, by what the engine knows of a container. Convoke's own mounts are below `replica`.
    pub fn of_container(desired: &DesiredReplica, described: &Described, replica: &Path) -> Self {
        let checkpoints = desired.spec.checkpoint.dir.as_deref().map(|directory| {
            let inside = absolute(&described.working_dir, directory);
            let own = replica.join("checkpoints");
            let is_jobs = |mount: &&HostMount| match &mount.source {
                HostSource::Path(source) => !source.starts_with(&own),
                HostSource::Volume(_) | HostSource::AnonymousVolume => false,
            };
            let mounts: Vec<HostMount> = described.mounts.iter().filter(is_jobs).cloned().collect();
            let (host, below) = match covering(&mounts, &inside) {
                Some((HostMount { source: HostSource::Path(source), .. }, below)) => {
                    (Some(source.clone()), below.to_owned())
                }
                Some(_) | None => (None, PathBuf::new()),
            };
            NamedDir { inside, host, below }
        });
        Self { image: described.image.clone(), checkpoints }
    }
}

/// The places of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPaths {
    /// The directory of its socket: it outlives the agent, the socket file does not.
    pub socket_dir: Place,
    pub checkpoints: Place,
    /// The checkpoint to start from.
    pub resume: Option<Place>,
    pub metrics: Place,
    /// Where torchrun may write its workers' logs.
    pub log_dir: Place,
}

impl Place {
    fn same(path: PathBuf) -> Self {
        Self { host: Beneath::new(path.clone()), inside: path }
    }

    fn inside(host: PathBuf, name: &str) -> Self {
        Self { host: Beneath::new(host), inside: Path::new(INSIDE).join(name) }
    }

    fn join(&self, name: &str) -> Self {
        Self { host: self.host.join(name), inside: self.inside.join(name) }
    }

    fn mount(&self, read_only: bool) -> HostMount {
        let target = self.inside.display().to_string();
        HostMount { source: HostSource::Path(self.host.path()), target, read_only }
    }
}

impl TaskPaths {
    /// `inside` is there for a container.
    pub fn of(
        host: &Host,
        desired: &DesiredReplica,
        inside: Option<&Inside>,
        resume: Option<&Path>,
        rank: Rank,
    ) -> Self {
        let key = TaskKey { replica: desired.key(), rank };
        let place = |path: PathBuf, name: &str| match inside {
            Some(_) => Place::inside(path, name),
            None => Place::same(path),
        };
        let files = host.runtime.task_dir(&key);
        Self {
            socket_dir: place(host.home.socket_dir(&key.replica, rank), "socket"),
            checkpoints: checkpoints(host, desired, inside, rank),
            resume: resume.map(|path| place(path.to_owned(), "resume")),
            metrics: place(files.metrics(), "metrics.jsonl"),
            log_dir: place(files.path().join("torchrun"), "torchrun"),
        }
    }

    /// The socket, as the task names it.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.socket_dir.inside)
    }

    /// Makes what a container's mounts need, for any user in it.
    pub fn make(&self) -> io::Result<()> {
        for directory in [&self.socket_dir, &self.log_dir, &self.checkpoints] {
            directory.host.create_dir_all()?;
        }
        open_to_all(&self.socket_dir, 0o777)?;
        open_to_all(&self.log_dir, 0o777)?;
        if let Some(resume) = &self.resume {
            open_to_all(resume, 0o755)?;
        }
        File::options().create(true).append(true).open(self.metrics.host.path())?;
        open_to_all(&self.metrics, 0o666)
    }

    /// Convoke's own mounts. `inside` says where the checkpoints are.
    pub fn mounts(&self, inside: &Inside) -> Vec<HostMount> {
        let writable = [&self.socket_dir, &self.log_dir, &self.metrics];
        let mut mounts: Vec<HostMount> = writable.into_iter().map(|place| place.mount(false)).collect();
        mounts.extend(self.resume.as_ref().map(|place| place.mount(true)));
        if inside.checkpoints.as_ref().is_none_or(|named| named.host.is_none()) {
            mounts.push(self.checkpoints.mount(false));
        }
        mounts
    }
}

/// Where a task leaves its finished `step-<n>/`: one for each task, except where the job names a
/// directory and only rank 0 writes to it.
pub fn checkpoints(host: &Host, desired: &DesiredReplica, inside: Option<&Inside>, rank: Rank) -> Place {
    let own = host.home.checkpoint_dir(&desired.key(), rank);
    let policy = &desired.spec.checkpoint;
    let named = match (inside, &policy.dir) {
        (None, None) => return Place::same(own),
        (None, Some(dir)) => Place::same(Path::new(&desired.spec.project_dir).join(dir)),
        (Some(inside), _) => match &inside.checkpoints {
            None => return Place::inside(own, "checkpoints"),
            Some(NamedDir { inside, host: None, .. }) => {
                let inside = of_rank(inside.clone(), policy.shards, rank);
                return Place { host: Beneath::new(own), inside };
            }
            Some(NamedDir { inside, host: Some(host), below }) => {
                Place { host: Beneath::new(host.clone()).join(below), inside: inside.clone() }
            }
        },
    };
    match policy.shards {
        Shards::RankZero => named,
        Shards::All => named.join(&format!("rank-{rank}")),
    }
}

fn of_rank(directory: PathBuf, shards: Shards, rank: Rank) -> PathBuf {
    match shards {
        Shards::RankZero => directory,
        Shards::All => directory.join(format!("rank-{rank}")),
    }
}

/// Makes the task's checkpoint directory. One of Convoke's own is writable for any user of a container;
/// one of the user's keeps its rights.
pub(super) fn make_checkpoint_dir(place: &Place, inside: Option<&Inside>) -> io::Result<()> {
    place.host.create_dir_all()?;
    let own = inside.is_some_and(|i| i.checkpoints.as_ref().is_none_or(|named| named.host.is_none()));
    if own { open_to_all(place, 0o777) } else { Ok(()) }
}

/// Of Convoke's own places, whose last directory only the agent can replace.
fn open_to_all(place: &Place, mode: u32) -> io::Result<()> {
    fs::set_permissions(place.host.path(), Permissions::from_mode(mode))
}

/// The job's own name for its checkpoint directory, absolute in the container: relative to its working
/// directory.
pub(super) fn absolute(working_dir: &str, directory: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new("/").join(working_dir).join(directory).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// The mount that has `path`, and what of `path` lies below it.
pub(super) fn covering<'a>(mounts: &'a [HostMount], path: &'a Path) -> Option<(&'a HostMount, &'a Path)> {
    let below = |mount: &'a HostMount| Some((mount, path.strip_prefix(&mount.target).ok()?));
    mounts.iter().filter_map(below).max_by_key(|(mount, _)| Path::new(&mount.target).components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str) -> HostMount {
        HostMount { source: HostSource::Path(source.into()), target: target.into(), read_only: false }
    }

    #[test]
    fn a_directory_is_named_from_the_containers_working_directory() {
        for (working_dir, directory, absolute_path) in [
            ("/workspace", "checkpoints", "/workspace/checkpoints"),
            ("/workspace", "./a/../ckpt/", "/workspace/ckpt"),
            ("/workspace", "/data/ckpt", "/data/ckpt"),
            ("", "ckpt", "/ckpt"),
            ("/a", "../../../b", "/b"),
        ] {
            assert_eq!(absolute(working_dir, directory), Path::new(absolute_path));
        }
    }

    #[test]
    fn where_a_containers_checkpoints_lie_is_told_by_its_mounts() {
        let mut desired = crate::testing::desired_replica("j", 1, 0, &["cpu-0"]);
        let mut found = |dir: Option<&str>| {
            desired.spec.checkpoint.dir = dir.map(str::to_owned);
            let mounts = vec![mount("/h", "/w"), mount("/state/replicas/r/checkpoints/0", "/elsewhere")];
            let described =
                Described { image: "i".to_owned(), working_dir: "/w".to_owned(), mounts, gpus: Vec::new() };
            Inside::of_container(&desired, &described, Path::new("/state/replicas/r")).checkpoints
        };
        assert_eq!(found(None), None);
        let named = |inside: &str, host: Option<&str>, below: &str| {
            Some(NamedDir { inside: inside.into(), host: host.map(Into::into), below: below.into() })
        };
        assert_eq!(found(Some("ckpt")), named("/w/ckpt", Some("/h"), "ckpt"));
        assert_eq!(found(Some("/elsewhere")), named("/elsewhere", None, ""));
    }

    #[test]
    fn the_deepest_mount_above_a_path_has_it() {
        let mounts = [mount("/h/all", "/w"), mount("/h/deep", "/w/checkpoints"), mount("/h/x", "/w/check")];
        let found = |path: &str| {
            covering(&mounts, Path::new(path)).map(|(m, rest)| (m.target.clone(), rest.display().to_string()))
        };
        assert_eq!(found("/w/checkpoints/a"), Some(("/w/checkpoints".into(), "a".into())));
        assert_eq!(found("/w/checkpoints"), Some(("/w/checkpoints".into(), String::new())));
        assert_eq!(found("/w/checks"), Some(("/w".into(), "checks".into())));
        assert_eq!(found("/elsewhere"), None);
    }
}
