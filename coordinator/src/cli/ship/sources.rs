//! What of the submitter's files a job names: relative bind mounts, secrets and configs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use convoke_model::{JobSpec, Marker, MountKind, TreeRef};

use crate::cli::failure::Failure;

/// A place in a spec that content goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Mount(usize),
    Secret(usize),
    Config(usize),
}

/// Something of the submitter's that job number `job` names.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) job: usize,
    slot: Slot,
    /// Directory that the job's relative paths mean.
    pub(super) project: PathBuf,
    pub(super) path: PathBuf,
    /// As the job file has it.
    pub(super) shown: String,
    pub(super) read_only: bool,
}

/// Whether a job's containers need the submitter's files; processes run where they are.
pub(crate) fn travels(job: &JobSpec) -> bool {
    job.image.is_some() || job.container.build.is_some()
}

pub(super) fn wanted(jobs: &[JobSpec]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (number, job) in jobs.iter().enumerate().filter(|(_, job)| travels(job)) {
        let project = Path::new(&job.project_dir);
        let mut add = |slot, source: &str, read_only| {
            // Without the `.` of `./data`.
            let (path, shown) = (project.join(source).components().collect(), source.to_owned());
            wanted.push(Wanted { job: number, slot, project: project.to_owned(), path, shown, read_only });
        };
        for (i, mount) in job.container.volumes.iter().enumerate() {
            if is_submitters(mount.kind, &mount.source) {
                add(Slot::Mount(i), &mount.source, mount.read_only);
            }
        }
        let grants = |grants: &[convoke_model::FileGrant]| {
            grants.iter().enumerate().filter_map(|(i, g)| Some((i, g.file.clone()?))).collect::<Vec<_>>()
        };
        for (i, file) in grants(&job.container.secrets) {
            add(Slot::Secret(i), &file, true);
        }
        for (i, file) in grants(&job.container.configs) {
            add(Slot::Config(i), &file, true);
        }
    }
    wanted
}

/// A bind mount whose source is the submitter's: absolute paths are the nodes' own.
pub(crate) fn is_submitters(kind: MountKind, source: &str) -> bool {
    kind == MountKind::Bind && !source.is_empty() && !source.starts_with('/')
}

impl Wanted {
    /// Engines make the directory of a bind mount that is not there, and files rely on it.
    pub(super) fn is_missing_directory(&self) -> bool {
        let absent = || matches!(fs::metadata(&self.path), Err(e) if e.kind() == io::ErrorKind::NotFound);
        self.is_mount() && absent()
    }

    pub(super) fn is_mount(&self) -> bool {
        matches!(self.slot, Slot::Mount(_))
    }

    pub(super) fn make_directory(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.path).map_err(|e| Failure::file("make", &self.path, &e))
    }

    /// Writes into the spec that the nodes see the directory by themselves, or that they do not.
    pub(super) fn mount_shared(&self, jobs: &mut [JobSpec], marker: Option<&Marker>) {
        if let Slot::Mount(i) = self.slot {
            let mount = &mut jobs[self.job].container.volumes[i];
            (mount.shared, mount.content) = (marker.cloned(), None);
        }
    }

    /// Writes into the spec what the place held.
    pub(super) fn fill(&self, jobs: &mut [JobSpec], content: &TreeRef) {
        let container = &mut jobs[self.job].container;
        let place = match self.slot {
            Slot::Mount(i) => &mut container.volumes[i].content,
            Slot::Secret(i) => &mut container.secrets[i].content,
            Slot::Config(i) => &mut container.configs[i].content,
        };
        *place = Some(content.clone());
    }
}

#[cfg(test)]
mod tests {
    use convoke_model::{FileGrant, JobName, Mount};

    use super::*;

    fn job() -> JobSpec {
        let mount = |kind, source: &str| Mount {
            kind,
            source: source.to_owned(),
            target: "/x".to_owned(),
            read_only: false,
            content: None,
            shared: None,
        };
        let grant = |file: &str| FileGrant {
            source: "s".to_owned(),
            file: Some(file.to_owned()),
            target: None,
            content: None,
        };
        let mut job = JobSpec::processes(JobName::new("train").unwrap(), vec!["x".to_owned()]);
        job.project_dir = "/home/u/p".to_owned();
        job.container.volumes = vec![
            mount(MountKind::Volume, "cache"),
            mount(MountKind::Bind, "/mnt/data"),
            mount(MountKind::Bind, "./checkpoints"),
            mount(MountKind::Bind, "../shared"),
            mount(MountKind::Volume, ""),
        ];
        job.container.secrets = vec![grant("./token")];
        job.container.configs = vec![grant("/etc/app.conf")];
        job
    }

    #[test]
    fn relative_mounts_secrets_and_configs_travel_but_only_to_containers() {
        let mut job = job();
        assert!(wanted(std::slice::from_ref(&job)).is_empty(), "processes find the files where they are");
        job.image = Some("alpine".to_owned());
        let shown: Vec<_> = wanted(std::slice::from_ref(&job)).into_iter().map(|w| w.shown).collect();
        assert_eq!(shown, ["./checkpoints", "../shared", "./token", "/etc/app.conf"]);
    }

    #[test]
    fn content_is_filled_in_where_it_was_wanted() {
        let mut jobs = [job()];
        jobs[0].image = Some("alpine".to_owned());
        let content = TreeRef { digest: convoke_model::Digest([1; 32]), files: 1, bytes: 2 };
        for wanted in wanted(&jobs) {
            wanted.fill(&mut jobs, &content);
        }
        let container = &jobs[0].container;
        let filled: Vec<_> = container.volumes.iter().map(|m| m.content.is_some()).collect();
        assert_eq!(filled, [false, false, true, true, false]);
        assert!(container.secrets[0].content.is_some() && container.configs[0].content.is_some());
    }

    #[test]
    fn only_a_mounts_directory_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut job = job();
        job.image = Some("alpine".to_owned());
        job.project_dir = dir.path().join("p").to_str().unwrap().to_owned();
        let wanted = wanted(&[job]);
        let missing: Vec<_> = wanted.iter().map(Wanted::is_missing_directory).collect();
        assert_eq!(missing, [true, true, false, false]);
        wanted[0].make_directory().unwrap();
        assert!(!wanted[0].is_missing_directory() && wanted[0].path.is_dir());
    }
}
