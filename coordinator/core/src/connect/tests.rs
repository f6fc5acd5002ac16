use convoke_model::{DeviceKind, GpuInfo, NvlinkPeer};
use proptest::prelude::*;

use super::*;

/// A GPU on a NUMA node, with links to others by index.
fn gpu(index: u32, numa: Option<u32>, links: &[(u32, u32)]) -> Device {
    let peer = |(to, links): &(u32, u32)| NvlinkPeer { device: id(*to), links: *links };
    let nvlink_peers = links.iter().map(peer).collect();
    let info = GpuInfo { numa_node: numa, nvlink_peers, ..GpuInfo::default() };
    let (kind, model) = (DeviceKind::Gpu, "H100".to_owned());
    Device { id: id(index), index, kind, model, memory: 0, gpu: Some(Box::new(info)) }
}

fn id(index: u32) -> DeviceId {
    DeviceId::new(&format!("GPU-{index}")).unwrap()
}

fn chosen(gpus: &[Device], count: usize) -> Vec<u32> {
    let free: Vec<&Device> = gpus.iter().collect();
    let (ids, _) = choose(&free, count, &BTreeSet::new());
    ids.iter().map(|id| gpus.iter().find(|gpu| gpu.id == *id).unwrap().index).collect()
}

#[test]
fn a_pair_that_is_joined_is_taken_rather_than_the_lowest_indices() {
    let gpus = [gpu(0, None, &[]), gpu(1, None, &[(3, 4)]), gpu(2, None, &[]), gpu(3, None, &[(1, 4)])];
    assert_eq!(chosen(&gpus, 2), [1, 3]);
}

#[test]
fn a_single_gpu_does_not_tear_a_pair_apart() {
    let gpus = [gpu(0, None, &[(1, 4)]), gpu(1, None, &[(0, 4)]), gpu(2, None, &[])];
    assert_eq!(chosen(&gpus, 1), [2]);
}

#[test]
fn without_nvlink_they_are_taken_from_one_numa_node() {
    let gpus = [gpu(0, Some(0), &[]), gpu(1, Some(1), &[]), gpu(2, Some(0), &[]), gpu(3, Some(1), &[])];
    assert_eq!(chosen(&gpus, 2), [0, 2]);
    assert_eq!(chosen(&gpus[1..], 2), [1, 3]);
}

#[test]
fn local_ranks_that_follow_each_other_are_joined() {
    // A ring of four that is not in index order: 0 - 2 - 1 - 3.
    let gpus = [
        gpu(0, None, &[(2, 4), (3, 4)]),
        gpu(1, None, &[(2, 4), (3, 4)]),
        gpu(2, None, &[(0, 4), (1, 4)]),
        gpu(3, None, &[(0, 4), (1, 4)]),
    ];
    assert_eq!(chosen(&gpus, 4), [0, 2, 1, 3]);
}

#[test]
fn gpus_that_are_all_joined_alike_are_taken_by_index() {
    let all = |n: u32| (0..8).filter(|m| *m != n).map(|m| (m, 18)).collect::<Vec<_>>();
    let gpus: Vec<Device> = (0..8).map(|n| gpu(n, Some(n / 4), &all(n))).collect();
    assert_eq!(chosen(&gpus, 4), [0, 1, 2, 3]);
    assert_eq!(chosen(&gpus[2..], 4), [4, 5, 6, 7], "one NUMA node");
}

#[test]
fn one_that_is_doubtful_is_left_out_while_there_are_others() {
    let gpus = [gpu(0, None, &[(1, 4)]), gpu(1, None, &[(0, 4)]), gpu(2, None, &[])];
    let free: Vec<&Device> = gpus.iter().collect();
    let (ids, _) = choose(&free, 2, &BTreeSet::from([id(0)]));
    assert_eq!(ids, [id(1), id(2)]);
}

#[test]
fn on_a_node_with_more_gpus_than_a_host_has_nothing_is_searched() {
    let link = |n: u32| if n > 31 { vec![(65 - n, 4)] } else { vec![] };
    let gpus: Vec<Device> = (0..34).map(|n| gpu(n, None, &link(n))).collect();
    assert_eq!(chosen(&gpus, 2), [0, 1]);
    assert_eq!(chosen(&gpus[2..], 2), [32, 33]);
}

fn any_host() -> impl Strategy<Value = Vec<Device>> {
    (1_u32..9).prop_flat_map(|n| {
        let numa = prop::collection::vec(prop::option::of(0_u32..2), n as usize);
        let links = prop::collection::vec((0..n, 0..n, 1_u32..5), 0..12);
        (numa, links).prop_map(move |(numa, links)| {
            let mine = |index: u32| -> Vec<(u32, u32)> {
                let both = links.iter().flat_map(|(a, b, k)| [(*a, *b, *k), (*b, *a, *k)]);
                both.filter(|(a, b, _)| *a == index && *b != index).map(|(_, b, k)| (b, k)).collect()
            };
            (0..n).map(|index| gpu(index, numa[index as usize], &mine(index))).collect()
        })
    })
}

proptest! {
    #[test]
    fn the_choice_is_never_worse_connected_than_the_lowest_indices_and_always_the_same(
        host in any_host(),
        count in 1_usize..9,
        doubtful in prop::collection::btree_set(0_u32..9, 0..3),
    ) {
        let free: Vec<&Device> = host.iter().collect();
        let count = count.min(free.len());
        let doubtful: BTreeSet<DeviceId> = doubtful.into_iter().map(id).collect();
        let (ids, cost) = choose(&free, count, &doubtful);
        let distinct: BTreeSet<&DeviceId> = ids.iter().collect();
        prop_assert_eq!((ids.len(), distinct.len()), (count, count));
        let naive: Vec<usize> = (0..count).collect();
        prop_assert!(cost <= Links::between(&free, &doubtful).cost(&naive));
        prop_assert_eq!(choose(&free, count, &doubtful), (ids, cost));
    }
}
