//! `convoke nodes --gpus`: a line for each GPU.

use convoke_proto::v1;

use super::problems;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Grid, paint};
use crate::cli::text;

/// A sample that is older than this is not what the GPU does now.
const FRESH_MS: u64 = 10_000;

pub(super) fn table(nodes: &[v1::Node]) -> Result<(), Failure> {
    let mut grid =
        Grid::new(&["NODE", "GPU", "MODEL", "MEMORY", "UTIL", "POWER", "TEMP", "USED BY", "HEALTH"]);
    let mut any = false;
    let now = text::now_ms();
    for node in nodes {
        let info = node.info.clone().unwrap_or_default();
        for device in info.devices.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu) {
            grid.row(row(node, &info, device, now));
            any = true;
        }
    }
    if !any {
        output::note("no node has a GPU; agents offer those that NVML lists");
        return problems(nodes);
    }
    grid.print()?;
    problems(nodes)
}

fn row(node: &v1::Node, info: &v1::NodeInfo, device: &v1::Device, now: u64) -> Vec<String> {
    let sample = node.gpu_samples.iter().find(|sample| sample.device == device.id);
    // Its node's clock may go before this one's.
    let fresh = sample.filter(|sample| sample.at_unix_ms.saturating_add(FRESH_MS) > now);
    let known = fresh.cloned().unwrap_or_default();
    let unknown = || "-".to_owned();
    let used = known.memory_used.map_or_else(unknown, text::size);
    let total = text::size(known.memory_total.unwrap_or(device.memory));
    let watts = |mw: Option<u32>| mw.map_or_else(unknown, |mw| (mw / 1000).to_string());
    let power = format!("{}/{} W", watts(known.power_mw), watts(known.power_limit_mw));
    vec![
        info.id.clone(),
        device.index.to_string(),
        device.model.clone(),
        format!("{used} / {total}"),
        known.utilization_percent.map_or_else(unknown, |percent| format!("{percent} %")),
        if known.power_mw.is_some() { power } else { unknown() },
        known.temperature_celsius.map_or_else(unknown, |celsius| format!("{celsius} °C")),
        user(node, device),
        health(node, device, sample, fresh.is_some()),
    ]
}

/// The job that holds it, with its rank.
fn user(node: &v1::Node, device: &v1::Device) -> String {
    let Some(held) = node.in_use.iter().find(|held| held.device == device.id) else { return String::new() };
    let name = if held.job_name.is_empty() { &held.job_id } else { &held.job_name };
    match held.rank {
        Some(rank) => format!("{name} (rank {rank})"),
        None => name.clone(),
    }
}

fn health(node: &v1::Node, device: &v1::Device, sample: Option<&v1::GpuSample>, fresh: bool) -> String {
    let problems: Vec<&v1::DeviceCondition> =
        node.device_conditions.iter().filter(|problem| problem.device == device.id).collect();
    if !problems.is_empty() {
        let style = if problems.iter().any(|p| p.blocks) { text::red() } else { text::yellow() };
        let mut names: Vec<&str> = problems.iter().map(|problem| problem.name.as_str()).collect();
        names.dedup();
        return paint(style, &names.join(", "));
    }
    let Some(sample) = sample.filter(|_| fresh) else { return paint(text::yellow(), "unknown") };
    let slow: Vec<&str> =
        sample.throttle_reasons.iter().map(String::as_str).filter(|r| r.starts_with("hw_")).collect();
    if !slow.is_empty() {
        return paint(text::yellow(), &slow.join(", "));
    }
    match &sample.last_xid {
        Some(xid) => format!("ok (Xid {} {} ago)", xid.code, text::age(xid.at_unix_ms)),
        None => paint(text::green(), "ok"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> v1::Node {
        let device = v1::Device {
            id: "GPU-1".into(),
            index: 3,
            kind: v1::DeviceKind::Gpu.into(),
            model: "NVIDIA H100".into(),
            memory: 80 << 30,
            ..Default::default()
        };
        let info = v1::NodeInfo { id: "a".into(), devices: vec![device], ..Default::default() };
        let sample = v1::GpuSample {
            device: "GPU-1".into(),
            at_unix_ms: 1_000,
            memory_used: Some(40 << 30),
            memory_total: Some(80 << 30),
            utilization_percent: Some(97),
            power_mw: Some(699_500),
            power_limit_mw: Some(700_000),
            temperature_celsius: Some(61),
            ..Default::default()
        };
        let held = v1::DeviceUse {
            device: "GPU-1".into(),
            job_name: "train".into(),
            rank: Some(5),
            ..Default::default()
        };
        v1::Node { info: Some(info), gpu_samples: vec![sample], in_use: vec![held], ..Default::default() }
    }

    fn cells(node: &v1::Node, now: u64) -> Vec<String> {
        let info = node.info.clone().unwrap();
        let cells = row(node, &info, &info.devices[0], now);
        cells.iter().map(|cell| anstream::adapter::strip_str(cell).to_string()).collect()
    }

    #[test]
    fn a_gpu_is_told_with_what_it_does_and_who_holds_it() {
        let told = [
            "a",
            "3",
            "NVIDIA H100",
            "40.0 GiB / 80.0 GiB",
            "97 %",
            "699/700 W",
            "61 °C",
            "train (rank 5)",
            "ok",
        ];
        assert_eq!(cells(&node(), 2_000), told);
    }

    #[test]
    fn what_was_told_long_ago_is_unknown() {
        let told = ["a", "3", "NVIDIA H100", "- / 80.0 GiB", "-", "-", "-", "train (rank 5)", "unknown"];
        assert_eq!(cells(&node(), 60_000), told);
    }

    #[test]
    fn a_problem_is_named_before_what_only_slows_it_down() {
        let mut node = node();
        node.gpu_samples[0].throttle_reasons = vec!["sw_power_cap".into(), "hw_thermal_slowdown".into()];
        assert_eq!(cells(&node, 2_000)[8], "hw_thermal_slowdown");
        let problem =
            v1::DeviceCondition { device: "GPU-1".into(), name: "GpuLost".into(), ..Default::default() };
        node.device_conditions = vec![problem];
        assert_eq!(cells(&node, 2_000)[8], "GpuLost");
    }
}
