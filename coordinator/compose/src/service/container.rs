//! The keys that only a container runtime honours, gathered into [`ContainerOptions`].

use std::collections::BTreeMap;

use convoke_model::{ContainerOptions, DependsCondition, FileGrant, Healthcheck, MountKind, Ulimit};

use super::{Scope, build, device_files, mounts, network};
use crate::cursor::{Cursor, Unsupported};
use crate::files::from_home;
use crate::networks;
use crate::report::Report;

pub(super) fn read(scope: &Scope<'_>, at: &Cursor<'_>, report: &mut Report) -> ContainerOptions {
    let mounts = mounts::read(scope, at, report);
    let aliases = networks::of_service(at, &scope.top.networks, report);
    let string = |key, report: &mut Report| at.get(key).and_then(|s| s.string(report));
    let top = scope.top;
    let named = mounts.volumes.iter().filter(|mount| mount.kind == MountKind::Volume);
    let external =
        named.map(|mount| mount.source.clone()).filter(|name| top.external.contains(name)).collect();
    ContainerOptions {
        external_volumes: external,
        container_name: at.get("container_name").and_then(|at| container_name(&at, report)),
        build: at.get("build").and_then(|b| build::read(scope, &b, report)),
        volumes: mounts.volumes,
        tmpfs: mounts.tmpfs,
        shm_size: at.get("shm_size").and_then(|s| s.bytes(report)),
        ipc: network::ipc(at.get("ipc"), report),
        ulimits: at.get("ulimits").map(|u| ulimits(&u, report)).unwrap_or_default(),
        user: string("user", report),
        init: at.get("init").and_then(|i| i.boolean(report)),
        cap_add: at.get("cap_add").map(|c| c.strings(report)).unwrap_or_default(),
        labels: at.get("labels").map(|l| labels(&l, report)).unwrap_or_default(),
        ports: network::ports(at, report),
        expose: network::expose(at, report),
        healthcheck: at.get("healthcheck").and_then(|h| healthcheck(&h, report)),
        secrets: at
            .get("secrets")
            .map(|s| grants(scope, &s, &top.secrets, "secrets", report))
            .unwrap_or_default(),
        configs: at
            .get("configs")
            .map(|c| grants(scope, &c, &top.configs, "configs", report))
            .unwrap_or_default(),
        depends_on: at.get("depends_on").map(|d| depends_on(scope, &d, report)).unwrap_or_default(),
        devices: device_files::read(at, report),
        network_mode: network::network_mode(at.get("network_mode"), report),
        hostname: string("hostname", report),
        extra_hosts: network::extra_hosts(at, report),
        dns: at.get("dns").map(|d| network::dns(&d, report)).unwrap_or_default(),
        group_add: at.get("group_add").map(|g| g.strings(report)).unwrap_or_default(),
        sysctls: at.get("sysctls").map(|s| labels(&s, report)).unwrap_or_default(),
        // What only the submitter's engine knows.
        image_digest: None,
        image_content: None,
        aliases,
    }
}

/// What the engine takes as a name.
fn container_name(at: &Cursor<'_>, report: &mut Report) -> Option<String> {
    let name = at.string(report)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
        return Some(name);
    }
    at.refuse(
        report,
        format!(
            "\"{name}\" is no name of a container: a letter or digit, then those, \"_\", \".\" and \"-\""
        ),
    );
    None
}

fn labels(at: &Cursor<'_>, report: &mut Report) -> BTreeMap<String, String> {
    at.pairs(report).into_iter().map(|(key, value, _)| (key, value.unwrap_or_default())).collect()
}

fn ulimits(at: &Cursor<'_>, report: &mut Report) -> BTreeMap<String, Ulimit> {
    const WHAT: &str = "a number, or -1 for no limit";
    let limit = |at: &Cursor<'_>, report: &mut Report| {
        let value: i64 = at.number(report, WHAT)?;
        if value < -1 {
            at.refuse(report, format!("expected {WHAT}, found \"{value}\""));
            return None;
        }
        Some(value)
    };
    let mut ulimits = BTreeMap::new();
    for (entry, at) in at.entries(report) {
        let ulimit = if at.is_map() {
            at.only(report, &["soft", "hard"], &[]);
            match (at.get("soft"), at.get("hard")) {
                (Some(soft), Some(hard)) => limit(&soft, report).zip(limit(&hard, report)),
                _ => {
                    at.refuse(report, "needs both \"soft\" and \"hard\"");
                    None
                }
            }
        } else {
            limit(&at, report).map(|both| (both, both))
        };
        if let Some((soft, hard)) = ulimit {
            ulimits.insert(entry.key.clone(), Ulimit { soft, hard });
        }
    }
    ulimits
}

