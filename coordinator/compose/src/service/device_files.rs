//! `devices`: device files of the node that a task gets.

use crate::cursor::Cursor;
use crate::report::Report;
use crate::tree::Value;

/// As `HOST[:CONTAINER[:PERMISSIONS]]`.
pub(super) fn read(service: &Cursor<'_>, report: &mut Report) -> Vec<String> {
    let items = service.get("devices").map(|d| d.items(report, "device paths")).unwrap_or_default();
    let mut devices = Vec::new();
    for at in items {
        let Some(device) = one(&at, report) else { continue };
        let host = device.split(':').next().unwrap_or_default();
        if host.starts_with("/dev/nvidia") || host.starts_with("nvidia.com/") {
            at.refuse(
                report,
                format!(
                    "\"{host}\" would take a GPU past its reservation: ask for GPUs with gpus: or \
                     deploy.resources.reservations.devices, and their device files come by themselves"
                ),
            );
        } else {
            devices.push(device);
        }
    }
    devices
}

fn one(at: &Cursor<'_>, report: &mut Report) -> Option<String> {
    if !matches!(at.node.value, Value::Map(_)) {
        return at.string(report);
    }
    at.only(report, &["source", "target", "permissions"], &[]);
    let Some(source) = at.get("source").and_then(|s| s.string(report)) else {
        at.refuse(report, "needs a \"source\"");
        return None;
    };
    let part = |key, report: &mut Report| at.get(key).and_then(|p| p.string(report));
    let target = part("target", report).unwrap_or_else(|| source.clone());
    let permissions = part("permissions", report).unwrap_or_else(|| "rwm".to_owned());
    Some(format!("{source}:{target}:{permissions}"))
}
