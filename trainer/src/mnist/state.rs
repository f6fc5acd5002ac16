//! What a checkpoint holds, whatever device trained it: `step-<n>/` with `model.safetensors` under
//! PyTorch's names, `optimizer.safetensors`, and `state.json`.

use std::path::{Path, PathBuf};

use super::model::{TENSORS, views, views_mut};
use super::progress::Progress;
use crate::Real;
use crate::checkpoint::{CheckpointError, Draft, Named, read_file, read_tensors};

/// Parameters and Adam's two averages, each a flat buffer in the order of [`TENSORS`].
#[derive(Debug, Clone, PartialEq)]
pub struct State<T> {
    pub parameters: Vec<T>,
    /// Exponential averages of the gradient and of its square.
    pub first: Vec<T>,
    pub second: Vec<T>,
}

impl<T: Real> State<T> {
    /// Writes a checkpoint into `directory`.
    pub fn save(&self, directory: &Path, progress: &Progress) -> Result<PathBuf, CheckpointError> {
        let draft = Draft::begin(directory, progress.step)?;
        draft.tensors("model.safetensors", &named("", &self.parameters))?;
        let moments = [named("exp_avg.", &self.first), named("exp_avg_sq.", &self.second)].concat();
        draft.tensors("optimizer.safetensors", &moments)?;
        let progress = serde_json::to_vec_pretty(progress).expect("plain numbers always serialise");
        draft.file("state.json", &progress)?;
        draft.commit()
    }

    /// Goes on from a directory that [`State::save`] wrote. In another world than `progress` is of, the
    /// position is rescaled, and a sentence about it is returned.
    pub fn resume(
        &mut self,
        directory: &Path,
        progress: &mut Progress,
    ) -> Result<Option<String>, CheckpointError> {
        let path = directory.join("state.json");
        let mismatch = |reason| CheckpointError::Mismatch { path: path.clone(), reason };
        let state: Progress =
            serde_json::from_slice(&read_file(&path)?).map_err(|e| mismatch(e.to_string()))?;
        if state.version != Progress::VERSION || state.world_size == 0 || state.batch_per_rank == 0 {
            return Err(mismatch(format!("state of version {}, or of nobody", state.version)));
        }
        read_tensors(&directory.join("model.safetensors"), &mut named_mut("", &mut self.parameters))?;
        let mut moments = named_mut("exp_avg.", &mut self.first);
        moments.extend(named_mut("exp_avg_sq.", &mut self.second));
        read_tensors(&directory.join("optimizer.safetensors"), &mut moments)?;

        let (world_size, batch) = (progress.world_size, progress.batch_per_rank);
        let rescaled = state.rescaled(world_size, batch);
        let note = rescaled.as_ref().map(|now| {
            format!(
                "checkpoint of {} ranks x batch {} resumed on {world_size} ranks x batch {batch}: \
                 batch {} of epoch {} became batch {}",
                state.world_size,
                state.batch_per_rank,
                state.batch,
                state.epoch + 1,
                now.batch
            )
        });
        *progress = rescaled.unwrap_or(state);
        Ok(note)
    }
}

fn named<'a, T>(prefix: &str, flat: &'a [T]) -> Vec<Named<'static, &'a [T]>> {
    let tensors = TENSORS.iter().zip(views(flat));
    tensors.map(|(t, values)| Named { name: format!("{prefix}{}", t.name), shape: t.shape, values }).collect()
}

fn named_mut<'a, T>(prefix: &str, flat: &'a mut [T]) -> Vec<Named<'static, &'a mut [T]>> {
    let tensors = TENSORS.iter().zip(views_mut(flat));
    tensors.map(|(t, values)| Named { name: format!("{prefix}{}", t.name), shape: t.shape, values }).collect()
}
