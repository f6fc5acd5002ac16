//! What stories need of this host.

use std::process::Command;

use crate::{docker, registry};

/// A static busybox.
pub const BASE: &str = "convoke-test/base:1";
/// PyTorch with torchrun.
pub const TORCH: &str = "convoke-test/torch:1";
/// Built only where somebody asks for them: they are large.
const JAX: &str = "convoke-test/jax:1";
const TENSORFLOW: &str = "convoke-test/tensorflow:1";
/// The reference trainer.
pub const TRAINER: &str = "convoke-trainer:test";

/// What a story cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Needs {
    /// A Docker Engine.
    Engine,
    /// One, and a registry to start.
    Registry,
    Base,
    Torch,
    Trainer,
    /// The base image, and engines in network namespaces.
    Engines,
    TorchEngines,
    JaxEngines,
    TensorflowEngines,
    /// Engines, and a registry to start.
    RegistryEngines,
    /// Network namespaces; no engine.
    Namespaces,
    /// The base image, and links whose rate is limited.
    SlowLinks,
    /// A file system of its own; no engine.
    Mounts,
    /// The base image, and file systems of its own.
    BaseMounts,
    /// The base image, and a FUSE file system.
    Fuse,
}

impl Needs {
    /// What is missing, and how to get it.
    pub fn missing(self) -> Option<String> {
        let image = |image, script| {
            let missing = docker::missing(&[image])?;
            Some(if missing.contains(image) { format!("{missing}; run {script}") } else { missing })
        };
        match self {
            Self::Engine => docker::missing(&[]),
            Self::Registry => docker::missing(&[]).or_else(registry::missing),
            Self::Base => image(BASE, "tests/images/build.sh base"),
            Self::Torch => image(TORCH, "tests/images/build.sh torch"),
            Self::Trainer => image(TRAINER, "deploy/images/trainer-image.sh"),
            Self::Engines => Self::Base.missing().or_else(engines),
            Self::TorchEngines => Self::Torch.missing().or_else(engines),
            Self::JaxEngines => image(JAX, "tests/images/build.sh jax").or_else(engines),
            Self::TensorflowEngines => image(TENSORFLOW, "tests/images/build.sh tensorflow").or_else(engines),
            Self::RegistryEngines => Self::Engines.missing().or_else(registry::missing),
            Self::Namespaces => unshared(&["--net"], "ip link set lo up"),
            Self::SlowLinks => {
                let slow =
                    "nsenter --version && tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 400ms";
                Self::Base.missing().or_else(|| unshared(&["--net"], slow))
            }
            Self::Mounts => unshared(&["--mount"], "mount -t tmpfs none /mnt"),
            Self::BaseMounts => Self::Base.missing().or_else(|| Self::Mounts.missing()),
            Self::Fuse => {
                let bindfs = "d=$(mktemp -d) && bindfs / $d && umount $d && rmdir $d";
                Self::Base.missing().or_else(|| unshared(&["--mount"], bindfs))
            }
        }
    }
}

/// What engines in network namespaces need.
fn engines() -> Option<String> {
    Needs::Namespaces.missing().or_else(|| unshared(&[], "dockerd --version && nsenter --version"))
}

/// Whether a namespace can be made and `script` works in it.
fn unshared(namespace: &[&str], script: &str) -> Option<String> {
    match Command::new("unshare").args(namespace).args(["sh", "-c", script]).output() {
        Err(error) => Some(format!("the unshare command: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("\"{script}\": {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
