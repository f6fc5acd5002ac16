//! The lifeline: a lock that somebody holds for as long as the task may live.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::runtime::procfs;

/// Ends this process and everything below it once the lock of `path` is released.
pub(super) fn watch(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        // Blocks while it is held exclusively. An error counts as released: better too short a
        // life than one that nobody ends.
        file.lock_shared().ok();
        let own = std::process::id().cast_signed();
        // Until nothing is left: a process may start another one while this looks. Ten rounds
        // outrun everything but a fork bomb.
        for _ in 0..10 {
            if procfs::kill_descendants(own).is_ok_and(|found| found == 0) {
                break;
            }
        }
        std::process::exit(1);
    })?;
    Ok(())
}
