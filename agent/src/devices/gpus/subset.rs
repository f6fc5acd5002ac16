//! `--gpus`: which of a host's GPUs an agent owns.

use std::str::FromStr;

use convoke_model::Device;

use super::Gpu;

/// GPUs by index or UUID, as `0,1` or `GPU-…,GPU-…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset(Vec<String>);

#[derive(Debug, thiserror::Error)]
pub enum SubsetError {
    #[error("--gpus names {missing}, which this host does not have; it has {there}")]
    Missing { missing: String, there: String },
    #[error("no thread could be started for NVML")]
    Thread(#[source] std::io::Error),
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        match names.iter().find(|name| name.parse::<u32>().is_err() && !name.starts_with("GPU-")) {
            Some(name) => Err(format!(
                "\"{name}\" is no GPU: write indices as `0,1`, or UUIDs as `nvidia-smi -L` prints them"
            )),
            None => Ok(Self(names)),
        }
    }
}

impl Subset {
    pub fn contains(&self, device: &Device) -> bool {
        self.0.iter().any(|name| is(device, name))
    }

    /// Refuses names that are none of the host's GPUs.
    pub(super) fn check(&self, others: &[Device], own: &[Gpu]) -> Result<(), SubsetError> {
        let mut all: Vec<&Device> = own.iter().map(|gpu| &gpu.device).chain(others).collect();
        all.sort_by_key(|device| device.index);
        let missing: Vec<&str> = self
            .0
            .iter()
            .filter(|name| !all.iter().any(|device| is(device, name)))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let there: Vec<String> = all.iter().map(|d| format!("{} ({}, {})", d.index, d.id, d.model)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Err(SubsetError::Missing { missing: missing.join(", "), there })
    }
}

fn is(device: &Device, name: &str) -> bool {
    device.id.as_str().eq_ignore_ascii_case(name) || device.index.to_string() == name
}

#[cfg(test)]
mod tests {
    use convoke_model::{DeviceId, DeviceKind};

    use super::*;

    fn gpu(index: u32, id: &str) -> Device {
        let model = "H100".to_owned();
        Device { id: DeviceId::new(id).unwrap(), index, kind: DeviceKind::Gpu, model, memory: 0, gpu: None }
    }

    #[test]
    fn gpus_are_chosen_by_index_or_uuid_and_what_is_not_there_is_refused_with_what_is() {
        let subset: Subset = "1, GPU-a".parse().unwrap();
        let (a, b, c) = (gpu(0, "GPU-a"), gpu(1, "GPU-b"), gpu(2, "GPU-c"));
        assert!(subset.contains(&a) && subset.contains(&b) && !subset.contains(&c));
        let own = [Gpu::new(a), Gpu::new(b)];
        subset.check(std::slice::from_ref(&c), &own).unwrap();
        let wrong: Subset = "7,GPU-x".parse().unwrap();
        assert_eq!(
            wrong.check(&[c], &own).unwrap_err().to_string(),
            "--gpus names 7, GPU-x, which this host does not have; it has 0 (GPU-a, H100), 1 (GPU-b, H100), \
             2 (GPU-c, H100)"
        );
    }

    #[test]
    fn a_word_that_names_no_gpu_is_refused() {
        assert!("0,all".parse::<Subset>().unwrap_err().contains("\"all\" is no GPU"));
        assert!("".parse::<Subset>().is_err());
    }
}
