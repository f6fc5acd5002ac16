//! Private writable copies: fresh for each generation. Blocking.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use convoke_tree::Manifest;
use tracing::{info, warn};

use super::cache::{Cache, LayError, Links, ROOT_MODE, Worker, lay_out};
use super::laid::{Means, OwnCopy};
use super::overlay::{self, Overlay};
use super::owner::Owner;

/// What a copy is made of.
pub(super) struct Original<'a> {
    pub(super) manifest: &'a Manifest,
    /// It as a shared read-only tree; only an overlay needs that.
    pub(super) laid: Option<PathBuf>,
    pub(super) owner: Owner,
}

/// How copies can be made in `directory`: found out by trying, and said once.
pub(super) fn means(directory: &Path, overlays: bool) -> Means {
    let obstacle = if overlays { overlay::obstacle(directory) } else { Some("not asked for".to_owned()) };
    match obstacle {
        None => {
            info!("files that jobs may write to are laid out by overlays");
            Means::Overlay
        }
        Some(obstacle) => {
            let how = if can_share(directory) { "sharing blocks with the cache" } else { "file by file" };
            info!("files that jobs may write to are copied, {how}: overlays cannot be used ({obstacle})");
            Means::Copy
        }
    }
}

fn can_share(directory: &Path) -> bool {
    let file = || tempfile::tempfile_in(directory);
    matches!((file(), file()), (Ok(to), Ok(from)) if rustix::fs::ioctl_ficlone(&to, &from).is_ok())
}

/// Makes the copy in its place below `replica`; what it needed is in `copy.means`.
pub(super) fn make(
    copy: &mut OwnCopy,
    replica: &Path,
    original: &Original<'_>,
    cache: &Cache,
    worker: &Worker,
) -> Result<(), LayError> {
    let place = copy.place(replica);
    let io = |source| LayError::Io { path: place.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(io)?;
    if let (Means::Overlay, Some(lower)) = (copy.means, &original.laid) {
        match mount(lower, &place, original.owner) {
            Ok(()) => return Ok(()),
            // It could be done at the start, so this is about this tree or this moment.
            Err(error) => warn!("no overlay at {}: {error}; the files are copied", place.display()),
        }
    }
    copy.means = Means::Copy;
    let blob = |digest| cache.path(digest);
    let root = copy.root(replica);
    lay_out(original.manifest, &blob, &root, original.owner, Links::Never, worker)?;
    Ok(())
}

fn mount(lower: &Path, place: &Path, owner: Owner) -> io::Result<()> {
    let make = |name: &str| {
        let path = place.join(name);
        fs::create_dir(&path).map(|()| path)
    };
    let (upper, work, merged) = (make("upper")?, make("work")?, make("merged")?);
    // The merged root is the upper one.
    owner.take_path(&upper)?;
    fs::set_permissions(&upper, Permissions::from_mode(ROOT_MODE))?;
    Overlay { lower: lower.to_owned(), upper, work, merged }.mount()
}