fn healthcheck(at: &Cursor<'_>, report: &mut Report) -> Option<Healthcheck> {
    at.only(
        report,
        &["test", "interval", "timeout", "start_period", "start_interval", "retries", "disable"],
        &[],
    );
    if let Some(interval) = at.get("start_interval") {
        interval.note(report, "has no effect");
    }
    let disabled = at.get("disable").and_then(|d| d.boolean(report)).unwrap_or(false);
    let test = if disabled { vec!["NONE".to_owned()] } else { test(at, report)? };
    let duration = |key, report: &mut Report| at.get(key).and_then(|d| d.duration(report));
    let check = Healthcheck {
        test,
        interval: duration("interval", report),
        timeout: duration("timeout", report),
        start_period: duration("start_period", report),
        retries: at.get("retries").and_then(|r| r.count(report)),
    };
    let nothing =
        Healthcheck { test: Vec::new(), interval: None, timeout: None, start_period: None, retries: None };
    (check != nothing).then_some(check)
}

fn test(at: &Cursor<'_>, report: &mut Report) -> Option<Vec<String>> {
    // Without one the image's own test goes on, with the times given here.
    let Some(test) = at.get("test") else { return Some(Vec::new()) };
    if test.is_scalar() {
        return Some(vec!["CMD-SHELL".to_owned(), test.string(report)?]);
    }
    let words = test.strings(report);
    match words.first().map(String::as_str) {
        Some("NONE" | "CMD" | "CMD-SHELL") => Some(words),
        first => {
            let found = first.unwrap_or("an empty list");
            test.refuse(report, format!("a test list starts with NONE, CMD or CMD-SHELL, found {found}"));
            None
        }
    }
}

fn grants(
    scope: &Scope<'_>,
    at: &Cursor<'_>,
    known: &BTreeMap<String, String>,
    key: &str,
    report: &mut Report,
) -> Vec<FileGrant> {
    const UNSUPPORTED: &Unsupported = &[];
    let mut grants = Vec::new();
    for at in at.items(report, "names") {
        let long = at.is_map();
        if long {
            at.only(report, &["source", "target", "uid", "gid", "mode"], UNSUPPORTED);
            for key in ["uid", "gid", "mode"] {
                if let Some(at) = at.get(key) {
                    at.note(report, "has no effect");
                }
            }
        }
        let source = if long { at.get("source") } else { Some(at.clone()) };
        let Some(source) = source else {
            at.refuse(report, "needs a \"source\"");
            continue;
        };
        let Some(name) = source.string(report) else { continue };
        let Some(file) = known.get(&name) else {
            source.refuse(report, format!("no \"{name}\" under the top-level {key}"));
            continue;
        };
        let target = if long { at.get("target").and_then(|t| t.string(report)) } else { None };
        grants.push(FileGrant {
            source: name,
            file: Some(from_home(scope.vars, file)),
            target,
            content: None,
        });
    }
    grants
}

fn depends_on(scope: &Scope<'_>, at: &Cursor<'_>, report: &mut Report) -> BTreeMap<String, DependsCondition> {
    let conditions = [
        ("service_started", DependsCondition::Started),
        ("service_healthy", DependsCondition::Healthy),
        ("service_completed_successfully", DependsCondition::CompletedSuccessfully),
    ];
    let mut wanted = Vec::new();
    if at.is_map() {
        for (entry, at) in at.entries(report) {
            at.only(report, &["condition", "required", "restart"], &[]);
            if let Some(restart) = at.get("restart") {
                restart.note(report, "has no effect");
            }
            let condition = at.get("condition").and_then(|c| c.word(report, &conditions));
            let required = at.get("required").and_then(|r| r.boolean(report)).unwrap_or(true);
            wanted.push((entry.key.clone(), condition.unwrap_or(DependsCondition::Started), required, at));
        }
    } else {
        for at in at.items(report, "services, or a map") {
            if let Some(name) = at.string(report) {
                wanted.push((name, DependsCondition::Started, true, at));
            }
        }
    }
    let mut depends = BTreeMap::new();
    for (name, condition, required, at) in wanted {
        if scope.active.contains(&name.as_str()) {
            depends.insert(name, condition);
        } else if required {
            at.refuse(
                report,
                format!(
                    "no service \"{name}\" is selected; check the name, its profiles, or set required: false"
                ),
            );
        }
    }
    depends
}
