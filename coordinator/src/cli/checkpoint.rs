//! `convoke checkpoint`: what is stored, and getting it.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use clap::{Args, Subcommand};
use convoke_proto::v1;
use convoke_proto::v1::pull_checkpoint_response::Part;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tonic::Streaming;

use super::Context;
use super::failure::{Failure, exit};
use super::json::json;
use super::link::Link;
use super::names::{Scope, Within};
use super::output::{self, Grid, paint};
use super::text;

/// List and fetch checkpoints
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke checkpoint ls train
  convoke checkpoint pull train ./model
  convoke checkpoint pull train --step 500 ./model-500")]
pub(crate) struct Checkpoint {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List a job's checkpoints, newest first
    #[command(after_help = "Examples:\n  convoke checkpoint ls train\n  convoke checkpoint ls train -o json")]
    Ls {
        /// Id, name (the newest job of it), Compose service, or unique prefix
        #[arg(value_name = "JOB")]
        job: String,
        #[command(flatten)]
        within: Within,
    },
    /// Fetch a complete checkpoint into a new directory, verifying every hash
    #[command(
        after_help = "Examples:\n  convoke checkpoint pull train ./model\n  convoke checkpoint pull train --step 500 ./model-500"
    )]
    Pull {
        /// Id, name (the newest job of it), Compose service, or unique prefix
        #[arg(value_name = "JOB")]
        job: String,
        /// Where to put it; must not exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The checkpoint of this step [default: the newest complete one]
        #[arg(long, value_name = "STEP")]
        step: Option<u64>,
        #[command(flatten)]
        within: Within,
    },
}

impl Checkpoint {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Ls { job, within } => ls(context, &within.scope(context)?, &job).await,
            Command::Pull { job, dir, step, within } => {
                pull(context, &within.scope(context)?, &job, step, &dir).await
            }
        }
    }
}

/// A job's checkpoints, newest first.
pub(crate) async fn list(link: &Link, job: &str) -> Result<v1::ListCheckpointsResponse, Failure> {
    let request = v1::ListCheckpointsRequest { job: job.to_owned() };
    link.call(request, |mut c, r| async move { c.checkpoints.list_checkpoints(r).await }).await
}

pub(crate) fn state(checkpoint: &v1::Checkpoint) -> &'static str {
    match checkpoint.state() {
        v1::CheckpointState::Complete => "complete",
        v1::CheckpointState::Partial => "partial",
        v1::CheckpointState::Unspecified => "unspecified",
    }
}

async fn ls(context: &Context, scope: &Scope, job: &str) -> Result<(), Failure> {
    let link = context.link().await?;
    let response = list(&link, &scope.find(&link, job).await?.id).await?;
    if context.format.is_json() {
        return output::document(&json("ListCheckpointsResponse", &response));
    }
    if response.checkpoints.is_empty() {
        output::note("no checkpoints; a trainer leaves them as step-<n>/ in $CONVOKE_CHECKPOINT_DIR");
        return Ok(());
    }
    let mut grid = Grid::new(&["STEP", "STATE", "SIZE", "SHARDS", "GEN", "AGE"]);
    for checkpoint in &response.checkpoints {
        let reference = checkpoint.reference.clone().unwrap_or_default();
        let style = if state(checkpoint) == "complete" { text::green() } else { text::yellow() };
        grid.row(vec![
            reference.step.to_string(),
            paint(style, state(checkpoint)),
            text::size(checkpoint.bytes),
            format!("{}/{}", checkpoint.shards.len(), checkpoint.expected_ranks.len()),
            reference.generation.to_string(),
            text::age(checkpoint.created_unix_ms),
        ]);
    }
    grid.print()
}

async fn pull(
    context: &Context,
    scope: &Scope,
    job: &str,
    step: Option<u64>,
    dir: &Path,
) -> Result<(), Failure> {
    if dir.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!("{} exists already", dir.display()))
            .hint("name a directory that does not; nothing was fetched"));
    }
    let link = context.link().await?;
    let job = scope.find(&link, job).await?;
    let request = v1::PullCheckpointRequest { job: job.id.clone(), step };
    let stream = link.call(request, |mut c, mut r| async move {
        // The deadline of a call is for its answer, not for gigabytes.
        r.metadata_mut().remove("grpc-timeout");
        c.checkpoints.pull_checkpoint(r).await
    });
    let stream = stream.await?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".convoke-pull-")
        .tempdir_in(&parent)
        .map_err(|e| Failure::file("make a directory in", &parent, &e))?;
    let checkpoint = receive(stream, &temporary).await?;
    settle(temporary, dir)?;
    let reference = checkpoint.reference.clone().unwrap_or_default();
    if context.format.is_json() {
        let checkpoint = json("Checkpoint", &checkpoint);
        return output::document(&serde_json::json!({ "dir": dir, "checkpoint": checkpoint }));
    }
    output::line(&format!(
        "{}: step {} of \"{}\", {}, every hash verified",
        dir.display(),
        reference.step,
        text::job_name(&job),
        text::size(checkpoint.bytes)
    ))
}

/// Puts the finished directory in its place; never over another.
fn settle(temporary: TempDir, dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |e: &std::io::Error| Failure::file("put the checkpoint at", dir, e);
    // A temporary directory is its maker's alone; the result is a directory like any other.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(temporary.path(), open).map_err(|e| failed(&e))?;
    let here = rustix::fs::CWD;
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    rustix::fs::renameat_with(here, temporary.path(), here, dir, flags).map_err(|e| failed(&e.into()))?;
    // Renamed away: there is nothing left to remove.
    let _ = temporary.keep();
    Ok(())
}

