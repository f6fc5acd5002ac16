//! What trains for real: the example through `convoke up`, and `convoke demo` with all that can
//! happen to it. One after the other: each takes the whole machine.

mod demo;
mod mnist;

use tokio::sync::{Mutex, MutexGuard};

static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits until the machine is this test's alone.
async fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}
