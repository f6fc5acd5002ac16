//! Devices per replica: `deploy.resources.reservations.devices`, `gpus`, and what `runtime` and
//! NVIDIA's variables mean beside them.

use convoke_model::{DeviceCount, DeviceKind, DeviceRequest, MAX_DEVICES_PER_REPLICA};

use super::environment::Environment;
use super::narrow;
use crate::cursor::Cursor;
use crate::report::{Place, Report};

/// The variable of NVIDIA's container runtime that would choose GPUs past the reservation.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// Devices per replica, and the GPUs that the service names among them.
pub(super) struct Devices {
    pub(super) request: DeviceRequest,
    pub(super) named: Option<Named>,
}

/// GPUs by name, and where they were named.
pub(super) struct Named {
    pub(super) ids: Vec<String>,
    pub(super) place: Place,
    pub(super) path: String,
}

/// `needs_slot`: what takes no device takes a CPU slot, as host processes do and ranks that are one
/// per device. A container, such as a dashboard beside a training, may do without.
pub(super) fn read(
    at: &Cursor<'_>,
    needs_slot: bool,
    environment: &mut Environment,
    report: &mut Report,
) -> Devices {
    let reserved = at
        .get("deploy")
        .and_then(|d| d.get("resources"))
        .and_then(|r| r.get("reservations"))
        .and_then(|r| r.get("devices"));
    let request = match (reserved, at.get("gpus")) {
        (Some(_), Some(gpus)) => {
            gpus.refuse(
                report,
                "devices are already reserved under deploy.resources.reservations; keep one of the two",
            );
            None
        }
        (Some(reserved), None) => one_request(&reserved, false, report),
        (None, Some(gpus)) if gpus.is_scalar() => gpu_count(&gpus, report).map(|count| (gpu(count), None)),
        (None, Some(gpus)) => one_request(&gpus, true, report),
        (None, None) => None,
    };
    let count = DeviceCount::Count(u32::from(needs_slot));
    let (mut request, ids) = request.unwrap_or((DeviceRequest { kind: DeviceKind::Cpu, count }, None));
    let is_gpu = request.kind == DeviceKind::Gpu;
    runtime(at, is_gpu, report);
    if let Some((_, place)) = environment.remove(VISIBLE) {
        let message = if is_gpu {
            format!("{VISIBLE} is ignored: a task sees the GPUs that are reserved for it")
        } else {
            format!("{VISIBLE} is ignored, and {NONE_RESERVED}")
        };
        report.note(Some(&place), format!("{}.environment", at.path), message);
    }
    let mut named = ids.map(|at| Named {
        ids: at.strings(&mut Report::default()),
        place: at.node.place.clone(),
        path: at.path,
    });
    if is_gpu && let Some(narrowed) = narrow::narrow(&mut request.count, environment, at, report) {
        named = Some(narrowed);
    }
    Devices { request, named: named.filter(|_| is_gpu) }
}

const NONE_RESERVED: &str =
    "this service reserves no GPU, so it gets none: add \"gpus: all\", or a number of them";

/// `runtime`, which chose GPUs before Compose could reserve them.
fn runtime(at: &Cursor<'_>, is_gpu: bool, report: &mut Report) {
    let Some(runtime) = at.get("runtime") else { return };
    match runtime.text(report) {
        Some("nvidia") if !is_gpu => runtime.note(report, format!("has no effect, and {NONE_RESERVED}")),
        Some("nvidia") => {
            runtime.note(report, "has no effect: GPUs are given to a task by its device reservation");
        }
        Some("runc") => runtime.note(report, "has no effect: it is the default"),
        Some(other) => runtime.refuse(
            report,
            format!("runtime \"{other}\" is not supported by Convoke: it is for the node's operator to set"),
        ),
        None => {}
    }
}

fn gpu(count: DeviceCount) -> DeviceRequest {
    DeviceRequest { kind: DeviceKind::Gpu, count }
}

/// `all` or a number.
fn gpu_count(at: &Cursor<'_>, report: &mut Report) -> Option<DeviceCount> {
    match at.node.as_str().map(str::trim) {
        Some("all" | "-1") => return Some(DeviceCount::All),
        Some(text) => {
            if let Some(n) = text.parse().ok().filter(|n| (1..=MAX_DEVICES_PER_REPLICA).contains(n)) {
                return Some(DeviceCount::Count(n));
            }
        }
        None => {}
    }
    let found = at.node.as_str().unwrap_or(at.node.kind());
    at.refuse(
        report,
        format!("expected \"all\" or a number from 1 to {MAX_DEVICES_PER_REPLICA}, found \"{found}\""),
    );
    None
}

/// A request, with its `device_ids` where it has them.
type Request<'a> = (DeviceRequest, Option<Cursor<'a>>);

fn one_request<'a>(at: &Cursor<'a>, gpus: bool, report: &mut Report) -> Option<Request<'a>> {
    let requests = at.items(report, "device requests");
    if let Some(second) = requests.get(1) {
        second.refuse(report, "a second device request; a service takes one kind of device, in one request");
    }
    one(requests.first()?, gpus, report)
}

fn one<'a>(at: &Cursor<'a>, gpus: bool, report: &mut Report) -> Option<Request<'a>> {
    at.only(report, &["driver", "count", "device_ids", "capabilities", "options"], &[]);
    if let Some(options) = at.get("options") {
        options.note(report, "has no effect");
    }
    let words = [("nvidia", DeviceKind::Gpu), ("gpu", DeviceKind::Gpu), ("cpu", DeviceKind::Cpu)];
    let kind = match at.get("driver") {
        Some(driver) => driver.word(report, &words)?,
        None => DeviceKind::Gpu,
    };
    match at.get("capabilities") {
        Some(capabilities) if kind == DeviceKind::Gpu => {
            let known = ["gpu", "nvidia", "compute", "utility", "graphics", "video", "display"];
            let given = capabilities.strings(report);
            if given.is_empty() || given.iter().any(|c| !known.contains(&c.as_str())) {
                capabilities.refuse(report, format!("expected [gpu], found [{}]", given.join(", ")));
            }
        }
        None if kind == DeviceKind::Gpu && !gpus => {
            at.refuse(report, "needs \"capabilities: [gpu]\" (or \"driver: cpu\" for CPU slots)");
        }
        _ => {}
    }
    let ids = at.get("device_ids");
    let count = match (at.get("count"), &ids) {
        (Some(_), Some(ids)) => {
            ids.refuse(report, "count and device_ids exclude each other; keep one");
            return None;
        }
        (Some(count), None) => gpu_count(&count, report)?,
        (None, Some(ids)) => DeviceCount::Ids(identifiers(ids, report)?),
        (None, None) => DeviceCount::All,
    };
    Some((DeviceRequest { kind, count }, ids))
}

fn identifiers(at: &Cursor<'_>, report: &mut Report) -> Option<Vec<String>> {
    let ids = at.strings(report);
    let twice = (1..ids.len()).find(|i| ids[..*i].contains(&ids[*i]));
    match twice {
        Some(i) => at.refuse(report, format!("names device \"{}\" twice", ids[i])),
        None if ids.is_empty() => at.refuse(report, "names no device; leave it out for all of them"),
        None if ids.iter().any(String::is_empty) => at.refuse(report, "holds an empty device name"),
        None => return Some(ids),
    }
    None
}
