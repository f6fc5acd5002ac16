//! What a `CUDA_VISIBLE_DEVICES` of the job's own makes of its reservation.

use convoke_model::DeviceCount;

use super::devices::Named;
use super::environment::Environment;
use crate::cursor::Cursor;
use crate::report::Report;

/// A `CUDA_VISIBLE_DEVICES` that fits within the reservation narrows it, and leaves the
/// environment: the runtime sets visibility to what was reserved. Answers with the GPUs of a node
/// that it names; within a mere number of them it names none.
pub(super) fn narrow(
    count: &mut DeviceCount,
    environment: &mut Environment,
    at: &Cursor<'_>,
    report: &mut Report,
) -> Option<Named> {
    const KEY: &str = "CUDA_VISIBLE_DEVICES";
    let (text, place) = environment.remove(KEY)?;
    let path = format!("{}.environment", at.path);
    let wanted: Vec<&str> = text.split(',').map(str::trim).collect();
    match narrowed(count, &wanted) {
        Ok(narrower) => {
            if narrower != *count {
                report.note(Some(&place), path.clone(), format!("{KEY}={text} narrows the reservation"));
            }
            let all = *count == DeviceCount::All;
            *count = narrower;
            let ids = match count {
                DeviceCount::Ids(ids) => ids.clone(),
                DeviceCount::Count(_) if all => wanted.iter().map(|id| (*id).to_owned()).collect(),
                DeviceCount::Count(_) | DeviceCount::All => return None,
            };
            Some(Named { ids, place, path })
        }
        Err(why) => {
            let message = format!(
                "{KEY}={text} {why}; remove it (a task sees exactly its reserved GPUs) or change the reservation"
            );
            report.problem(Some(&place), path, message);
            None
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
        // Beside services that name GPUs it is made those n again.
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
