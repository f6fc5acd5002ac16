//! Checkpoints on disk: a directory `step-<n>/`, there whole or not at all.
//!
//! Files are written under a temporary name and synced, then the directory is renamed into place and
//! its parent synced. Reading refuses anything that is not exactly what was asked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::Real;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot write checkpoint {}; is there space, and may this user write there?", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: cannot be read; resume from another checkpoint", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: not a whole safetensors file ({reason}): resume from another checkpoint", .path.display())]
    Broken { path: PathBuf, reason: String },
    #[error("{}: {reason}: it was written by another model or version; resume from one of this model's", .path.display())]
    Mismatch { path: PathBuf, reason: String },
}

/// A tensor to write, or what is expected to be read.
#[derive(Debug, Clone)]
pub struct Named<'a, T> {
    pub name: String,
    pub shape: &'a [usize],
    pub values: T,
}

/// A checkpoint being written; gone again unless committed.
#[derive(Debug)]
pub struct Draft {
    directory: PathBuf,
    staging: PathBuf,
    step: u64,
    committed: bool,
}

impl Draft {
    /// Begins `step-<step>/` under `directory`, which is made if need be.
    pub fn begin(directory: &Path, step: u64) -> Result<Self, CheckpointError> {
        let staging = directory.join(format!(".step-{step}.{}.tmp", std::process::id()));
        let draft = Self { directory: directory.to_owned(), staging, step, committed: false };
        draft.attempt(|staging| {
            fs::create_dir_all(directory)?;
            remove(staging)?;
            fs::create_dir(staging)
        })?;
        Ok(draft)
    }

    /// Adds a file.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.attempt(|staging| {
            let mut file = File::create(staging.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()
        })
    }

    /// Adds a safetensors file.
    pub fn tensors<T: Real>(&self, name: &str, tensors: &[Named<'_, &[T]>]) -> Result<(), CheckpointError> {
        let encode = |values: &[T]| {
            let mut bytes = vec![0; values.len() * T::BYTES];
            values.iter().zip(bytes.chunks_exact_mut(T::BYTES)).for_each(|(x, out)| x.put(out));
            bytes
        };
        let data: Vec<_> = tensors.iter().map(|tensor| encode(tensor.values)).collect();
        let views = tensors.iter().zip(&data).map(|(tensor, bytes)| {
            Ok((tensor.name.as_str(), TensorView::new(T::DTYPE, tensor.shape.to_vec(), bytes)?))
        });
        let views: Result<Vec<_>, safetensors::SafeTensorError> = views.collect();
        let encoded = views.and_then(|views| safetensors::serialize(views, None));
        let encoded = encoded.map_err(|e| self.failed(io::Error::other(e)))?;
        self.file(name, &encoded)
    }

    /// Puts the finished directory in place. One of the same step, by an earlier run, is replaced.
    pub fn commit(mut self) -> Result<PathBuf, CheckpointError> {
        let finished = self.directory.join(format!("step-{}", self.step));
        self.attempt(|staging| {
            sync(staging)?;
            // A directory cannot be replaced in one step; what matters is that no half one shows.
            let old = staging.with_extension("old");
            remove(&old)?;
            if finished.exists() {
                fs::rename(&finished, &old)?;
            }
            fs::rename(staging, &finished)?;
            sync(&self.directory)?;
            remove(&old)
        })?;
        self.committed = true;
        Ok(finished)
    }

    fn attempt(&self, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), CheckpointError> {
        write(&self.staging).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Write { path: self.directory.join(format!("step-{}", self.step)), source }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // Only litter: a temporary name is never taken for a checkpoint.
            let _ = remove(&self.staging);
        }
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reads a whole file of a checkpoint.
pub fn read_file(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    fs::read(path).map_err(|source| CheckpointError::Unreadable { path: path.to_owned(), source })
}

/// Fills `expected` from a safetensors file that holds exactly those tensors.
pub fn read_tensors<T: Real>(
    path: &Path,
    expected: &mut [Named<'_, &mut [T]>],
) -> Result<(), CheckpointError> {
    let mismatch = |reason| CheckpointError::Mismatch { path: path.to_owned(), reason };
    let bytes = read_file(path)?;
    let broken = |e| CheckpointError::Broken { path: path.to_owned(), reason: format!("{e}") };
    let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let mut found: BTreeMap<_, _> = tensors.iter().collect();
    for tensor in expected {
        let name = &tensor.name;
        let Some(view) = found.remove(name.as_str()) else {
            return Err(mismatch(format!("tensor {name} is missing")));
        };
        if view.dtype() != T::DTYPE {
            return Err(mismatch(format!("tensor {name} is {}, expected {}", view.dtype(), T::DTYPE)));
        }
        if view.shape() != tensor.shape {
            let reason = format!("tensor {name} has shape {:?}, expected {:?}", view.shape(), tensor.shape);
            return Err(mismatch(reason));
        }
        let bytes = view.data().chunks_exact(T::BYTES);
        tensor.values.iter_mut().zip(bytes).for_each(|(x, bytes)| *x = T::get(bytes));
    }
    match found.keys().next() {
        Some(unknown) => Err(mismatch(format!("tensor {unknown} is unknown"))),
        None => Ok(()),
    }
}
