//! The newest sample of each GPU. In memory only: the ledger never sees one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convoke_core::MAX_NODES;
use convoke_model::{DeviceId, NodeId};
use convoke_proto::v1;

/// GPUs of one node: four times of what hosts have.
const MAX_GPUS: usize = 64;
/// Processes on one GPU, and reasons for its clocks: agents send no more.
const MAX_PARTS: usize = 64;
/// Bytes of any text; longer ones are not an agent's.
const MAX_TEXT: usize = 256;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct GpuSamples(Arc<Mutex<HashMap<NodeId, Vec<v1::GpuSample>>>>);

impl GpuSamples {
    /// Replaces those of a node; the error says what is wrong with them.
    pub(crate) fn take(&self, node: NodeId, samples: Vec<v1::GpuSample>) -> Result<(), String> {
        if samples.len() > MAX_GPUS {
            return Err(format!("{} samples are more than {MAX_GPUS}", samples.len()));
        }
        samples.iter().try_for_each(check)?;
        let mut all = self.all();
        // Nodes that were forgotten leave theirs; there are never more than of two full clusters.
        if all.len() >= 2 * MAX_NODES && !all.contains_key(&node) {
            all.clear();
        }
        all.insert(node, samples);
        Ok(())
    }

    pub(crate) fn of(&self, node: &NodeId) -> Vec<v1::GpuSample> {
        self.all().get(node).cloned().unwrap_or_default()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<NodeId, Vec<v1::GpuSample>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(sample: &v1::GpuSample) -> Result<(), String> {
    DeviceId::new(&sample.device).map_err(|error| format!("field device of a GPU sample: {error}"))?;
    let texts = sample.processes.iter().flat_map(|p| [&p.user, &p.name]).chain(&sample.throttle_reasons);
    if texts.clone().any(|text| text.len() > MAX_TEXT) {
        return Err(format!("a text in a GPU sample is longer than {MAX_TEXT} bytes"));
    }
    if sample.processes.len() > MAX_PARTS || sample.throttle_reasons.len() > MAX_PARTS {
        return Err(format!("a GPU sample has more than {MAX_PARTS} processes or throttle reasons"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(power_mw: u32) -> v1::GpuSample {
        v1::GpuSample { device: "GPU-1".to_owned(), power_mw: Some(power_mw), ..Default::default() }
    }

    #[test]
    fn a_newer_sample_replaces_an_older_one() {
        let (samples, node) = (GpuSamples::default(), NodeId::new("a").unwrap());
        samples.take(node.clone(), vec![sample(1)]).unwrap();
        samples.take(node.clone(), vec![sample(2)]).unwrap();
        assert_eq!(samples.of(&node), [sample(2)]);
        assert!(samples.of(&NodeId::new("b").unwrap()).is_empty());
    }

    #[test]
    fn what_no_agent_sends_is_refused_and_changes_nothing() {
        let (samples, node) = (GpuSamples::default(), NodeId::new("a").unwrap());
        let bad = [
            vec![sample(1); MAX_GPUS + 1],
            vec![v1::GpuSample { device: String::new(), ..sample(1) }],
            vec![v1::GpuSample { throttle_reasons: vec!["x".repeat(MAX_TEXT + 1)], ..sample(1) }],
            vec![v1::GpuSample { processes: vec![v1::GpuProcess::default(); MAX_PARTS + 1], ..sample(1) }],
        ];
        for samples_of_one in bad {
            samples.take(node.clone(), samples_of_one).unwrap_err();
        }
        assert!(samples.of(&node).is_empty());
    }
}
