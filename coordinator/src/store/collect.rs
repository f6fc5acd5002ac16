//! Deleting what the catalogue has let go. The catalogue is asked again first: an order to delete
//! is a hint, not the truth.

use tokio::sync::mpsc;

use super::Store;
use crate::database::DatabaseError;
use crate::files::Files;
use crate::owner::{Garbage, Owner, Refused};
use crate::telemetry::Telemetry;

/// Deletes until the owner is gone.
pub(crate) async fn collect(
    store: Store,
    telemetry: Telemetry,
    files: Files,
    owner: Owner,
    mut garbage: mpsc::Receiver<Garbage>,
) {
    while let Some(item) = garbage.recv().await {
        match remove(&store, &telemetry, &files, &owner, item.clone()).await {
            Ok(()) => {}
            Err(Failed::Refused(Refused::Closed)) => return,
            Err(error) => tracing::warn!("{item:?} cannot be deleted ({error}): left for the next start"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Catalogue(#[from] DatabaseError),
    #[error(transparent)]
    Cancelled(#[from] tokio::task::JoinError),
}

async fn remove(
    store: &Store,
    telemetry: &Telemetry,
    files: &Files,
    owner: &Owner,
    item: Garbage,
) -> Result<(), Failed> {
    let _changing = store.changing().await;
    let asked = item.clone();
    let wanted = owner.read(move |core, _| match &asked {
        Garbage::Checkpoint(reference) => core.checkpoint(reference).is_some(),
        Garbage::Job(job) => core.job(job).is_some(),
    });
    if wanted.await? {
        return Ok(());
    }
    if let Garbage::Job(job) = &item {
        telemetry.forget(job);
        files.forget(job.clone()).await?;
    }
    let store = store.clone();
    let removed = tokio::task::spawn_blocking(move || match item {
        Garbage::Checkpoint(reference) => store.remove_checkpoint(&reference),
        Garbage::Job(job) => store.remove_job(&job),
    });
    Ok(removed.await??)
}
