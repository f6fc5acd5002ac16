//! What NVIDIA's libraries do without a GPU.

use std::time::Duration;

use convoke_trainer::collective::nccl::unique_id;
use convoke_trainer::collective::{Exchange as _, MemoryExchange};
use convoke_trainer::device::cuda::ptx;

use crate::PRECISIONS;

pub(crate) fn compile() {
    for capability in [(8, 0), (9, 0)] {
        for precision in PRECISIONS {
            let ptx = ptx(precision, capability).unwrap().to_src();
            for kernel in [
                "conv_forward",
                "dense_forward",
                "head",
                "dense_backward",
                "conv_backward",
                "conv_gradient",
                "adam",
            ] {
                assert!(ptx.contains(&format!(".entry {kernel}(")), "no {kernel} for {precision:?}");
            }
            assert!(ptx.contains(&format!(".target sm_{}{}", capability.0, capability.1)), "{precision:?}");
        }
    }
}

pub(crate) fn exchange() {
    let exchange = MemoryExchange::default();
    let id = unique_id().unwrap();
    assert_ne!(id, unique_id().unwrap());
    exchange.publish("world", &id).unwrap();
    assert_eq!(exchange.fetch("world", Duration::from_secs(5)).unwrap(), id);
}