async fn receive(
    mut stream: Streaming<v1::PullCheckpointResponse>,
    into: &TempDir,
) -> Result<v1::Checkpoint, Failure> {
    let mut checkpoint = None;
    let mut bar = ProgressBar::hidden();
    let mut arriving: Option<Arriving> = None;
    let mut whole = HashSet::new();
    while let Some(response) = stream.message().await? {
        match response.part {
            Some(Part::Checkpoint(head)) => {
                bar = progress(head.bytes);
                checkpoint = Some(head);
            }
            Some(Part::File(start)) => {
                finish(arriving.take(), &mut whole).await?;
                let head = checkpoint.as_ref().ok_or_else(|| broken("a file before the manifest"))?;
                arriving = Some(Arriving::begin(into.path(), head, start).await?);
            }
            Some(Part::Data(data)) => {
                let file = arriving.as_mut().ok_or_else(|| broken("bytes before a file"))?;
                file.write(&data).await?;
                bar.inc(data.len() as u64);
            }
            None => {}
        }
    }
    finish(arriving, &mut whole).await?;
    bar.finish_and_clear();
    let checkpoint = checkpoint.ok_or_else(|| broken("the stream was empty"))?;
    let files =
        |shard: &v1::Shard| shard.files.iter().map(|f| (shard.rank, f.path.clone())).collect::<Vec<_>>();
    match checkpoint.shards.iter().flat_map(files).find(|key| !whole.contains(key)) {
        Some((rank, path)) => Err(broken(&format!("{path} of rank {rank} did not come"))),
        None => Ok(checkpoint),
    }
}

async fn finish(arriving: Option<Arriving>, whole: &mut HashSet<(u32, String)>) -> Result<(), Failure> {
    if let Some(file) = arriving {
        whole.insert(file.finish().await?);
    }
    Ok(())
}

/// One file on its way in.
struct Arriving {
    rank: u32,
    expected: v1::ShardFile,
    path: PathBuf,
    file: File,
    hash: Sha256,
    written: u64,
}

impl Arriving {
    async fn begin(root: &Path, head: &v1::Checkpoint, start: v1::FileStart) -> Result<Self, Failure> {
        let expected = start.file.ok_or_else(|| broken("a file without a name"))?;
        let relative = safe(&expected.path)?;
        // Rank 0 alone: its files are the checkpoint. Several shards: a directory each.
        let root = match head.expected_ranks.as_slice() {
            [_] => root.to_owned(),
            _ => root.join(format!("rank-{}", start.rank)),
        };
        let path = root.join(relative);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Failure::file("make", parent, &e))?;
        }
        let file = File::create_new(&path).await.map_err(|e| Failure::file("write", &path, &e))?;
        Ok(Self { rank: start.rank, expected, path, file, hash: Sha256::new(), written: 0 })
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.hash.update(data);
        self.written += data.len() as u64;
        self.file.write_all(data).await.map_err(|e| Failure::file("write", &self.path, &e))
    }

    async fn finish(self) -> Result<(u32, String), Failure> {
        let Self { rank, expected, path, file, hash, written } = self;
        file.sync_all().await.map_err(|e| Failure::file("write", &path, &e))?;
        if written != expected.size {
            return Err(broken(&format!("{} has {written} of {} bytes", expected.path, expected.size)));
        }
        if hash.finalize()[..] != expected.sha256[..] {
            return Err(broken(&format!("{} does not have the hash that was stored", expected.path)));
        }
        Ok((rank, expected.path))
    }
}

/// A path from the network: relative and only downwards.
fn safe(path: &str) -> Result<&Path, Failure> {
    let relative = Path::new(path);
    let down = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !down {
        return Err(broken(&format!("\"{path}\" is not a path inside a checkpoint")));
    }
    Ok(relative)
}

fn broken(what: &str) -> Failure {
    Failure::new(exit::FAILED, "CHECKPOINT_BROKEN", format!("the checkpoint did not arrive whole: {what}"))
        .hint("nothing was kept; try again, and see the coordinator's log if it happens twice")
}

/// Hidden where stderr is no terminal.
fn progress(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    ProgressBar::new(bytes).with_style(style.expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_the_directory_is_refused() {
        for path in ["", "/etc/passwd", "../x", "a/../../b"] {
            assert!(safe(path).is_err(), "{path}");
        }
        assert!(safe("a/b.safetensors").is_ok());
    }

    #[test]
    fn a_directory_that_appeared_meanwhile_is_not_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        std::fs::create_dir(&target).unwrap();
        let fetched = tempfile::tempdir_in(parent.path()).unwrap();
        assert!(settle(fetched, &target).is_err());
        let names = std::fs::read_dir(parent.path()).unwrap().count();
        assert_eq!(names, 1, "the temporary directory is gone");
    }

    #[tokio::test]
    async fn a_file_with_another_hash_or_length_is_refused() {
        let head = v1::Checkpoint { expected_ranks: vec![0], ..Default::default() };
        for (size, sha256) in [(3, vec![0; 32]), (4, Sha256::digest(b"abc").to_vec())] {
            let root = tempfile::tempdir().unwrap();
            let file = v1::ShardFile { path: "f".into(), size, sha256: sha256.into() };
            let start = v1::FileStart { rank: 0, file: Some(file) };
            let mut arriving = Arriving::begin(root.path(), &head, start).await.unwrap();
            arriving.write(b"abc").await.unwrap();
            assert_eq!(arriving.finish().await.unwrap_err().reason, "CHECKPOINT_BROKEN");
        }
    }
}
