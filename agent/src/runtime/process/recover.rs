//! Finding the tasks that an earlier agent left.

use std::fs;
use std::io;

use super::super::layout::whole;
use super::super::procfs::{self, MARKER};
use super::super::{DAMAGED_RECORD, RuntimeError, TaskDir, TaskKey, TaskStatus, io_error};
use super::{Known, ProcessRuntime};

impl ProcessRuntime {
    pub(super) async fn recover_all(&self) -> Result<Vec<TaskKey>, RuntimeError> {
        let tasks_dir = &self.shared.config.tasks_dir;
        let failed = || io_error(format!("reading {}", tasks_dir.display()));
        let entries = match fs::read_dir(tasks_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed())?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let dir = TaskDir::new(entry.map_err(failed())?.path());
            match self.recover_one(&dir) {
                Ok(task) => found.extend(task),
                // What is not understood is left alone, running or not.
                Err(error) => {
                    let place = dir.path().display().to_string();
                    let text = format!(
                        "cannot tell which task {place} is of: {error}; what runs there is left alone"
                    );
                    self.shared.config.conditions.raise(DAMAGED_RECORD, &place, text);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn recover_one(&self, dir: &TaskDir) -> io::Result<Option<TaskKey>> {
        if dir.is_container() {
            return Ok(None); // Another runtime's.
        }
        let (task, marker) = match whole(dir.record())? {
            Some(Some(record)) => (record.spec.key, record.marker),
            None => self.identify(dir)?,
            // A shim lives, or lived: its task is none that was never begun.
            Some(None) if dir.try_lock()?.is_none() || dir.started()?.is_some() => self.identify(dir)?,
            Some(None) => {
                // An agent was killed while it made or removed this directory: nothing runs in it.
                tracing::info!(dir = %dir.path().display(), "removing what is left of a task's directory");
                fs::remove_dir_all(dir.path())?;
                return Ok(None);
            }
        };
        // The watcher, started below, brings it up to date at once.
        let status = match (dir.started()?, dir.exit()?) {
            (_, Some(exit)) => TaskStatus::Exited(exit),
            (Some(started), None) => TaskStatus::running(started.task.pid.cast_unsigned()),
            (None, None) => TaskStatus::running(0),
        };
        self.shared.tasks().insert(task.clone(), Known::of(status));
        self.watch(task.clone(), marker);
        Ok(Some(task))
    }

    /// A task whose `task.json` is damaged or gone: its directory's name says which it is, and its shim's processes
    /// carry its marker.
    fn identify(&self, dir: &TaskDir) -> io::Result<(TaskKey, String)> {
        let task = dir
            .task()
            .ok_or_else(|| io::Error::other("its task.json is damaged, and its name is no task's"))?;
        let known = dir.started()?.filter(|started| started.shim.pidfd().is_some());
        let shim = match known {
            Some(started) => Some(started.shim.pid),
            None => procfs::shim_of(dir.path())?,
        };
        let marker = shim.map(procfs::marker_below).transpose()?.flatten();
        match marker {
            Some(_) => {
                tracing::warn!(%task, "its task.json is damaged; it is known by its shim and its processes")
            }
            None => {
                let text = format!(
                    "the record of {task} is damaged and no process of it is found; if it left some behind, they run \
                     on: look for {MARKER} in the environment of processes ({})",
                    dir.path().join("task.json").display()
                );
                self.shared.config.conditions.raise(DAMAGED_RECORD, &task.to_string(), text);
            }
        }
        // One that no process carries.
        let marker = marker.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        Ok((task, marker))
    }
}
