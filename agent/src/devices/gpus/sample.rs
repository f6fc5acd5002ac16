//! One look at one GPU. Each call is a few microseconds to a millisecond; two are not made every
//! second: memory errors, and PCIe's traffic where the GPU keeps no counters (20 ms a direction).

use std::collections::BTreeMap;

use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;

use super::fields::Counters;
use super::state::{Errors, Process, Sample, Traffic};
use crate::clock::now;

/// PCIe's rate is told in KiB per second.
const KIB: u64 = 1024;

/// What is to be read besides what always is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) errors: bool,
    /// Measure PCIe's traffic if the GPU does not count it.
    pub(super) pcie: bool,
}

/// Reads everything. What this turn leaves out is taken from `before`.
///
/// # Errors
/// The GPU, or all of NVML, does not answer.
pub(super) fn look(
    device: &Device<'_>,
    before: Option<&(Sample, Counters)>,
    turn: Turn,
) -> Result<(Sample, Counters), NvmlError> {
    let memory = device.memory_info()?;
    let utilization = told(device.utilization_rates())?;
    let counters = Counters::read(device);
    let (nvlink, pcie) = before.map_or((None, None), |(_, before)| counters.since(before));
    let last = before.map(|(sample, _)| sample);
    let pcie = match (counters.counts_pcie(), turn.pcie) {
        (true, _) => pcie,
        (false, true) => measured_pcie(device)?,
        (false, false) => last.and_then(|sample| sample.pcie),
    };
    let errors = if turn.errors { errors(device)? } else { last.map(|s| s.errors).unwrap_or_default() };
    let sample = Sample {
        at: now(),
        utilization: utilization.as_ref().map(|u| u.gpu),
        memory_utilization: utilization.as_ref().map(|u| u.memory),
        memory_used: memory.used,
        memory_total: memory.total,
        power_mw: told(device.power_usage())?,
        power_limit_mw: told(device.enforced_power_limit())?,
        temperature: told(device.temperature(TemperatureSensor::Gpu))?,
        sm_clock: told(device.clock_info(Clock::SM))?,
        memory_clock: told(device.clock_info(Clock::Memory))?,
        nvlink,
        pcie,
        throttle_reasons: told(device.current_throttle_reasons())?.map(words).unwrap_or_default(),
        processes: processes(device)?,
        errors,
    };
    Ok((sample, counters))
}

/// `None` is what this GPU or this driver does not tell.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) || ends_session(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The GPU itself is at fault, not the question.
fn is_gone(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired)
}

/// Nothing will be answered before NVML is opened anew.
pub(super) fn ends_session(error: &NvmlError) -> bool {
    matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)
}

fn measured_pcie(device: &Device<'_>) -> Result<Option<Traffic>, NvmlError> {
    let rate = |counter| told(device.pcie_throughput(counter)).map(|kib| kib.map(|kib| u64::from(kib) * KIB));
    let (sent, received) = (rate(PcieUtilCounter::Send)?, rate(PcieUtilCounter::Receive)?);
    Ok(sent.zip(received).map(|(sent, received)| Traffic { sent, received }))
}

fn processes(device: &Device<'_>) -> Result<Vec<Process>, NvmlError> {
    let lists = [told(device.running_compute_processes())?, told(device.running_graphics_processes())?];
    let mut found = BTreeMap::new();
    for list in lists.into_iter().flatten() {
        for process in list {
            let memory = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            found.entry(process.pid).or_insert(Process { pid: process.pid, memory });
        }
    }
    Ok(found.into_values().collect())
}

fn errors(device: &Device<'_>) -> Result<Errors, NvmlError> {
    let ecc = |kind| told(device.total_ecc_errors(kind, EccCounter::Volatile));
    let rows = told(device.field_values_for(&[
        FieldId(field_id::NVML_FI_DEV_REMAPPED_COR),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_UNC),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_PENDING),
        FieldId(field_id::NVML_FI_DEV_REMAPPED_FAILURE),
    ]))?;
    let row = |n: usize| match rows.as_ref()?.get(n)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(value) => Some(*value),
        SampleValue::U64(value) => u32::try_from(*value).ok(),
        SampleValue::F64(_) | SampleValue::I64(_) => None,
    };
    let pages_pending = told(device.are_pages_pending_retired())?.unwrap_or(false);
    Ok(Errors {
        corrected: ecc(MemoryError::Corrected)?,
        uncorrected: ecc(MemoryError::Uncorrected)?,
        remapped_rows: row(0).zip(row(1)).map(|(corrected, not)| corrected.saturating_add(not)),
        reset_pending: pages_pending || row(2).is_some_and(|pending| pending > 0),
        remap_failed: row(3).is_some_and(|failed| failed > 0),
    })
}

/// Why clocks are low, but for idleness.
fn words(reasons: ThrottleReasons) -> Vec<&'static str> {
    let all = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications_clocks"),
        (ThrottleReasons::SW_POWER_CAP, "sw_power_cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hw_slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync_boost"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw_thermal_slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw_thermal_slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display_clocks"),
    ];
    all.iter().filter(|(reason, _)| reasons.contains(*reason)).map(|(_, word)| *word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_cannot_tell_is_unknown_and_a_gpu_that_is_gone_is_an_error() {
        assert!(matches!(told::<u32>(Err(NvmlError::NotSupported)), Ok(None)));
        assert!(matches!(told::<u32>(Err(NvmlError::FailedToLoadSymbol("x".to_owned()))), Ok(None)));
        assert!(matches!(told::<u32>(Err(NvmlError::GpuLost)), Err(NvmlError::GpuLost)));
        assert!(told::<u32>(Err(NvmlError::Uninitialized)).is_err());
    }

    #[test]
    fn an_idle_gpu_is_not_slowed_down() {
        assert!(words(ThrottleReasons::GPU_IDLE).is_empty());
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_SLOWDOWN;
        assert_eq!(words(both), ["sw_power_cap", "hw_slowdown"]);
    }
}
