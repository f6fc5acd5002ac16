//! SIGTERM and SIGINT: the first asks the training loop to stop, the second ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// 128 + SIGTERM, as a shell reports it.
pub(crate) const STOPPED: u8 = 143;

/// From now on the returned flag is set by the first signal.
pub(crate) fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (terminate, interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || runtime.block_on(watch(terminate, interrupt, &flag)))?;
    Ok(stop)
}

async fn watch(mut terminate: Signal, mut interrupt: Signal, stop: &AtomicBool) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(STOPPED));
        }
        eprintln!("asked to stop: finishing this step (a second signal ends at once)");
    }
}
