//! What GPUs there are, and how they are connected.

use std::fs;

use convoke_model::{Device as Listed, DeviceId, DeviceKind, GpuDriver, GpuInfo, NvlinkPeer};
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};

/// More links than any GPU has so far (18).
const MAX_LINKS: u32 = 32;
/// Words of a bit set of NUMA nodes: 256 nodes.
const NUMA_WORDS: usize = 4;

/// A GPU with its handle.
pub(super) struct Found<'nvml> {
    pub(super) handle: Device<'nvml>,
    pub(super) listed: Listed,
}

/// Every GPU that answers, in PCI order and numbered by it; one that does not is left out.
pub(super) fn list(nvml: &Nvml) -> Result<Vec<Found<'_>>, NvmlError> {
    let mut found = Vec::new();
    for index in 0..nvml.device_count()? {
        match nvml.device_by_index(index).and_then(describe) {
            Ok(gpu) => found.push(gpu),
            Err(error @ (NvmlError::Uninitialized | NvmlError::DriverNotLoaded)) => return Err(error),
            Err(error) => tracing::warn!(index, "a GPU does not say what it is: {error}"),
        }
    }
    connect(&mut found);
    found.sort_by(|a, b| bus(&a.listed).cmp(bus(&b.listed)));
    for (index, gpu) in (0..).zip(&mut found) {
        gpu.listed.index = index;
    }
    Ok(found)
}

pub(super) fn bus(device: &Listed) -> &str {
    device.gpu.as_ref().map_or("", |gpu| gpu.pci_bus_id.as_str())
}

pub(super) fn driver(nvml: &Nvml) -> Option<GpuDriver> {
    let version = nvml.sys_driver_version().ok()?;
    let cuda = nvml
        .sys_cuda_driver_version()
        .map(|v| format!("{}.{}", cuda_driver_version_major(v), cuda_driver_version_minor(v)));
    Some(GpuDriver { version, cuda: cuda.unwrap_or_default() })
}

fn describe(handle: Device<'_>) -> Result<Found<'_>, NvmlError> {
    let id = DeviceId::new(&handle.uuid()?).map_err(|_| NvmlError::Unknown)?;
    let pci_bus_id = handle.pci_info()?.bus_id.to_lowercase();
    let capability = handle.cuda_compute_capability();
    let info = GpuInfo {
        numa_node: numa_node(&handle, &pci_bus_id),
        compute_capability: capability.map(|c| format!("{}.{}", c.major, c.minor)).unwrap_or_default(),
        // 1 is enabled.
        mig: handle.mig_mode().ok().map(|mode| mode.current == 1),
        ecc: handle.is_ecc_enabled().ok().map(|ecc| ecc.currently_enabled),
        nvlink_peers: Vec::new(),
        pci_bus_id,
    };
    let listed = Listed {
        id,
        index: 0,
        kind: DeviceKind::Gpu,
        model: handle.name()?,
        memory: handle.memory_info()?.total,
        gpu: Some(Box::new(info)),
    };
    Ok(Found { handle, listed })
}

/// By NVML, else by the kernel; `None` on a host with one node, where neither says more.
fn numa_node(handle: &Device<'_>, pci_bus_id: &str) -> Option<u32> {
    const NODE_SCOPE: u32 = 0;
    let by_nvml = handle.memory_affinity(NUMA_WORDS, NODE_SCOPE).ok().and_then(|words| only_bit(&words));
    // NVML writes the PCI domain with eight digits, the kernel with four.
    let by_kernel = || {
        let name = pci_bus_id.strip_prefix("0000").unwrap_or(pci_bus_id);
        fs::read_to_string(format!("/sys/bus/pci/devices/{name}/numa_node")).ok()?.trim().parse().ok()
    };
    by_nvml.or_else(by_kernel)
}

fn only_bit(words: &[u64]) -> Option<u32> {
    let mut set = (0..).zip(words).filter(|(_, word)| **word != 0);
    let (index, word) = set.next()?;
    let single = word.count_ones() == 1 && set.next().is_none();
    single.then(|| index * 64 + word.trailing_zeros())
}

/// Counts the links between each two: direct ones by where they end, those through switches by what
/// both send there.
fn connect(found: &mut [Found<'_>]) {
    let buses: Vec<String> = found.iter().map(|gpu| bus(&gpu.listed).to_owned()).collect();
    let ends: Vec<Vec<String>> = found.iter().map(|gpu| link_ends(&gpu.handle)).collect();
    let switched = |i: usize| ends[i].iter().filter(|end| !buses.contains(end)).count();
    let peers: Vec<Vec<NvlinkPeer>> = (0..found.len())
        .map(|i| {
            let others = (0..found.len()).filter(|j| *j != i);
            let peer = |j: usize| {
                let direct = ends[i].iter().filter(|end| **end == buses[j]).count();
                let links = match direct {
                    0 if switched(i) > 0 && reaches(&found[i].handle, &found[j].handle) => {
                        switched(i).min(switched(j))
                    }
                    direct => direct,
                };
                let links = u32::try_from(links).ok().filter(|links| *links > 0)?;
                Some(NvlinkPeer { device: found[j].listed.id.clone(), links })
            };
            others.filter_map(peer).collect()
        })
        .collect();
    for (gpu, peers) in found.iter_mut().zip(peers) {
        if let Some(info) = &mut gpu.listed.gpu {
            info.nvlink_peers = peers;
        }
    }
}

/// PCI bus ids at the other ends of its active links.
fn link_ends(handle: &Device<'_>) -> Vec<String> {
    let mut ends = Vec::new();
    for link in 0..MAX_LINKS {
        let link = handle.link_wrapper_for(link);
        match link.is_active() {
            Ok(true) => ends.extend(link.remote_pci_info().map(|pci| pci.bus_id.to_lowercase())),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    ends
}

fn reaches(from: &Device<'_>, to: &Device<'_>) -> bool {
    matches!(from.p2p_status(to, P2pCapabilitiesIndex::NvLink), Ok(P2pStatus::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numa_node_is_told_only_where_there_is_exactly_one() {
        assert_eq!(only_bit(&[0, 1 << 3]), Some(67));
        assert_eq!(only_bit(&[2, 0]), Some(1));
        assert_eq!(only_bit(&[3, 0]), None);
        assert_eq!(only_bit(&[1, 1]), None);
        assert_eq!(only_bit(&[0]), None);
    }
}
