//! Finding the tasks that an earlier agent left.

use std::fs;
use std::io;

use super::super::{RuntimeError, TaskDir, TaskKey, TaskStatus, io_error};
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
                    tracing::warn!(dir = %dir.path().display(), %error, "cannot tell which task this is")
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn recover_one(&self, dir: &TaskDir) -> io::Result<Option<TaskKey>> {
        if dir.container()?.is_some() {
            return Ok(None); // Another runtime's.
        }
        let Some(record) = dir.record()? else {
            // An agent was killed while it made or removed this directory: nothing runs in it.
            tracing::info!(dir = %dir.path().display(), "removing what is left of a task's directory");
            fs::remove_dir_all(dir.path())?;
            return Ok(None);
        };
        let task = record.spec.key;
        // The watcher, started below, brings it up to date at once.
        let status = match (dir.started()?, dir.exit()?) {
            (_, Some(exit)) => TaskStatus::Exited(exit),
            (Some(started), None) => {
                TaskStatus::Running { pid: started.task.pid.cast_unsigned(), health: None, paused: false }
            }
            (None, None) => TaskStatus::Running { pid: 0, health: None, paused: false },
        };
        self.shared.tasks().insert(task.clone(), Known::of(status));
        self.watch(task.clone(), record.marker);
        Ok(Some(task))
    }
}
