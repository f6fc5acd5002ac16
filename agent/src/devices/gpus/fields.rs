//! Byte counters of NVLink and PCIe, which nvml-wrapper cannot ask for: it always asks for link 0.

use std::time::Instant;

use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::{field_id, nvmlFieldValue_t};

use super::state::Traffic;

/// The sum over all links.
const ALL_LINKS: u32 = u32::MAX;
/// NVLink's counters count KiB.
const KIB: u64 = 1024;

/// What was counted when; `None` where the GPU does not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    at: Instant,
    nvlink: Option<Counted>,
    pcie: Option<Counted>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    sent: u64,
    received: u64,
}

impl Counters {
    pub(super) fn read(device: &Device<'_>) -> Self {
        let [nvlink_sent, nvlink_received, pcie_sent, pcie_received] = values(
            device,
            [
                (field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS),
                (field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS),
                (field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
                (field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
            ],
        );
        let counted =
            |sent: Option<u64>, received: Option<u64>| Some(Counted { sent: sent?, received: received? });
        let kib = |value: Option<u64>| value.map(|kib| kib.saturating_mul(KIB));
        Self {
            at: Instant::now(),
            nvlink: counted(kib(nvlink_sent), kib(nvlink_received)),
            pcie: counted(pcie_sent, pcie_received),
        }
    }

    pub(super) fn counts_pcie(&self) -> bool {
        self.pcie.is_some()
    }

    /// Rates since `before`: NVLink's, then PCIe's.
    pub(super) fn since(&self, before: &Self) -> (Option<Traffic>, Option<Traffic>) {
        let millis = u64::try_from((self.at - before.at).as_millis()).unwrap_or(u64::MAX);
        let rate = |now: Option<Counted>, before: Option<Counted>| traffic(before?, now?, millis);
        (rate(self.nvlink, before.nvlink), rate(self.pcie, before.pcie))
    }
}

/// `None` if a counter has wrapped, or no time has passed.
fn traffic(before: Counted, now: Counted, millis: u64) -> Option<Traffic> {
    let per_second = |before: u64, now: u64| {
        let bytes = u128::from(now.checked_sub(before)?);
        u64::try_from((bytes * 1000).checked_div(u128::from(millis))?).ok()
    };
    Some(Traffic {
        sent: per_second(before.sent, now.sent)?,
        received: per_second(before.received, now.received)?,
    })
}

fn values<const N: usize>(device: &Device<'_>, wanted: [(u32, u32); N]) -> [Option<u64>; N] {
    const UNSIGNED_INT: u32 = 1;
    const UNSIGNED_LONG: u32 = 2;
    const UNSIGNED_LONG_LONG: u32 = 3;
    let Ok(call) = &device.nvml().lib().nvmlDeviceGetFieldValues else { return [None; N] };
    let mut fields = wanted.map(|(id, scope)| {
        // SAFETY: a C structure of numbers; all zeros is a value of it.
        let mut field: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
        (field.fieldId, field.scopeId) = (id, scope);
        field
    });
    let count = i32::try_from(N).unwrap_or(0);
    // SAFETY: the handle is of the library that is called, which outlives the device, and `fields` has
    // room for `count` values.
    let returned = unsafe { call(device.handle(), count, fields.as_mut_ptr()) };
    if returned != 0 {
        return [None; N];
    }
    fields.map(|field| {
        if field.nvmlReturn != 0 {
            return None;
        }
        // SAFETY: the type says which member was written.
        match field.valueType {
            UNSIGNED_INT => Some(u64::from(unsafe { field.value.uiVal })),
            UNSIGNED_LONG => Some(unsafe { field.value.ulVal }),
            UNSIGNED_LONG_LONG => Some(unsafe { field.value.ullVal }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_counted_over_the_time_between_and_a_counter_that_wrapped_tells_none() {
        let before = Counted { sent: 1_000, received: 0 };
        let now = Counted { sent: 3_000, received: 500 };
        assert_eq!(traffic(before, now, 500), Some(Traffic { sent: 4_000, received: 1_000 }));
        assert_eq!(traffic(now, before, 500), None);
        assert_eq!(traffic(before, now, 0), None);
    }
}
