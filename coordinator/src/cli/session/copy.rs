//! `convoke cp`: files into and out of a running task.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use clap::Args;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use convoke_proto::{TUNNEL_FRAME_BYTES, v1};
use serde_json::json;

use super::channel::{self, Input, Output};
use super::land::{Staged, Tally};
use super::terminal::Chunks;
use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;
use crate::cli::names::Within;
use crate::cli::signals::{self, Interrupts};
use crate::cli::{Context, output, text};

/// Chunks between the network and the disk: a quarter of a megabyte keeps both busy.
const CHUNKS: usize = 4;

/// How much that is left out is named.
const LEFT_OUT: usize = 5;

/// Copy files into or out of a running task
///
/// One side is JOB:PATH. A PATH that ends with "/" is a directory to copy into, which must exist;
/// otherwise it is the copy's own name. Directories are copied whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke cp train:/workspace/log.txt .
  convoke cp --rank 3 train:/tmp/profile ./profile
  convoke cp config.yaml train:/workspace/")]
pub(crate) struct Copy {
    /// The rank whose task it is
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: u32,

    /// A file or directory: here, or JOB:PATH
    #[arg(value_name = "FROM")]
    from: String,

    /// Where to: here, or JOB:PATH
    #[arg(value_name = "TO")]
    to: String,

    #[command(flatten)]
    within: Within,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Here(&'a Path),
    There { job: &'a str, path: &'a str },
}

fn side(text: &str) -> Side<'_> {
    // As docker reads it: what begins with a path's characters is a path, colon or not.
    match text.split_once(':') {
        Some((job, path)) if !job.is_empty() && !job.contains('/') && !job.starts_with('.') => {
            Side::There { job, path }
        }
        _ => Side::Here(Path::new(text)),
    }
}

/// What a copy did.
struct Copied {
    /// Where it lies now.
    to: String,
    tally: Tally,
}

impl Copy {
    /// Listens for interrupts itself: they leave nothing half copied here.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let copied = match (side(&self.from), side(&self.to)) {
            (Side::There { job, path }, Side::Here(to)) => {
                let path = absolute(path)?;
                let (link, job) = self.task(context, job).await?;
                fetch(&link, &job, self.rank, path, to).await?
            }
            (Side::Here(from), Side::There { job, path }) => {
                let path = absolute(path)?;
                let (link, job) = self.task(context, job).await?;
                let put = put(&link, &job, self.rank, from, path);
                let tally = signals::or_interrupted(Box::pin(put)).await?;
                Copied { to: self.to.clone(), tally }
            }
            (Side::Here(_), Side::Here(_)) => {
                return Err(Failure::usage("neither side names a job")
                    .hint("write one of them as JOB:PATH, such as train:/workspace/log.txt"));
            }
            (Side::There { .. }, Side::There { .. }) => {
                return Err(Failure::usage("both sides name a job").hint("copy here first, then there"));
            }
        };
        self.tell(context, &copied)
    }

    /// The coordinator, and the id of the running job.
    async fn task(&self, context: &Context, job: &str) -> Result<(Arc<Link>, String), Failure> {
        let link = context.link().await?;
        let job = self.within.scope(context)?.find_running(&link, job).await?;
        Ok((link, job.id))
    }

    fn tell(&self, context: &Context, Copied { to, tally }: &Copied) -> Result<(), Failure> {
        let left_out = &tally.left_out;
        if context.format.is_json() {
            return output::document(&json!({
                "from": self.from, "to": to, "files": tally.files, "bytes": tally.bytes, "left_out": left_out,
            }));
        }
        left_out.iter().take(LEFT_OUT).for_each(|what| output::note(&format!("note: left out: {what}")));
        if let Some(more @ 1..) = left_out.len().checked_sub(LEFT_OUT) {
            output::note(&format!("note: left out: {more} more"));
        }
        let (files, size) = (text::files(tally.files), text::size(tally.bytes));
        output::line(&format!("copied {} to {to} ({files}, {size})", self.from))
    }
}

