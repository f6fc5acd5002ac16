//! Making several files durable at once.

use std::fs::File;
use std::io;
use std::path::Path;

/// Each sync of a new file costs a commit of the file system's journal, milliseconds each: above a few
/// files, one sync of the whole file system is cheaper, although it also waits for what others wrote.
const FEW: usize = 8;

/// Makes these files, or the entries of these directories, durable; all lie on the file system of
/// `root`. (Kernels before 5.8 do not report write errors through `syncfs`: what was lost then is
/// found by its hash when it is read.)
pub(super) fn make_durable<'a>(
    root: &Path,
    paths: impl ExactSizeIterator<Item = &'a Path>,
) -> io::Result<()> {
    if paths.len() > FEW {
        rustix::fs::syncfs(File::open(root)?)?;
        return Ok(());
    }
    for path in paths {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}
