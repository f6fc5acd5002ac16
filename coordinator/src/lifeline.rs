//! A lifeline ties this process to another one: the other holds an exclusive lock of a file, and
//! when it dies, by whatever cause, the lock is free and this process ends at once.

use std::fs::File;
use std::io;
use std::path::Path;

/// Starts the thread that waits for the lock.
pub(crate) fn hold(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        // Everything that was acknowledged is on disk: ending like this is what kill -9 does.
        match file.lock_shared() {
            Ok(()) => tracing::warn!("the process that started this one is gone: ending"),
            Err(error) => tracing::error!("the lifeline cannot be watched ({error}): ending"),
        }
        std::process::exit(1);
    })?;
    Ok(())
}
