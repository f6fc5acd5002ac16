//! Asking a replica's tasks to end.

use std::time::Duration;

use tracing::warn;

use crate::host::Host;
use crate::runtime::{RuntimeError, TaskKey};

/// How long a request may take to reach a shim; the plan asks again later.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks every task to end. Whether they did is seen in their status; a request that was not
/// delivered is repeated by the plan.
pub async fn stop(host: &Host, tasks: &[TaskKey], grace: Duration) {
    let asking = tasks.iter().map(|task| async move {
        match tokio::time::timeout(DELIVERY_TIMEOUT, host.runtime.stop(task, grace)).await {
            Ok(Ok(()) | Err(RuntimeError::Unknown(_))) => {}
            Ok(Err(error)) => warn!(%task, "cannot be asked to stop: {error}"),
            Err(_) => warn!(%task, "was not reached by the request to stop"),
        }
    });
    futures::future::join_all(asking).await;
}
