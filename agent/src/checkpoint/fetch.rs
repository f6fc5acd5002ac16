//! A complete checkpoint brought here, to start from.
//!
//! It is received under a temporary name, every hash checked, then renamed: a directory under its
//! final name is whole, and is not fetched again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_model::{CheckpointRef, Digest, ReplicaKey, ShardFile, Shards};
use convoke_proto::v1;
use convoke_proto::v1::fetch_checkpoint_response::Part;
use convoke_transport::Backoff;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::warn;

use crate::home::Home;
use crate::host::Host;
use crate::link::will_pass;

/// How long the coordinator may send nothing.
const STALL: Duration = Duration::from_secs(60);
/// Tries before the replica is refused; another node may reach the coordinator better.
const TRIES: usize = 5;

/// Why a checkpoint could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the coordinator cannot be reached: {0}")]
    Connect(#[from] convoke_transport::ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] Box<Status>),
    #[error("the coordinator sent nothing for {} s", STALL.as_secs())]
    Stalled,
    #[error("{path} arrived damaged")]
    Damaged { path: String },
    #[error("the coordinator sent something else than a checkpoint: {0}")]
    Malformed(String),
    #[error("{} cannot be written: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The directory of the checkpoint's files: rank 0's, or `rank-<r>/` for each rank where all ranks
/// write. Fetched unless it is here already.
pub async fn fetch(
    host: &Host,
    key: &ReplicaKey,
    reference: &CheckpointRef,
    shards: Shards,
) -> Result<PathBuf, FetchError> {
    let target = host.home.resume_checkpoint_dir(reference);
    if target.is_dir() {
        return Ok(target);
    }
    let mut backoff = Backoff::default();
    for _ in 1..TRIES {
        match try_fetch(host, reference, shards, &target).await {
            Err(FetchError::Status(status)) if !will_pass(&status) => {
                return Err(FetchError::Status(status));
            }
            Err(error) => {
                warn!(job = %key.job, step = %reference.step, "fetching a checkpoint: {error}; trying again")
            }
            Ok(()) => return Ok(target),
        }
        backoff.pause().await;
    }
    try_fetch(host, reference, shards, &target).await.map(|()| target)
}

async fn try_fetch(
    host: &Host,
    reference: &CheckpointRef,
    shards: Shards,
    target: &Path,
) -> Result<(), FetchError> {
    let parent = target.parent().unwrap_or(target);
    let write = |source| FetchError::Write { path: parent.to_owned(), source };
    fs::create_dir_all(parent).map_err(write)?;
    // Deleted when this ends early.
    let temporary = tempfile::Builder::new().prefix(".fetch-").tempdir_in(parent).map_err(write)?;
    let mut client = host.link.bulk().await?;
    let request = v1::FetchCheckpointRequest { reference: Some(reference.clone().into()) };
    let opened = timeout(STALL, client.fetch_checkpoint(request)).await.map_err(|_| FetchError::Stalled)?;
    let mut stream = opened.map_err(Box::new)?.into_inner();
    receive(&mut stream, temporary.path(), shards).await?;
    match fs::rename(temporary.path(), target) {
        // Another replica of this node was first: the content is the same.
        Err(_) if target.is_dir() => Ok(()),
        renamed => renamed.map_err(write),
    }
}

/// A file that is being received.
struct Receiving {
    path: PathBuf,
    expected: ShardFile,
    file: File,
    hasher: Sha256,
    size: u64,
}

async fn receive(
    stream: &mut Streaming<v1::FetchCheckpointResponse>,
    directory: &Path,
    shards: Shards,
) -> Result<(), FetchError> {
    let mut expected = None;
    let mut received = 0_usize;
    let mut current: Option<Receiving> = None;
    while let Some(message) =
        timeout(STALL, stream.message()).await.map_err(|_| FetchError::Stalled)?.map_err(Box::new)?
    {
        match message.part {
            Some(Part::Checkpoint(checkpoint)) => {
                expected = Some(checkpoint.shards.iter().map(|s| s.files.len()).sum::<usize>());
            }
            Some(Part::File(start)) => {
                if let Some(done) = current.take() {
                    done.finish().await?;
                    received += 1;
                }
                current = Some(Receiving::start(start, directory, shards).await?);
            }
            Some(Part::Data(data)) => match &mut current {
                Some(receiving) => receiving.write(&data).await?,
                None => return Err(FetchError::Malformed("bytes before a file".to_owned())),
            },
            None => return Err(FetchError::Malformed("an empty message".to_owned())),
        }
    }
    if let Some(done) = current {
        done.finish().await?;
        received += 1;
    }
    if expected != Some(received) {
        return Err(FetchError::Malformed(format!("{received} files of {}", expected.unwrap_or_default())));
    }
    Ok(())
}

impl Receiving {
    async fn start(start: v1::FileStart, directory: &Path, shards: Shards) -> Result<Self, FetchError> {
        let malformed = |e: &dyn ToString| FetchError::Malformed(e.to_string());
        let wire = start.file.ok_or_else(|| malformed(&"a file without a name"))?;
        // The conversion refuses paths that lead out of the directory.
        let expected = ShardFile::try_from(wire).map_err(|e| malformed(&e))?;
        let directory = match shards {
            Shards::RankZero => directory.to_owned(),
            Shards::All => directory.join(format!("rank-{}", start.rank)),
        };
        let path = directory.join(&expected.path);
        let parent = path.parent().unwrap_or(&directory);
        let write = |source| FetchError::Write { path: path.clone(), source };
        tokio::fs::create_dir_all(parent).await.map_err(write)?;
        let file = File::create_new(&path).await.map_err(write)?;
        Ok(Self { path, expected, file, hasher: Sha256::new(), size: 0 })
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), FetchError> {
        self.size += data.len() as u64;
        if self.size > self.expected.size {
            return Err(FetchError::Damaged { path: self.expected.path.clone() });
        }
        self.hasher.update(data);
        self.file
            .write_all(data)
            .await
            .map_err(|source| FetchError::Write { path: self.path.clone(), source })
    }

    async fn finish(mut self) -> Result<(), FetchError> {
        let digest = Digest(self.hasher.finalize().into());
        if self.size != self.expected.size || digest != self.expected.digest {
            return Err(FetchError::Damaged { path: self.expected.path });
        }
        let write = |source| FetchError::Write { path: self.path.clone(), source };
        self.file.flush().await.map_err(write)?;
        self.file.sync_all().await.map_err(write)
    }
}

/// Deletes every fetched checkpoint that is not in `used`. Blocking. What cannot be deleted is tried
/// again the next time; what is being fetched meanwhile is fetched once more.
pub fn collect(home: &Home, used: &[CheckpointRef]) {
    let kept: Vec<PathBuf> = used.iter().map(|reference| home.resume_checkpoint_dir(reference)).collect();
    let directories = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect()
    };
    for job in directories(&home.resume_dir()) {
        // A directory of a job with replicas here may be receiving one right now.
        if kept.iter().any(|path| path.starts_with(&job)) {
            for checkpoint in directories(&job).into_iter().filter(|c| !kept.contains(c) && !is_temporary(c))
            {
                let _ = fs::remove_dir_all(checkpoint);
            }
        } else {
            let _ = fs::remove_dir_all(job);
        }
    }
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
