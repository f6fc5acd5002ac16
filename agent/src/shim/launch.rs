//! Starting the task's main process, or saying as a shell would why that cannot be.

use std::fs;
use std::io::{self, PipeReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal, setsid};

use crate::runtime::TaskRecord;

/// A started task.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
}

/// Why the command of a task cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CannotStart {
    /// As a shell's: 127 if it is not there, 126 if it cannot be executed.
    pub(super) code: i32,
    pub(super) message: String,
}

/// Starts the task as leader of a session of its own.
pub(super) fn launch(record: &TaskRecord) -> Result<Launched, CannotStart> {
    let program = find(record)?;
    let (stdout, out) = io::pipe().map_err(|e| not_executed(record, &program, &e))?;
    let (stderr, err) = io::pipe().map_err(|e| not_executed(record, &program, &e))?;
    let mut command = Command::new(&program);
    command.args(&record.spec.argv[1..]).env_clear().envs(&record.environment);
    command.arg0(&record.spec.argv[0]).current_dir(&record.spec.working_dir);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let shim = getpid();
    // SAFETY: only system calls happen between fork and exec; nothing allocates or locks.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The shim may have died before that took effect.
            if getppid() == Some(shim) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    let child = command.spawn().map_err(|e| not_executed(record, &program, &e))?;
    Ok(Launched { child, stdout, stderr })
}

/// The program file: as given if it has a slash, else the first on the task's PATH.
fn find(record: &TaskRecord) -> Result<PathBuf, CannotStart> {
    let spec = &record.spec;
    let dir = &spec.working_dir;
    if !dir.is_dir() {
        let message = format!(
            "the working directory {} is not on {}; create it there, or set working_dir",
            dir.display(),
            spec.node
        );
        return Err(CannotStart { code: 126, message });
    }
    let Some(name) = spec.argv.first() else {
        return Err(CannotStart { code: 127, message: "the command is empty; give one".to_owned() });
    };
    let path = record.environment.get("PATH").map_or("", String::as_str);
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![dir.join(name)]
    } else {
        path.split(':').filter(|d| !d.is_empty()).map(|d| dir.join(d).join(name)).collect()
    };
    if let Some(program) = candidates.iter().find(|c| is_executable(c)) {
        return Ok(program.clone());
    }
    let node = &spec.node;
    Err(match candidates.iter().find(|c| c.exists()) {
        Some(there) if there.is_dir() => CannotStart {
            code: 126,
            message: format!("{name}: {} on {node} is a directory, not a program", there.display()),
        },
        Some(there) => CannotStart {
            code: 126,
            message: format!("{name}: {} on {node} is not executable; chmod +x it", there.display()),
        },
        None if name.contains('/') => CannotStart {
            code: 127,
            message: format!("{name}: no such file on {node} (looked in {})", dir.display()),
        },
        None => CannotStart {
            code: 127,
            message: format!(
                "{name}: command not found on {node} (looked in PATH {path}); install it there, or give its whole path"
            ),
        },
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn not_executed(record: &TaskRecord, program: &Path, error: &io::Error) -> CannotStart {
    let message = format!("{} could not be executed on {}: {error}", program.display(), record.spec.node);
    CannotStart { code: 126, message }
}
