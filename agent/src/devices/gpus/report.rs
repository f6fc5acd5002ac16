//! Samples on their way to the coordinator: the newest ones, once a second. One that did not get
//! there is not sent again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use convoke_proto::v1;
use tokio::time::timeout;
use tonic::Code;
use tracing::{debug, info};

use super::Gpus;
use super::state::{Gpu, Process};
use crate::link::Link;

/// A coordinator that is busy for so long gets the next samples instead.
const PATIENCE: Duration = Duration::from_secs(5);
/// Processes of one GPU that are told; the coordinator takes no more.
const MAX_PROCESSES: usize = 64;

/// Runs until the agent ends, or until it meets a coordinator that takes no samples.
pub async fn report(gpus: Gpus, link: Arc<Link>) {
    let mut state = gpus.state();
    while state.changed().await.is_ok() {
        let seen = state.borrow_and_update().clone();
        let samples: Vec<v1::GpuSample> = seen.gpus.iter().filter_map(wire).collect();
        if samples.is_empty() {
            continue;
        }
        match timeout(PATIENCE, send(&link, samples)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.code() == Code::Unimplemented => {
                return info!("this coordinator takes no GPU samples; it is older than this agent");
            }
            // The control stream says what is wrong with the connection.
            Ok(Err(error)) => debug!("GPU samples were not taken: {error}"),
            Err(_) => debug!("GPU samples were not taken in time"),
        }
    }
}

async fn send(link: &Link, samples: Vec<v1::GpuSample>) -> Result<(), tonic::Status> {
    let mut client = link.calls().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    client.report_gpus(v1::ReportGpusRequest { samples }).await.map(drop)
}

/// A GPU that is in trouble has no newest sample.
fn wire(gpu: &Gpu) -> Option<v1::GpuSample> {
    if gpu.trouble.is_some() {
        return None;
    }
    let sample = gpu.sample.as_ref()?;
    let (errors, nvlink, pcie) = (sample.errors, sample.nvlink, sample.pcie);
    Some(v1::GpuSample {
        device: gpu.device.id.to_string(),
        at_unix_ms: sample.at.0,
        utilization_percent: sample.utilization,
        memory_utilization_percent: sample.memory_utilization,
        memory_used: Some(sample.memory_used),
        memory_total: Some(sample.memory_total),
        power_mw: sample.power_mw,
        power_limit_mw: sample.power_limit_mw,
        temperature_celsius: sample.temperature,
        sm_clock_mhz: sample.sm_clock,
        memory_clock_mhz: sample.memory_clock,
        nvlink_sent_per_second: nvlink.map(|traffic| traffic.sent),
        nvlink_received_per_second: nvlink.map(|traffic| traffic.received),
        pcie_sent_per_second: pcie.map(|traffic| traffic.sent),
        pcie_received_per_second: pcie.map(|traffic| traffic.received),
        throttle_reasons: sample.throttle_reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        ecc_corrected: errors.corrected,
        ecc_uncorrected: errors.uncorrected,
        remapped_rows: errors.remapped_rows,
        last_xid: gpu.last_xid.map(|xid| v1::GpuXid { code: xid.code, at_unix_ms: xid.at.0 }),
        processes: sample.processes.iter().take(MAX_PROCESSES).map(process).collect(),
    })
}

fn process(process: &Process) -> v1::GpuProcess {
    let (user, name) = who(process.pid);
    v1::GpuProcess { pid: process.pid, user, name, memory: process.memory }
}

/// The user and the name of a process; empty if it is gone, or not this host's.
pub(super) fn who(pid: u32) -> (String, String) {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let user = fs::metadata(format!("/proc/{pid}")).map(|found| user(found.uid())).unwrap_or_default();
    (user, name.trim_end().to_owned())
}

/// By `/etc/passwd`; the number of one that it does not have.
fn user(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_with_its_user_and_name_and_one_that_is_gone_with_neither() {
        let (user, name) = who(std::process::id());
        assert!(!user.is_empty() && !name.is_empty());
        assert_eq!(who(u32::MAX), (String::new(), String::new()));
        assert_eq!(super::user(0), "root");
        assert_eq!(super::user(3_999_999), "3999999");
    }
}
