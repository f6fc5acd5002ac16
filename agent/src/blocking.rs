//! Work that waits for the disk, beside the reactor.

/// Runs `work` on a thread of its own; an error says that the thread was lost.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())
}
