//! `convoke nodes`: the hosts.

mod gpus;

use std::collections::BTreeMap;

use anstyle::Style;
use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::Failure;
use super::json::json;
use super::link::Link;
use super::output::{self, Grid, paint};
use super::text;

/// List nodes, their devices and what uses them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke nodes
  convoke nodes --gpus
  convoke nodes -o json | jq '.nodes[] | {id: .info.id, state}'")]
pub(crate) struct Nodes {
    /// Each GPU: what it does now, who holds it, how it is
    #[arg(long)]
    gpus: bool,
}

impl Nodes {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let response = list(&link).await?;
        if context.format.is_json() {
            return output::document(&json("ListNodesResponse", &response));
        }
        if response.nodes.is_empty() {
            output::note(&format!(
                "no nodes; run `convoke-agent --coordinator {}` on each host",
                context.coordinator
            ));
            return Ok(());
        }
        if self.gpus { gpus::table(&response.nodes) } else { table(&response.nodes) }
    }
}

/// All nodes that the coordinator knows.
pub(super) async fn list(link: &Link) -> Result<v1::ListNodesResponse, Failure> {
    let request = v1::ListNodesRequest {};
    link.call(request, |mut c, r| async move { c.cluster.list_nodes(r).await }).await
}

fn table(nodes: &[v1::Node]) -> Result<(), Failure> {
    let mut grid = Grid::new(&["NAME", "STATE", "FOR", "DEVICES", "USED BY", "ADDRESS", "RUNS", "AGENT"]);
    for node in nodes {
        let info = node.info.clone().unwrap_or_default();
        grid.row(vec![
            info.id.clone(),
            state(node),
            since(node),
            devices(&info.devices, &node.in_use),
            users(&node.in_use),
            info.addresses.first().map(|a| a.address.clone()).unwrap_or_default(),
            runs(&info),
            info.agent_version.clone(),
        ]);
    }
    grid.print()?;
    problems(nodes)
}

/// What is wrong with nodes and their devices, a line each.
fn problems(nodes: &[v1::Node]) -> Result<(), Failure> {
    for node in nodes {
        let name = node.info.as_ref().map_or("?", |i| i.id.as_str());
        let of_node = node.conditions.iter().map(|c| (&c.name, &c.message));
        let of_devices = node.device_conditions.iter().map(|c| (&c.name, &c.message));
        for (condition, message) in of_node.chain(of_devices) {
            output::line(&format!("{name}: {condition}: {message}"))?;
        }
    }
    Ok(())
}

/// How long it has been in its state; of a lost one also from when on, for those who look for what happened then.
fn since(node: &v1::Node) -> String {
    let age = text::age(node.since_unix_ms);
    match node.state() {
        v1::NodeState::Lost => format!("{age}, since {}", text::local_time(node.since_unix_ms)),
        _ => age,
    }
}

fn state(node: &v1::Node) -> String {
    let (style, word) = match node.state() {
        v1::NodeState::Ready => (text::green(), "ready"),
        v1::NodeState::Suspect => (text::yellow(), "suspect"),
        v1::NodeState::Unknown => (text::yellow(), "unknown"),
        v1::NodeState::Lost => (text::red(), "lost"),
        v1::NodeState::Unspecified => (Style::new(), "unspecified"),
    };
    paint(style, word)
}

/// `2/8 gpu` in use, by kind.
fn devices(devices: &[v1::Device], in_use: &[v1::DeviceUse]) -> String {
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for device in devices {
        let kind = match device.kind() {
            v1::DeviceKind::Gpu => "gpu",
            v1::DeviceKind::Cpu => "cpu slots",
            v1::DeviceKind::Unspecified => "?",
        };
        let (used, all) = kinds.entry(kind).or_default();
        *used += usize::from(in_use.iter().any(|u| u.device == device.id));
        *all += 1;
    }
    let parts: Vec<_> = kinds.iter().map(|(kind, (used, all))| format!("{used}/{all} {kind}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// What kinds of tasks: `processes, Docker Engine 28.2.2 (GPUs: nvidia)`.
fn runs(info: &v1::NodeInfo) -> String {
    let injection = match info.gpu_injection() {
        v1::GpuInjection::Nvidia => " (GPUs: nvidia)",
        v1::GpuInjection::Cdi => " (GPUs: cdi)",
        v1::GpuInjection::Direct => " (GPUs: direct)",
        v1::GpuInjection::Unspecified => "",
    };
    let kinds = info.runtimes().filter_map(|kind| match kind {
        v1::RuntimeKind::Process => Some("processes".to_owned()),
        // An engine that was away when the agent registered has not told its version.
        v1::RuntimeKind::Docker if info.engine.is_empty() => Some("containers".to_owned()),
        v1::RuntimeKind::Docker => Some(format!("{}{injection}", info.engine)),
        v1::RuntimeKind::Unspecified => None,
    });
    let kinds: Vec<String> = kinds.collect();
    if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") }
}

fn users(in_use: &[v1::DeviceUse]) -> String {
    let mut names: Vec<_> = in_use.iter().map(|u| u.job_name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_by_kind() {
        let device =
            |id: &str| v1::Device { id: id.into(), kind: v1::DeviceKind::Cpu.into(), ..Default::default() };
        let used = v1::DeviceUse { device: "cpu-1".into(), ..Default::default() };
        assert_eq!(devices(&[device("cpu-0"), device("cpu-1")], &[used]), "1/2 cpu slots");
        assert_eq!(devices(&[], &[]), "none");
    }

    #[test]
    fn what_a_node_runs_is_told_with_its_engine_and_its_way_to_gpus() {
        let mut info = v1::NodeInfo::default();
        assert_eq!(runs(&info), "nothing");
        info.runtimes = vec![v1::RuntimeKind::Process.into(), v1::RuntimeKind::Docker.into()];
        assert_eq!(runs(&info), "processes, containers");
        info.engine = "Docker Engine 28.2.2".to_owned();
        info.set_gpu_injection(v1::GpuInjection::Cdi);
        assert_eq!(runs(&info), "processes, Docker Engine 28.2.2 (GPUs: cdi)");
    }
}
