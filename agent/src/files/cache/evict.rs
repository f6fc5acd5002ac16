//! What leaves the cache: first blobs of no tree, then the trees that were not used for longest, with the
//! blobs that no other tree has. What somebody holds, or a replica on this node uses, stays.
//!
//! All of it is blocking, and under the cache's gate.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use convoke_model::Digest;
use convoke_tree::Manifest;
use tracing::{info, warn};

use super::Inner;
use super::dirs::{Dirs, OWN};
use crate::files::laid::Laid;
use crate::files::remove_all;
use crate::files::space::{Space, bytes};
use crate::ledger;

/// Of a digest's name.
const DIGEST_DIGITS: usize = 64;

/// A tree that is known here.
struct Known {
    digest: Digest,
    used: SystemTime,
    blobs: BTreeSet<Digest>,
    /// Bytes of its layouts that are not blobs.
    own: u64,
}

/// What the cache holds.
struct Contents {
    trees: Vec<Known>,
    sizes: HashMap<Digest, u64>,
    /// By how many trees each blob is needed.
    needed: HashMap<Digest, usize>,
}

impl Inner {
    /// Down to the limit, and further while the disk is low.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let lack = Space::at(self.dirs.root())?.lack();
        // A look through a large cache takes seconds.
        if lack == 0 && !self.may_exceed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let left = self.evict(|size| size.saturating_sub(self.limit).max(lack))?;
        self.may_exceed.fetch_or(left > 0, Ordering::Relaxed);
        Ok(())
    }

    /// Frees so many bytes, as far as that can be done.
    pub(super) fn make_room(&self, wanted: u64) -> io::Result<()> {
        self.evict(|_| wanted).map(drop)
    }

    /// Evicts one tree, whoever holds it.
    pub(super) fn evict_tree(&self, digest: Digest) -> io::Result<()> {
        let mut contents = Contents::read(&self.dirs)?;
        if let Some(at) = contents.trees.iter().position(|tree| tree.digest == digest) {
            contents.evict(at, &self.dirs)?;
        }
        Ok(())
    }

    /// Evicts until as many bytes as `excess` says of the cache's size are freed, or nothing more may go;
    /// returns what is still too much.
    fn evict(&self, excess: impl FnOnce(u64) -> u64) -> io::Result<u64> {
        let mut contents = Contents::read(&self.dirs)?;
        let mut excess = excess(contents.size());
        if excess == 0 {
            return Ok(0);
        }
        excess = excess.saturating_sub(contents.drop_orphans(&self.dirs));
        let mut kept: BTreeSet<Digest> = self.holds.held().into_iter().collect();
        kept.extend(used_by_replicas(&self.dirs)?);
        let before = excess;
        while excess > 0 {
            let idle = contents.trees.iter().enumerate().filter(|(_, tree)| !kept.contains(&tree.digest));
            let Some((oldest, _)) = idle.min_by_key(|(_, tree)| tree.used) else { break };
            excess = excess.saturating_sub(contents.evict(oldest, &self.dirs)?);
        }
        if before > excess {
            info!("the file cache gave back {}", bytes(before - excess));
        }
        Ok(excess)
    }
}

impl Contents {
    fn read(dirs: &Dirs) -> io::Result<Self> {
        let mut contents = Self { trees: Vec::new(), sizes: sizes(dirs)?, needed: HashMap::new() };
        for entry in fs::read_dir(dirs.trees())? {
            let path = entry?.path();
            match known(&path) {
                Some(tree) => contents.add(tree),
                // Its making was interrupted.
                None => remove_all(&path)?,
            }
        }
        Ok(contents)
    }

    fn add(&mut self, tree: Known) {
        for blob in &tree.blobs {
            *self.needed.entry(*blob).or_default() += 1;
        }
        self.trees.push(tree);
    }

    fn size(&self) -> u64 {
        self.sizes.values().sum::<u64>() + self.trees.iter().map(|tree| tree.own).sum::<u64>()
    }

    /// Deletes the blobs of no tree; returns their bytes.
    fn drop_orphans(&mut self, dirs: &Dirs) -> u64 {
        let orphans: Vec<Digest> =
            self.sizes.keys().filter(|b| !self.needed.contains_key(b)).copied().collect();
        orphans.into_iter().map(|blob| self.drop_blob(dirs, blob)).sum()
    }

