//! Which of a node's free GPUs a replica takes, and in which order: those that are joined.
//!
//! A set is as good as its worst connection lets it be: NCCL's rings go through every GPU. So the set
//! with the fewest pairs that NVLink does not join is taken; among equals the one on the fewest NUMA
//! nodes, then the one that tears the fewest links to GPUs that stay free, then the lowest indices.
//! The search is greedy from every free GPU, and never worse than the lowest indices.

use std::collections::{BTreeMap, BTreeSet};

use convoke_model::{Device, DeviceId};

/// GPUs that are searched: more than a host has. The search takes time that grows with their fifth power, and the
/// coordinator does nothing else meanwhile.
const SEARCHED: usize = 32;

/// How badly a set is connected: smaller is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost {
    /// Devices that are taken only where no better ones are free.
    pub(crate) doubtful: usize,
    /// Pairs without NVLink between them, where anything on the node has NVLink.
    pub(crate) unjoined: usize,
    /// NUMA nodes beyond the first.
    pub(crate) numa: usize,
    /// Links to GPUs that stay free.
    torn: u32,
}

/// What is known of the connections between the devices of one node.
struct Links<'a> {
    devices: &'a [&'a Device],
    /// Links between each two, a row for each.
    joined: Vec<u32>,
    /// Some two are joined.
    any_joined: bool,
    doubtful: Vec<bool>,
}

/// `count` of the free devices in local-rank order, and how well they are connected. `free` is in index
/// order and has at least as many.
pub(crate) fn choose(free: &[&Device], count: usize, doubtful: &BTreeSet<DeviceId>) -> (Vec<DeviceId>, Cost) {
    let links = Links::between(free, doubtful);
    let naive: Vec<usize> = (0..count).collect();
    let any_choice = count > 0 && count < free.len() && free.len() <= SEARCHED && links.differ();
    let grown = (0..free.len()).filter(|_| any_choice).map(|seed| links.grow(seed, count));
    let best = grown.chain([naive]).min_by_key(|set| (links.cost(set), set.clone()));
    let best = best.expect("the naive choice is one");
    let cost = links.cost(&best);
    (links.order(best).into_iter().map(|n| free[n].id.clone()).collect(), cost)
}

impl<'a> Links<'a> {
    fn between(devices: &'a [&'a Device], doubtful: &BTreeSet<DeviceId>) -> Self {
        let position: BTreeMap<&DeviceId, usize> = devices.iter().zip(0..).map(|(d, n)| (&d.id, n)).collect();
        let mut joined = vec![0; devices.len() * devices.len()];
        for (from, device) in devices.iter().enumerate() {
            for peer in device.gpu.iter().flat_map(|gpu| &gpu.nvlink_peers) {
                if let Some(to) = position.get(&peer.device) {
                    // What one end does not tell, the other may.
                    for pair in [(from, *to), (*to, from)] {
                        let known: &mut u32 = &mut joined[pair.0 * devices.len() + pair.1];
                        *known = peer.links.max(*known);
                    }
                }
            }
        }
        let doubtful = devices.iter().map(|device| doubtful.contains(&device.id)).collect();
        let any_joined = joined.iter().any(|links| *links > 0);
        Self { devices, joined, any_joined, doubtful }
    }

    /// Sets may be better or worse at all.
    fn differ(&self) -> bool {
        let numa: BTreeSet<Option<u32>> = (0..self.devices.len()).map(|n| self.numa(n)).collect();
        self.any_joined || numa.len() > 1 || self.doubtful.contains(&true)
    }

    fn numa(&self, device: usize) -> Option<u32> {
        self.devices[device].gpu.as_ref().and_then(|gpu| gpu.numa_node)
    }

    fn links(&self, a: usize, b: usize) -> u32 {
        self.joined[a * self.devices.len() + b]
    }

    fn cost(&self, set: &[usize]) -> Cost {
        let pairs = set.iter().enumerate().flat_map(|(n, a)| set[n + 1..].iter().map(move |b| (*a, *b)));
        let numa: BTreeSet<u32> = set.iter().filter_map(|n| self.numa(*n)).collect();
        let staying = (0..self.devices.len()).filter(|n| !set.contains(n));
        let unjoined =
            if self.any_joined { pairs.filter(|(a, b)| self.links(*a, *b) == 0).count() } else { 0 };
        Cost {
            doubtful: set.iter().filter(|n| self.doubtful[**n]).count(),
            unjoined,
            numa: numa.len().saturating_sub(1),
            torn: staying.flat_map(|n| set.iter().map(move |m| (n, *m))).map(|(n, m)| self.links(n, m)).sum(),
        }
    }

    /// A set from `seed` on: each time the one that leaves it the best connected.
    fn grow(&self, seed: usize, count: usize) -> Vec<usize> {
        let mut set = vec![seed];
        while set.len() < count {
            let with = |n: usize| set.iter().copied().chain([n]).collect::<Vec<_>>();
            let rest = (0..self.devices.len()).filter(|n| !set.contains(n));
            let Some(next) = rest.min_by_key(|n| (self.cost(&with(*n)), *n)) else { break };
            set.push(next);
        }
        set.sort_unstable();
        set
    }

    /// Neighbours in the order of local ranks are the best joined: a chain from the lowest index.
    fn order(&self, mut set: Vec<usize>) -> Vec<usize> {
        set.sort_unstable();
        let mut chain: Vec<usize> = Vec::new();
        while let Some(at) = self.next(&chain, &set) {
            chain.push(set.remove(at));
        }
        chain
    }

    fn next(&self, chain: &[usize], left: &[usize]) -> Option<usize> {
        let Some(last) = chain.last() else { return (!left.is_empty()).then_some(0) };
        let rank = |at: &usize| {
            let n = left[*at];
            (std::cmp::Reverse(self.links(*last, n)), self.numa(*last) != self.numa(n), n)
        };
        (0..left.len()).min_by_key(rank)
    }
}

#[cfg(test)]
mod tests;
