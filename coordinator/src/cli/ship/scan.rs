//! Looking at the submitter's directories, with what is shown meanwhile and what is said of a refusal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use convoke_tree::scan::{DigestCache, Options, Part, Progress, ScanError, Scanned, scan};
use indicatif::{ProgressBar, ProgressStyle};

use super::blob::{Origin, Tree};
use crate::cli::attach::Screen;
use crate::cli::failure::{Failure, exit};
use crate::cli::text;

/// How often the bar is brought up to date.
const REFRESH: Duration = Duration::from_millis(100);
/// Beyond this much it is worth saying what is so large.
const LARGE: u64 = 1 << 30;

/// For all that a job names together.
pub(super) const TOO_LARGE_ADVICE: &str = "leave out what the job does not need with lines in .convokeignore; put large data on a file system \
     that the nodes share, which is mounted and not shipped; --max-ship-size raises the limit";

/// Scans `path`; the cache is lent to the thread that does it.
pub(super) async fn tree(
    screen: &Screen,
    project: &Path,
    path: &Path,
    shown: &str,
    limit: u64,
    cache: &mut DigestCache,
) -> Result<Tree, Failure> {
    let progress = Arc::new(Progress::default());
    let mut lent = std::mem::take(cache);
    let (own, project, root) = (progress.clone(), project.to_owned(), path.to_owned());
    let mut scanning = tokio::task::spawn_blocking(move || {
        let scanned = scan(&root, &Options { project: &project, limit }, &mut lent, &own);
        (scanned, lent)
    });
    let guard = CancelOnDrop(progress.clone());
    let bar = screen.bar(bar(shown));
    let mut refresh = tokio::time::interval(REFRESH);
    let (scanned, returned) = loop {
        tokio::select! {
            done = &mut scanning => break done.map_err(|e| Failure::new(exit::FAILED, "CRASHED", e.to_string()))?,
            _ = refresh.tick() => show(&bar, &progress),
        }
    };
    drop(guard);
    *cache = returned;
    bar.finish_and_clear();
    let scanned = scanned.map_err(|error| refused(&error, shown))?;
    tell_large(screen, shown, &scanned);
    let origins = scanned.files.into_iter().map(|(digest, source)| (digest, Origin::Scanned(source)));
    Ok(Tree::new(scanned.manifest, origins.collect()))
}

/// A scan that nobody waits for any more ends by itself.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

fn bar(shown: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:32} {bytes}/{total_bytes} {msg}");
    let bar = ProgressBar::no_length().with_style(style.expect("the template is valid"));
    bar.with_prefix(format!("looking at {shown}"))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let read = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    let total = read(&progress.total);
    if total > 0 {
        bar.set_length(total);
    }
    bar.set_position(read(&progress.bytes));
    bar.set_message(format!("({} seen)", text::grouped(read(&progress.entries))));
}

fn tell_large(screen: &Screen, shown: &str, scanned: &Scanned) {
    let reference = scanned.manifest.reference();
    if reference.bytes <= LARGE {
        return;
    }
    screen.note(&format!(
        "warning: {shown} is large: {} in {}{}; a .convokeignore leaves out what the job does not need",
        text::size(reference.bytes),
        text::files(reference.files),
        parts(&scanned.largest, reference.bytes),
    ));
}

/// ` (data 3.1 GiB, .git 0.4 GiB)`: what is a good part of all, if anything is.
fn parts(largest: &[Part], bytes: u64) -> String {
    let large = largest.iter().filter(|part| part.bytes >= bytes / 20);
    let large: Vec<_> = large.map(|part| format!("{} {}", part.path, text::size(part.bytes))).collect();
    if large.is_empty() { String::new() } else { format!(" ({})", large.join(", ")) }
}

/// Why it cannot travel, with what to do.
pub(super) fn refused(error: &ScanError, shown: &str) -> Failure {
    let reason = match error {
        ScanError::Unreadable { .. } => "FILE",
        ScanError::LinkOut { .. } => "LINK_OUT",
        ScanError::NotUtf8 { .. } => "NOT_UTF8",
        ScanError::Special { .. } => "SPECIAL_FILE",
        ScanError::Changed { .. } => "FILE_CHANGED",
        ScanError::TooLarge { .. } => "TOO_LARGE",
        ScanError::TooMany { .. } => "TOO_MANY_FILES",
        ScanError::BadIgnore { .. } => "BAD_IGNORE_FILE",
        ScanError::Cancelled => "CANCELLED",
    };
    let message = match error {
        ScanError::TooLarge { bytes, limit, largest, .. } => {
            too_large(shown, *bytes, *limit, &parts(largest, *bytes))
        }
        other => format!("{shown} cannot travel: {other}"),
    };
    let raise = match error {
        ScanError::TooLarge { .. } => "; --max-ship-size raises the limit",
        _ => "",
    };
    Failure::new(exit::FAILED, reason, message).hint(error.advice() + raise)
}

/// What one job names is more than may travel.
pub(super) fn too_large(shown: &str, bytes: u64, limit: u64, parts: &str) -> String {
    format!("{shown} holds {}, more than the {} that may travel{parts}", text::size(bytes), text::size(limit))
}

/// One file or directory that changed between scan and upload.
pub(super) fn changed(paths: &[PathBuf]) -> Failure {
    let path = paths.first().cloned().unwrap_or_default();
    let error = ScanError::Changed { path };
    Failure::new(exit::FAILED, "FILE_CHANGED", error.to_string()).hint(error.advice())
}