fn absolute(path: &str) -> Result<&str, Failure> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(Failure::usage(format!("\"{path}\" is not an absolute path inside the task"))
        .hint(format!("write JOB:/{path}, or the directory it is in")))
}

// === out of a task ===

async fn fetch(link: &Link, job: &str, rank: u32, path: &str, to: &Path) -> Result<Copied, Failure> {
    let target = Target::CopyFrom(v1::TunnelCopyFrom { task: None, path: path.to_owned() });
    let (into, name) = destination(to, path)?;
    let mut interrupts = Interrupts::listen()?;
    let (chunks, received) = mpsc::sync_channel(CHUNKS);
    let unpacking = tokio::task::spawn_blocking(move || Staged::unpack(Chunks::new(received), &into));
    let arrived = tokio::select! {
        arrived = receive(link, job, rank, target, chunks) => arrived,
        _ = interrupts.next() => Err(Failure::interrupted()),
    };
    let staged = unpacking.await.map_err(|e| failed(&e.to_string()))?;
    // Why it did not come whole says more than what the half of it looked like.
    arrived?;
    let staged = staged.map_err(|e| failed(&e.to_string()))?;
    let settling = tokio::task::spawn_blocking(move || staged.settle(name.as_deref()));
    let settled = settling.await.map_err(|e| failed(&e.to_string()))?;
    let (places, tally) = settled.map_err(|e| failed(&e.to_string()))?;
    if places.is_empty() {
        let why = tally.left_out.first().cloned().unwrap_or_else(|| format!("{path} is empty"));
        return Err(failed(&format!("nothing was copied: {why}")));
    }
    let to = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    Ok(Copied { to, tally })
}

fn failed(message: &str) -> Failure {
    Failure::new(exit::FAILED, "COPY", message)
}

async fn receive(
    link: &Link,
    job: &str,
    rank: u32,
    target: Target,
    chunks: mpsc::SyncSender<Vec<u8>>,
) -> Result<(), Failure> {
    let (_input, mut output) = channel::open(link, job, rank, target).await?;
    pour(&mut output, chunks).await
}

/// The directory to unpack into, and the name that the copy gets there if it is not its own.
fn destination(to: &Path, path: &str) -> Result<(PathBuf, Option<String>), Failure> {
    let wants_directory = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if to.is_dir() {
        return Ok((to.to_owned(), None));
    }
    if wants_directory {
        return Err(Failure::usage(format!("{} is not a directory", to.display()))
            .hint("make it first, or leave the last / away"));
    }
    let name = to.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned);
    let name = name.ok_or_else(|| Failure::usage(format!("{path} cannot be copied to {}", to.display())))?;
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent.to_owned(), Some(name)))
}

/// Passes the tar on until its end.
async fn pour(output: &mut Output, chunks: mpsc::SyncSender<Vec<u8>>) -> Result<(), Failure> {
    loop {
        match output.next().await? {
            Some(Frame::Data(bytes)) => {
                let chunks = chunks.clone();
                let sent = tokio::task::spawn_blocking(move || chunks.send(bytes.to_vec()).is_ok());
                if !sent.await.unwrap_or(false) {
                    // The other side has failed, and says why.
                    return Ok(());
                }
            }
            Some(Frame::End(_)) => return Ok(()),
            Some(_) => {}
            None => return Err(channel::broken()),
        }
    }
}

// === into a task ===

