//! `networks`, at the top and below services: taken as written, and without effect but for the aliases.
//!
//! Who shares a network in a Compose file finds the others by name. Here all services of a project find each
//! other, whatever their networks, so that the files of the guides run as they are.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::report::Report;

/// Why a network's definition changes nothing.
const NO_EFFECT: &str = "has no effect: all services of a project find each other by name, and gangs use the \
                         hosts' networks";
const ELSEWHERE: &str = "it is for the node's operator to make; name it with network_mode";

/// The names that services may use.
pub(crate) fn declared(root: &Cursor<'_>, report: &mut Report) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["default".to_owned()]);
    for (entry, at) in root.get("networks").map(|n| n.entries(report)).unwrap_or_default() {
        names.insert(entry.key.clone());
        at.only(
            report,
            &[
                "attachable",
                "driver",
                "driver_opts",
                "enable_ipv4",
                "enable_ipv6",
                "external",
                "internal",
                "ipam",
                "labels",
                "name",
            ],
            &[],
        );
        let driver = at.get("driver");
        match driver.as_ref().and_then(|d| d.node.as_str()) {
            None | Some("bridge" | "default" | "overlay") => {
                report.note(Some(&entry.place), at.path, NO_EFFECT);
            }
            Some(other) => {
                let message = format!("network driver \"{other}\" is not supported by Convoke: {ELSEWHERE}");
                driver.unwrap_or(at).refuse(report, message);
            }
        }
    }
    names
}

/// Checks those of a service; answers with its aliases in all of them.
pub(crate) fn of_service(
    service: &Cursor<'_>,
    declared: &BTreeSet<String>,
    report: &mut Report,
) -> Vec<String> {
    let mut aliases = Vec::new();
    let Some(networks) = service.get("networks") else { return aliases };
    if let Some(mode) = service.get("network_mode") {
        mode.refuse(report, "a service has either network_mode or networks; remove one of the two");
    }
    let names: Vec<(String, Cursor<'_>)> = if networks.is_map() {
        networks.entries(report).into_iter().map(|(entry, at)| (entry.key.clone(), at)).collect()
    } else {
        let items = networks.items(report, "networks, or a map");
        items.into_iter().filter_map(|at| at.string(report).map(|name| (name, at))).collect()
    };
    for (name, at) in &names {
        if !declared.contains(name) {
            at.refuse(report, format!("no network \"{name}\" under the top-level networks"));
        }
        if networks.is_map() {
            aliases.extend(
                options(at, report).into_iter().filter(|name| !aliases.contains(name)).collect::<Vec<_>>(),
            );
        }
    }
    networks.note(report, NO_EFFECT);
    aliases
}

fn options(at: &Cursor<'_>, report: &mut Report) -> Vec<String> {
    at.only(
        report,
        &[
            "aliases",
            "driver_opts",
            "gw_priority",
            "interface_name",
            "ipv4_address",
            "ipv6_address",
            "link_local_ips",
            "mac_address",
            "priority",
        ],
        &[],
    );
    for key in ["ipv4_address", "ipv6_address"] {
        if let Some(at) = at.get(key) {
            at.note(report, "has no effect: others reach this service by its name, at its node's address");
        }
    }
    at.get("aliases").map(|aliases| aliases.strings(report)).unwrap_or_default()
}
