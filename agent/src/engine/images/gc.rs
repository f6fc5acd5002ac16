//! Cleaning away images that were fetched here.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptions};
use convoke_model::Timestamp;
use tracing::info;

use super::book::{Entry, Policy};
use super::space::Space;
use super::{ImageError, Shelf};
use crate::engine::EngineError;

/// A replica's image is on nobody's list between its fetch and its containers' creation, which waits
/// for the slowest node of the gang; pressure on the disk does not take it away in that time.
const FRESH: Duration = Duration::from_secs(3600);

/// An image that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub id: String,
    /// What it was fetched as.
    pub reference: String,
    /// Bytes on disk, of which other images may share some.
    pub size: u64,
}

/// Removes what the policy does not keep; returns what is gone.
pub(super) async fn collect(
    shelf: &Shelf,
    keep: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Vec<Removed>, ImageError> {
    let config = &shelf.config;
    let mut entries: Vec<(String, Entry)> = shelf.book.entries().into_iter().collect();
    entries.retain(|(id, _)| !keep.contains(id));
    // The longest unused first.
    entries.sort_by_key(|(_, entry)| entry.used);
    let mut removed = Vec::new();
    for (id, entry) in entries {
        if due(&entry, &config.policy, Space::look(config).is_short(), now)
            && let Some(gone) = remove(shelf, id, &entry).await?
        {
            info!(image = gone.reference, id = gone.id, "removed: no job has used it for long");
            removed.push(gone);
        }
    }
    Ok(removed)
}

fn due(entry: &Entry, policy: &Policy, pressed: bool, now: Timestamp) -> bool {
    let unused = now.since(entry.used);
    unused >= policy.unused_for || (pressed && unused >= FRESH)
}

/// Takes away the references that were made here; the engine removes the image with its last one.
/// `None` if the image is still there.
async fn remove(shelf: &Shelf, id: String, entry: &Entry) -> Result<Option<Removed>, EngineError> {
    let Some(image) = shelf.find(&id, None).await? else {
        shelf.book.forget(&id);
        return Ok(None);
    };
    // The engine refuses to remove it then, but may have taken its names away first.
    if has_containers(shelf, &id).await? {
        return Ok(None);
    }
    for reference in &entry.references {
        // A tag may have been moved to another image since.
        if shelf.find(reference, None).await?.is_none_or(|found| found.id != id) {
            continue;
        }
        let docker = shelf.engine.docker();
        let removing = docker.remove_image(reference, None::<RemoveImageOptions>, None);
        match shelf.engine.prompt("does not remove it", removing).await {
            Ok(_) => {}
            // A container was made of it just now: later.
            Err(EngineError::Refused { status: 409, .. }) => return Ok(None),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    // What still has a name has it from somebody else, and is theirs now.
    shelf.book.forget(&id);
    if shelf.find(&id, None).await?.is_some() {
        return Ok(None);
    }
    let reference = entry.references.first().cloned().unwrap_or_default();
    Ok(Some(Removed { id, reference, size: image.size }))
}

async fn has_containers(shelf: &Shelf, id: &str) -> Result<bool, EngineError> {
    let filters = HashMap::from([("ancestor".to_owned(), vec![id.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listing = shelf.engine.docker().list_containers(Some(options));
    Ok(!shelf.engine.prompt("does not list its containers", listing).await?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_due_once_unused_for_long_or_earlier_when_the_disk_is_full() {
        const DAY: Duration = Duration::from_secs(86_400);
        let policy = Policy { unused_for: 14 * DAY, keep_free: 1 };
        let entry = Entry { references: Vec::new(), used: Timestamp(1_000) };
        let due = |after, pressed| due(&entry, &policy, pressed, entry.used.after(after));
        assert!(due(14 * DAY, false));
        assert!(!due(13 * DAY, false));
        assert!(due(DAY, true));
        assert!(!due(Duration::from_secs(60), true), "its replica may be about to start");
    }
}