async fn put(link: &Link, job: &str, rank: u32, from: &Path, path: &str) -> Result<Tally, Failure> {
    from.symlink_metadata().map_err(|e| Failure::file("read", from, &e))?;
    let own = from.file_name().and_then(|name| name.to_str()).filter(|name| *name != "..");
    let (directory, name) = match path.strip_suffix('/') {
        Some(directory) => (directory, own),
        None => path.rsplit_once('/').map_or(("", None), |(directory, name)| (directory, Some(name))),
    };
    let name = name.ok_or_else(|| Failure::usage(format!("{} has no name to copy it by", from.display())))?;
    let directory = if directory.is_empty() { "/" } else { directory };
    let target = Target::CopyTo(v1::TunnelCopyTo { task: None, path: directory.to_owned() });
    let (input, mut output) = channel::open(link, job, rank, target).await?;
    let sender = Sender { input, handle: tokio::runtime::Handle::current(), buffer: Vec::new() };
    let (read, name) = (from.to_owned(), name.to_owned());
    let packing = tokio::task::spawn_blocking(move || pack(sender, &read, &name));
    let answer = output.next().await;
    // A session that has ended takes no more.
    drop(output);
    let packed = packing.await.map_err(|e| failed(&e.to_string()))?;
    match (answer, packed) {
        // What could not be read here is why the other side got but a part.
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file("copy", from, &error))
        }
        (Err(failure), _) => Err(failure),
        (Ok(Some(Frame::End(_))), Ok(tally)) => Ok(tally),
        (Ok(_), _) => Err(channel::broken()),
    }
}

fn pack(sender: Sender, from: &Path, name: &str) -> io::Result<Tally> {
    let (mut archive, mut tally) = (tar::Builder::new(sender), Tally::default());
    archive.follow_symlinks(false);
    add(&mut archive, from, Path::new(name), &mut tally)?;
    let mut sender = archive.into_inner()?;
    io::Write::flush(&mut sender)?;
    sender.handle.block_on(sender.input.send(Frame::End(v1::TunnelEnd {})));
    Ok(tally)
}

/// Puts `from` into the archive under `name`, and counts the regular files.
fn add(
    archive: &mut tar::Builder<impl io::Write>,
    from: &Path,
    name: &Path,
    tally: &mut Tally,
) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    archive.append_path_with_name(from, name)?;
    if metadata.is_file() {
        tally.files += 1;
        tally.bytes += metadata.len();
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            add(archive, &entry.path(), &name.join(entry.file_name()), tally)?;
        }
    }
    Ok(())
}

/// Writes a tar into a session, from a thread that may block.
struct Sender {
    input: Input,
    handle: tokio::runtime::Handle,
    buffer: Vec<u8>,
}

impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= TUNNEL_FRAME_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        for chunk in buffer.chunks(TUNNEL_FRAME_BYTES) {
            if !self.handle.block_on(self.input.send(Frame::Data(chunk.to_vec().into()))) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_side_is_a_jobs_when_it_has_a_name_before_a_colon() {
        assert_eq!(side("train:/a"), Side::There { job: "train", path: "/a" });
        for here in ["./a:b", "/a:b", "a", "../x:y", ":a"] {
            assert_eq!(side(here), Side::Here(Path::new(here)), "{here}");
        }
    }

    #[test]
    fn a_copy_goes_into_a_directory_or_by_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(destination(dir.path(), "/x/log").unwrap(), (dir.path().to_owned(), None));
        let new = destination(&dir.path().join("new"), "/x/log").unwrap();
        assert_eq!(new, (dir.path().to_owned(), Some("new".to_owned())));
        assert!(destination(&dir.path().join("none/"), "/x").is_err());
    }

    #[test]
    fn what_is_sent_is_counted_and_links_are_sent_as_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), "abc").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("sub/up")).unwrap();
        let (mut archive, mut tally) = (tar::Builder::new(Vec::new()), Tally::default());
        archive.follow_symlinks(false);
        add(&mut archive, dir.path(), Path::new("new"), &mut tally).unwrap();
        assert_eq!((tally.files, tally.bytes), (1, 3));
        let tar = archive.into_inner().unwrap();
        let mut sent = tar::Archive::new(&*tar);
        let sent = sent.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path.trim_end_matches('/').to_owned(), entry.header().entry_type())
        });
        let sent: BTreeMap<_, _> = sent.collect();
        use tar::EntryType::{Directory, Regular, Symlink};
        let all =
            [("new", Directory), ("new/sub", Directory), ("new/sub/file", Regular), ("new/sub/up", Symlink)];
        assert_eq!(sent, all.map(|(path, kind)| (path.to_owned(), kind)).into());
    }
}
