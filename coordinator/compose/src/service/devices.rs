//! Devices per replica: `deploy.resources.reservations.devices`, `gpus`, and what a
//! `CUDA_VISIBLE_DEVICES` of the job's own makes of them.

use convoke_model::{DeviceCount, DeviceKind, DeviceRequest, MAX_DEVICES_PER_REPLICA};

use super::environment::Environment;
use crate::cursor::Cursor;
use crate::report::Report;

/// Without a request a replica takes one CPU slot.
const DEFAULT: DeviceRequest = DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::Count(1) };

pub(super) fn read(at: &Cursor<'_>, environment: &mut Environment, report: &mut Report) -> DeviceRequest {
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
        (None, Some(gpus)) if gpus.is_scalar() => gpu_count(&gpus, report).map(gpu),
        (None, Some(gpus)) => one_request(&gpus, true, report),
        (None, None) => None,
    };
    let mut request = request.unwrap_or(DEFAULT);
    if let Some((_, place)) = environment.remove("NVIDIA_VISIBLE_DEVICES") {
        let message = "NVIDIA_VISIBLE_DEVICES is ignored: a task sees the GPUs that are reserved for it";
        report.note(Some(&place), format!("{}.environment", at.path), message);
    }
    if request.kind == DeviceKind::Gpu {
        narrow(&mut request.count, environment, at, report);
    }
    request
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

fn one_request(at: &Cursor<'_>, gpus: bool, report: &mut Report) -> Option<DeviceRequest> {
    let requests = at.items(report, "device requests");
    if let Some(second) = requests.get(1) {
        second.refuse(report, "a second device request; a service takes one kind of device, in one request");
    }
    one(requests.first()?, gpus, report)
}

fn one(at: &Cursor<'_>, gpus: bool, report: &mut Report) -> Option<DeviceRequest> {
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
    let count = match (at.get("count"), at.get("device_ids")) {
        (Some(_), Some(ids)) => {
            ids.refuse(report, "count and device_ids exclude each other; keep one");
            return None;
        }
        (Some(count), None) => gpu_count(&count, report)?,
        (None, Some(ids)) => DeviceCount::Ids(identifiers(&ids, report)?),
        (None, None) => DeviceCount::All,
    };
    Some(DeviceRequest { kind, count })
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

/// A `CUDA_VISIBLE_DEVICES` that fits within the reservation narrows it, and leaves the
/// environment: the runtime sets visibility to what was reserved.
fn narrow(count: &mut DeviceCount, environment: &mut Environment, at: &Cursor<'_>, report: &mut Report) {
    const KEY: &str = "CUDA_VISIBLE_DEVICES";
    let Some((text, place)) = environment.remove(KEY) else { return };
    let wanted: Vec<&str> = text.split(',').map(str::trim).collect();
    match narrowed(count, &wanted) {
        Ok(narrower) => {
            if narrower != *count {
                report.note(
                    Some(&place),
                    format!("{}.environment", at.path),
                    format!("{KEY}={text} narrows the reservation"),
                );
            }
            *count = narrower;
        }
        Err(why) => {
            let message = format!(
                "{KEY}={text} {why}; remove it (a task sees exactly its reserved GPUs) or change the reservation"
            );
            report.problem(Some(&place), format!("{}.environment", at.path), message);
        }
    }
}

fn narrowed(count: &DeviceCount, wanted: &[&str]) -> Result<DeviceCount, String> {
    let text = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    if (1..wanted.len()).any(|i| wanted[..i].contains(&wanted[i])) {
        return Err("names a device twice".to_owned());
    }
    if wanted.iter().all(|w| w.starts_with("GPU-") || w.starts_with("MIG-")) {
        return match count {
            DeviceCount::All => Ok(DeviceCount::Ids(text(wanted))),
            DeviceCount::Ids(ids) if wanted.iter().all(|w| ids.iter().any(|id| id == w)) => {
                Ok(DeviceCount::Ids(text(wanted)))
            }
            DeviceCount::Ids(_) => Err("names a GPU that device_ids does not".to_owned()),
            DeviceCount::Count(_) => Err("names GPUs, but the reservation only counts them".to_owned()),
        };
    }
    let indices: Option<Vec<usize>> = wanted.iter().map(|w| w.parse().ok()).collect();
    let indices = indices.ok_or("is not a list of GPU indices or UUIDs")?;
    let taken = u32::try_from(indices.len()).map_err(|_| "is too long")?;
    let outside = |n: usize| {
        indices.iter().find(|i| **i >= n).map(|i| format!("names index {i}, but {n} are reserved"))
    };
    match count {
        // The first n of all is a number: any n GPUs do, and their indices within the task agree.
        DeviceCount::All if indices.iter().enumerate().all(|(i, x)| i == *x) => Ok(DeviceCount::Count(taken)),
        DeviceCount::All => Ok(DeviceCount::Ids(text(wanted))),
        DeviceCount::Count(n) => match outside(usize::try_from(*n).unwrap_or(usize::MAX)) {
            Some(why) => Err(why),
            None => Ok(DeviceCount::Count(taken)),
        },
        DeviceCount::Ids(ids) => match outside(ids.len()) {
            Some(why) => Err(why),
            None => Ok(DeviceCount::Ids(indices.iter().map(|i| ids[*i].clone()).collect())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_narrow_what_they_fit_into() {
        let ids = |list: &[&str]| DeviceCount::Ids(list.iter().map(|s| (*s).to_owned()).collect());
        let all = DeviceCount::All;
        assert_eq!(narrowed(&all, &["0", "1", "2", "3"]), Ok(DeviceCount::Count(4)));
        assert_eq!(narrowed(&all, &["4", "5"]), Ok(ids(&["4", "5"])));
        assert_eq!(narrowed(&DeviceCount::Count(4), &["2", "3"]), Ok(DeviceCount::Count(2)));
        assert_eq!(narrowed(&ids(&["6", "7"]), &["1"]), Ok(ids(&["7"])));
        assert!(narrowed(&DeviceCount::Count(2), &["2"]).unwrap_err().contains("index 2"));
        for bad in [&["0", "0"][..], &[""], &["-1"], &["x"]] {
            assert!(narrowed(&DeviceCount::Count(2), bad).is_err(), "{bad:?}");
        }
    }
}
