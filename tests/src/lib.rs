//! The harness of the whole-system tests: real processes, public handles only.
//!
//! [`LocalCluster`] runs one coordinator and some agents on loopback, in a directory of its own, and
//! ends all of it when it is dropped, or when the test process dies (a lock file that it holds is
//! every process's lifeline). [`LocalCluster::finish`] is the end of every story: an orderly
//! shutdown, after which no process is left and no line of a log warns of what the story did not
//! announce. A failing test prints what every process said.

mod api;
mod artifacts;
mod cli;
mod cluster;
mod docker;
mod gate;
pub mod logs;
mod needs;
mod nvml;
mod options;
pub mod process;
pub mod procfs;
mod registry;
mod scene;
mod scripted;
mod scripted_coordinator;
mod spec;
pub mod story;
mod wait;
mod wire;

pub use api::reason;
pub use artifacts::hex;
pub use cli::{Cli, Finished, RunningCli};
pub use cluster::LocalCluster;
pub use docker::{Containers, docker};
pub use gate::Gate;
pub use needs::{BASE, Needs, TORCH, TRAINER};
pub use nvml::FakeNvml;
pub use options::ClusterOptions;
pub use registry::Registry;
pub use scene::{JOB, Scene, copy};
pub use scripted::{ScriptedAgent, hello};
pub use scripted_coordinator::{AgentSession, ScriptedCoordinator};
pub use spec::{Job, checkpoint, sh};
pub use story::block_on;
pub use wait::{DEADLINE, eventually};
pub use wire::Wire;

use std::path::PathBuf;

/// A binary of this workspace, as built beside the running test.
///
/// # Panics
/// Where it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program knows its path");
    let target = test.ancestors().nth(2).expect("cargo puts tests in target/<profile>/deps");
    let path = target.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --workspace` before the whole-system tests",
        path.display()
    );
    path
}

/// The repository's root.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the crate lies in the repository")
}
