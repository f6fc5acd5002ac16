//! How processes of an ended replica are told from all others.

use std::fs;

use crate::runtime::{Runtime, TaskKey, procfs};

/// The markers of a replica's processes and the ids of its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    markers: Vec<String>,
    containers: Vec<String>,
}

impl Traces {
    /// Of a replica's tasks, whose directories are still there.
    pub fn of(runtime: &dyn Runtime, tasks: &[TaskKey]) -> Self {
        let mut traces = Self::default();
        for dir in tasks.iter().map(|task| runtime.task_dir(task)) {
            traces.markers.extend(dir.record().ok().flatten().map(|record| record.marker));
            traces.containers.extend(dir.created());
        }
        traces
    }

    #[cfg(test)]
    pub(super) fn marked(markers: &[&str]) -> Self {
        Self { markers: markers.iter().map(|marker| (*marker).to_owned()).collect(), containers: Vec::new() }
    }

    /// The process is in one of the containers' cgroups, or carries one of the markers.
    pub(super) fn have(&self, pid: u32) -> bool {
        let marked = |marker: &String| i32::try_from(pid).is_ok_and(|pid| procfs::carries(pid, marker));
        self.markers.iter().any(marked) || self.is_contained(pid)
    }

    fn is_contained(&self, pid: u32) -> bool {
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        self.containers.iter().any(|id| names(&cgroups, id))
    }

    /// Sends SIGKILL, if it still is one of them.
    pub(super) fn kill(&self, pid: u32) {
        if let Ok(raw) = i32::try_from(pid) {
            procfs::kill(raw, || self.have(pid));
        }
    }
}

/// A line of `/proc/<pid>/cgroup` leads into the container's own: `…/docker/<id>`, or
/// `…/docker-<id>.scope`.
fn names(cgroups: &str, id: &str) -> bool {
    let parts =
        cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    parts
        .into_iter()
        .any(|part| part == id || part.strip_suffix(".scope").is_some_and(|p| p.ends_with(&format!("-{id}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_in_either_version_of_cgroups_and_under_either_driver() {
        assert!(names("0::/system.slice/docker-abc123.scope", "abc123"));
        assert!(names("4:memory:/docker/abc123\n3:cpu:/docker/abc123", "abc123"));
        assert!(names("0::/docker/abc123/child", "abc123"));
        assert!(!names("0::/docker/xabc123", "abc123"));
        assert!(!names("0::/user.slice", "abc123"));
    }

    #[test]
    fn a_process_that_is_not_the_replicas_is_not_touched() {
        let traces = Traces { markers: vec!["no-such-marker".to_owned()], containers: vec!["f".repeat(64)] };
        let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(!traces.have(other.id()));
        traces.kill(other.id());
        assert!(other.try_wait().unwrap().is_none(), "it runs on");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