    /// Deletes a tree and what it alone needs; returns how many bytes.
    fn evict(&mut self, at: usize, dirs: &Dirs) -> io::Result<u64> {
        let tree = self.trees.swap_remove(at);
        // From one moment to the next it is not there; what is left of it goes at the next start.
        let gone = tempfile::TempDir::new_in(dirs.tmp())?;
        fs::rename(dirs.tree(tree.digest), gone.path().join("tree"))?;
        let mut freed = tree.own;
        for blob in tree.blobs {
            let Some(count) = self.needed.get_mut(&blob) else { continue };
            *count -= 1;
            if *count == 0 {
                self.needed.remove(&blob);
                freed += self.drop_blob(dirs, blob);
            }
        }
        remove_all(&gone.keep())?;
        Ok(freed)
    }

    fn drop_blob(&mut self, dirs: &Dirs, blob: Digest) -> u64 {
        let size = self.sizes.remove(&blob).unwrap_or_default();
        match fs::remove_file(dirs.blob(blob)) {
            Ok(()) => size,
            Err(_) => 0,
        }
    }
}

/// Deletes trees that are not sealed, and the blobs that no sealed tree has; returns how many blobs.
pub(super) fn drop_unsealed(dirs: &Dirs) -> io::Result<usize> {
    let mut contents = Contents::read(dirs)?;
    let before = contents.sizes.len();
    while let Some(at) = contents.trees.iter().position(|tree| !dirs.stored(tree.digest).exists()) {
        contents.evict(at, dirs)?;
    }
    contents.drop_orphans(dirs);
    Ok(before - contents.sizes.len())
}

/// A tree's directory; `None` if it has no manifest that can be read.
fn known(path: &Path) -> Option<Known> {
    let name = path.file_name()?.to_str()?;
    let digest = Digest::try_from(name.to_owned()).ok()?;
    let manifest = path.join("manifest.json");
    let used = fs::metadata(&manifest).ok()?.modified().ok()?;
    let blobs = Manifest::decode(&fs::read(manifest).ok()?).ok()?.blobs().map(|(blob, _)| blob).collect();
    let own = |entry: io::Result<fs::DirEntry>| -> Option<u64> {
        let path = entry.ok()?.path();
        (path.extension()? == OWN).then(|| fs::read_to_string(path).ok()?.parse().ok())?
    };
    let own = fs::read_dir(path).ok()?.filter_map(own).sum();
    Some(Known { digest, used, blobs, own })
}

/// The size of every blob.
fn sizes(dirs: &Dirs) -> io::Result<HashMap<Digest, u64>> {
    let mut sizes = HashMap::new();
    for directory in fs::read_dir(dirs.blobs())? {
        for entry in fs::read_dir(directory?.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Ok(digest) = Digest::try_from(name) {
                sizes.insert(digest, entry.metadata()?.len());
            }
        }
    }
    Ok(sizes)
}

/// The trees that replicas on this node have mounted.
fn used_by_replicas(dirs: &Dirs) -> io::Result<Vec<Digest>> {
    let mut used = Vec::new();
    for entry in fs::read_dir(dirs.replicas())? {
        let replica = entry?.path();
        match ledger::read::<Laid>(&Laid::file(&replica)) {
            Ok(laid) => used.extend(laid.into_iter().flat_map(|laid| laid.trees)),
            Err(error) => {
                warn!("{error}; what its record and the mounts of this host name stays in the file cache");
                used.extend(named(&fs::read(replica.join(ledger::RECORD)).unwrap_or_default()));
                used.extend(named(&fs::read("/proc/self/mountinfo")?));
            }
        }
    }
    Ok(used)
}

/// The trees of which a text has paths.
fn named(text: &[u8]) -> impl Iterator<Item = Digest> {
    let text = String::from_utf8_lossy(text);
    let digest = |rest: &str| Digest::try_from(rest.get(..DIGEST_DIGITS)?.to_owned()).ok();
    text.split("/trees/").skip(1).filter_map(digest).collect::<Vec<_>>().into_iter()
}
