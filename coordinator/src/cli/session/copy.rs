//! `convoke cp`: files into and out of a running task.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use clap::Args;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use convoke_proto::{TUNNEL_FRAME_BYTES, v1};
use serde_json::json;

use super::channel::{self, Input, Output};
use super::terminal::Chunks;
use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;
use crate::cli::{Context, output, text};

/// Chunks between the network and the disk: a quarter of a megabyte keeps both busy.
const CHUNKS: usize = 4;

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

impl Copy {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let (copied, what) = match (side(&self.from), side(&self.to)) {
            (Side::There { job, path }, Side::Here(to)) => {
                (fetch(&link, job, self.rank, absolute(path)?, to).await?, &self.to)
            }
            (Side::Here(from), Side::There { job, path }) => {
                (put(&link, job, self.rank, from, absolute(path)?).await?, &self.to)
            }
            (Side::Here(_), Side::Here(_)) => {
                return Err(Failure::usage("neither side names a job")
                    .hint("write one of them as JOB:PATH, such as train:/workspace/log.txt"));
            }
            (Side::There { .. }, Side::There { .. }) => {
                return Err(Failure::usage("both sides name a job").hint("copy here first, then there"));
            }
        };
        if context.format.is_json() {
            return output::document(&json!({ "from": self.from, "to": self.to, "bytes": copied }));
        }
        output::line(&format!("{what}: {}", text::size(copied)))
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

async fn fetch(link: &Link, job: &str, rank: u32, path: &str, to: &Path) -> Result<u64, Failure> {
    let target = Target::CopyFrom(v1::TunnelCopyFrom { task: None, path: path.to_owned() });
    let (into, name) = destination(to, path)?;
    let (_input, mut output) = channel::open(link, job, rank, target).await?;
    let (chunks, received) = mpsc::sync_channel(CHUNKS);
    let unpacking =
        tokio::task::spawn_blocking(move || unpack(Chunks::new(received), &into, name.as_deref()));
    let arrived = pour(&mut output, chunks).await;
    let unpacked = unpacking.await.map_err(|e| Failure::new(exit::FAILED, "COPY", e.to_string()))?;
    // Why it did not come whole says more than what the half of it looked like.
    arrived?;
    unpacked
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

/// Unpacks a tar below `into`, its first part renamed; bytes of regular files.
fn unpack(tar: impl io::Read, into: &Path, name: Option<&str>) -> Result<u64, Failure> {
    let failed = |error: io::Error| Failure::file("copy to", into, &error);
    let mut archive = tar::Archive::new(tar);
    archive.set_preserve_mtime(true);
    let mut bytes = 0;
    let staging = tempfile::Builder::new().prefix(".convoke-cp-").tempdir_in(into).map_err(failed)?;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        // Refuses what leads out of the staging directory.
        if entry.unpack_in(staging.path()).map_err(failed)? && entry.header().entry_type().is_file() {
            bytes += entry.size();
        }
    }
    for entry in std::fs::read_dir(staging.path()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = into.join(name.map_or_else(|| entry.file_name(), Into::into));
        settle(&entry.path(), &target).map_err(|error| Failure::file("copy to", &target, &error))?;
    }
    Ok(bytes)
}

/// Moves what was copied to its place: over a file, into a directory of the same name.
fn settle(from: &Path, to: &Path) -> io::Result<()> {
    let merges = from.is_dir() && !from.is_symlink() && to.is_dir();
    if !merges {
        return std::fs::rename(from, to);
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        settle(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

// === into a task ===

async fn put(link: &Link, job: &str, rank: u32, from: &Path, path: &str) -> Result<u64, Failure> {
    let metadata = from.symlink_metadata().map_err(|e| Failure::file("read", from, &e))?;
    let own = from.file_name().and_then(|name| name.to_str()).filter(|name| *name != "..");
    let (directory, name) = match path.strip_suffix('/') {
        Some(directory) => (directory, own),
        None => path.rsplit_once('/').map_or(("", None), |(directory, name)| (directory, Some(name))),
    };
    let name = name.ok_or_else(|| Failure::usage(format!("{} has no name to copy it by", from.display())))?;
    let directory = if directory.is_empty() { "/" } else { directory };
    let target = Target::CopyTo(v1::TunnelCopyTo { task: None, path: directory.to_owned() });
    let (input, mut output) = channel::open(link, job, rank, target).await?;
    let sender = Sender { input, handle: tokio::runtime::Handle::current(), buffer: Vec::new(), bytes: 0 };
    let (read, name, is_dir) = (from.to_owned(), name.to_owned(), metadata.is_dir());
    let from = read.clone();
    let packing = tokio::task::spawn_blocking(move || pack(sender, &from, &name, is_dir));
    let answer = output.next().await;
    // A session that has ended takes no more.
    drop(output);
    let packed = packing.await.map_err(|e| Failure::new(exit::FAILED, "COPY", e.to_string()))?;
    match (answer, packed) {
        // What could not be read here is why the other side got but a part.
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file("copy", &read, &error))
        }
        (Err(failure), _) => Err(failure),
        (Ok(Some(Frame::End(_))), Ok(bytes)) => Ok(bytes),
        (Ok(_), _) => Err(channel::broken()),
    }
}

fn pack(sender: Sender, from: &Path, name: &str, is_dir: bool) -> io::Result<u64> {
    let mut archive = tar::Builder::new(sender);
    archive.follow_symlinks(false);
    if is_dir { archive.append_dir_all(name, from) } else { archive.append_path_with_name(from, name) }?;
    let mut sender = archive.into_inner()?;
    io::Write::flush(&mut sender)?;
    let Sender { input, handle, bytes, .. } = sender;
    handle.block_on(input.send(Frame::End(v1::TunnelEnd {})));
    Ok(bytes)
}

/// Writes a tar into a session, from a thread that may block.
struct Sender {
    input: Input,
    handle: tokio::runtime::Handle,
    buffer: Vec<u8>,
    bytes: u64,
}

impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
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
    use super::*;

    fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o640);
            // Written directly: the builder itself refuses the paths that an attacker would send.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_side_is_a_jobs_when_it_has_a_name_before_a_colon() {
        assert_eq!(side("train:/a"), Side::There { job: "train", path: "/a" });
        for here in ["./a:b", "/a:b", "a", "../x:y", ":a"] {
            assert_eq!(side(here), Side::Here(Path::new(here)), "{here}");
        }
    }

    #[test]
    fn a_copy_goes_into_a_directory_or_by_its_new_name_and_merges_with_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (into, name) = destination(dir.path(), "/x/log").unwrap();
        assert_eq!(unpack(&*tar_of(&[("log", "abc")]), &into, name.as_deref()).unwrap(), 3);
        assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), "abc");
        let (into, name) = destination(&dir.path().join("new"), "/x/log").unwrap();
        unpack(&*tar_of(&[("log/a", "1")]), &into, name.as_deref()).unwrap();
        unpack(&*tar_of(&[("log/b", "2")]), &into, name.as_deref()).unwrap();
        assert!(dir.path().join("new/a").is_file() && dir.path().join("new/b").is_file());
        assert!(destination(&dir.path().join("none/"), "/x").is_err());
    }

    #[test]
    fn what_leads_out_of_the_directory_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let _ = unpack(&*tar_of(&[("../../evil", "x"), ("../evil", "x")]), &inner, None);
        assert!(!dir.path().join("evil").exists() && !dir.path().parent().unwrap().join("evil").exists());
    }
}
