//! `deploy`, and `restart` beside it: nodes, limits, the restart budget, constraints.

use std::time::Duration;

use convoke_model::{Constraint, ConstraintSubject, MAX_REPLICAS, ResourceLimits, RestartPolicy};

use crate::cursor::{Cursor, Unsupported};
use crate::report::Report;
use crate::units;

const KNOWN: [&str; 6] = ["mode", "replicas", "labels", "placement", "resources", "restart_policy"];
const UNSUPPORTED: &Unsupported = &[
    ("endpoint_mode", "gangs use the hosts' networks; remove it"),
    ("update_config", "submit again with convoke up --replace"),
    ("rollback_config", "submit again with convoke up --replace"),
];

/// What `deploy` says, devices aside.
pub(super) struct Deploy {
    pub(super) replicas: u32,
    pub(super) limits: ResourceLimits,
    pub(super) restart: RestartPolicy,
    pub(super) constraints: Vec<Constraint>,
}

pub(super) fn read(service: &Cursor<'_>, nodes: Option<u32>, report: &mut Report) -> Deploy {
    let deploy = service.get("deploy");
    deploy.iter().for_each(|d| header(d, report));
    let written =
        Twice { short: service.get("scale"), long: deploy.as_ref().and_then(|d| d.get("replicas")) }
            .read(report, replicas);
    let resources = deploy.as_ref().and_then(|d| d.get("resources"));
    let policy = deploy.as_ref().and_then(|d| d.get("restart_policy"));
    let replicas = nodes.or(written).unwrap_or(1);
    Deploy {
        replicas,
        limits: limits(service, resources.as_ref(), report),
        restart: restart(policy, service.get("restart"), replicas > 1, report),
        constraints: deploy
            .and_then(|d| d.get("placement"))
            .map(|p| placement(&p, report))
            .unwrap_or_default(),
    }
}

/// What may be written in two places: with a word of the service's own from before `deploy`, or there.
struct Twice<'a> {
    short: Option<Cursor<'a>>,
    long: Option<Cursor<'a>>,
}

impl Twice<'_> {
    /// Refuses two that differ.
    fn read<T: PartialEq>(
        self,
        report: &mut Report,
        read: impl Fn(&Cursor<'_>, &mut Report) -> Option<T>,
    ) -> Option<T> {
        let long = self.long.as_ref().and_then(|at| read(at, report));
        let Some(at) = self.short else { return long };
        let short = read(&at, report);
        if let (Some(_), Some(long_at)) = (&long, &self.long)
            && short != long
        {
            at.refuse(report, format!("says something else than {}; remove one of the two", long_at.path));
        }
        long.or(short)
    }
}

/// Checks the plain keys.
fn header(at: &Cursor<'_>, report: &mut Report) {
    at.only(report, &KNOWN, UNSUPPORTED);
    if let Some(mode) = at.get("mode")
        && mode.text(report).is_some_and(|m| m != "replicated")
    {
        mode.refuse(
            report,
            "only \"replicated\" is supported by Convoke: say the number of nodes with replicas",
        );
    }
    if let Some(labels) = at.get("labels") {
        labels.note(report, "has no effect; labels of the service itself are kept");
    }
}

fn replicas(at: &Cursor<'_>, report: &mut Report) -> Option<u32> {
    let what = format!("a number of nodes from 1 to {MAX_REPLICAS}");
    let count: u32 = at.number(report, &what)?;
    if !(1..=MAX_REPLICAS).contains(&count) {
        at.refuse(report, format!("expected {what}, found \"{count}\""));
        return None;
    }
    Some(count)
}

fn limits(service: &Cursor<'_>, resources: Option<&Cursor<'_>>, report: &mut Report) -> ResourceLimits {
    resources.iter().for_each(|r| check_resources(r, report));
    let limits = resources.and_then(|r| r.get("limits"));
    limits.iter().for_each(|l| l.only(report, &["cpus", "memory", "pids"], &[]));
    let twice =
        |short, long| Twice { short: service.get(short), long: limits.as_ref().and_then(|l| l.get(long)) };
    ResourceLimits {
        milli_cpus: twice("cpus", "cpus").read(report, cpus),
        memory: twice("mem_limit", "memory")
            .read(report, |at, report| at.bytes(report).filter(|bytes| *bytes != 0)),
        pids: twice("pids_limit", "pids").read(report, pids),
    }
}

impl Deploy {
    /// Compose starts also a training over for ever that has come to its end; here that is the aim.
    pub(super) fn finishes_if_it_trains(
        &mut self,
        service: &Cursor<'_>,
        launches: bool,
        has_devices: bool,
        report: &mut Report,
    ) {
        let trains = launches || has_devices || self.replicas > 1;
        if trains && std::mem::take(&mut self.restart.after_success) {
            service.get("restart").into_iter().for_each(|word| {
                word.note(
                    report,
                    "starts it again when it fails; what trains has finished once it ends with 0",
                );
            });
        }
    }
}

fn check_resources(resources: &Cursor<'_>, report: &mut Report) {
    resources.only(report, &["limits", "reservations"], &[]);
    let Some(reservations) = resources.get("reservations") else { return };
    reservations.only(
        report,
        &["devices", "cpus", "memory"],
        &[("generic_resources", "reserve GPUs with devices")],
    );
    for key in ["cpus", "memory"] {
        if let Some(at) = reservations.get(key) {
            at.note(report, "has no effect: nodes are shared by device, not by reserved CPU or memory");
        }
    }
}

fn cpus(at: &Cursor<'_>, report: &mut Report) -> Option<u64> {
    let milli = at.text(report).map(units::milli_cpus)?;
    if milli.is_none() {
        at.refuse(report, "expected a number of CPUs above 0, such as \"0.5\"");
    }
    milli
}

/// Compose's -1 is no limit.
fn pids(at: &Cursor<'_>, report: &mut Report) -> Option<u64> {
    if at.node.as_str() == Some("-1") {
        return None;
    }
    at.number(report, "a number of processes")
}

/// A budget for failures of every cause; `None` is without limit.
fn budget(max: Option<u32>, delay: Duration) -> RestartPolicy {
    RestartPolicy { infrastructure: max, application: max, delay, after_success: false }
}

fn restart(
    policy: Option<Cursor<'_>>,
    word: Option<Cursor<'_>>,
    gang: bool,
    report: &mut Report,
) -> RestartPolicy {
    let worded = word.as_ref().and_then(|at| restart_word(at, report));
    let Some(at) = policy else {
        if let (Some(word), Some(RestartPolicy { application: Some(n @ 1..), .. }), true) =
            (word, &worded, gang)
        {
            let message = format!(
                "a failing container starts its whole job again, {n} times over the job's life (and {n} times for \
                 failures of nodes), where Compose counts for each container"
            );
            word.note(report, message);
        }
        return worded.unwrap_or_default();
    };
    if let Some(word) = word {
        word.note(report, "has no effect beside deploy.restart_policy");
    }
    at.only(report, &["condition", "delay", "max_attempts", "window"], &[]);
    if let Some(window) = at.get("window") {
        window.note(report, "has no effect: the budget is for the whole life of the job");
    }
    let conditions = [("none", false), ("on-failure", true), ("any", true)];
    let condition = at.get("condition");
    let restarts = condition.as_ref().and_then(|c| c.word(report, &conditions)).unwrap_or(true);
    if let Some(any) = condition.filter(|c| c.node.as_str() == Some("any")) {
        any.note(
            report,
            "starts it again when it fails; what ends with 0 has finished (restart: always starts over)",
        );
    }
    let max = at.get("max_attempts").and_then(|m| m.count(report));
    let delay = at.get("delay").and_then(|d| d.duration(report)).unwrap_or_default();
    budget(if restarts { max } else { Some(0) }, delay)
}

fn restart_word(at: &Cursor<'_>, report: &mut Report) -> Option<RestartPolicy> {
    let text = at.text(report)?;
    let max = match text.split_once(':') {
        None if matches!(text, "no" | "false") => Some(0),
        None if matches!(text, "always" | "on-failure" | "unless-stopped") => None,
        Some(("on-failure", n)) if n.parse::<u32>().is_ok() => n.parse().ok(),
        _ => {
            at.refuse(
                report,
                format!(
                    "expected \"no\", always, on-failure, on-failure:N or unless-stopped, found \"{text}\""
                ),
            );
            return None;
        }
    };
    let after_success = matches!(text, "always" | "unless-stopped");
    Some(RestartPolicy { after_success, ..budget(max, Duration::ZERO) })
}

fn placement(at: &Cursor<'_>, report: &mut Report) -> Vec<Constraint> {
    at.only(
        report,
        &["constraints", "max_replicas_per_node"],
        &[("preferences", "nodes are ordered by their topology labels already; use constraints")],
    );
    if let Some(max) = at.get("max_replicas_per_node")
        && max.count(report).is_some_and(|n| n != 1)
    {
        max.refuse(report, "a replica has its node's share to itself: 1 is the only value; remove it");
    }
    let constraints = at.get("constraints").map(|c| c.items(report, "constraints")).unwrap_or_default();
    constraints.iter().filter_map(|at| constraint(at, report)).collect()
}

fn constraint(at: &Cursor<'_>, report: &mut Report) -> Option<Constraint> {
    let text = at.text(report)?;
    let split = text
        .split_once("==")
        .map(|(subject, value)| (subject, true, value))
        .or_else(|| text.split_once("!=").map(|(subject, value)| (subject, false, value)));
    if let Some((subject, equal, value)) = split {
        let (subject, value) = (subject.trim(), value.trim().to_owned());
        let subject = match subject.strip_prefix("node.labels.") {
            Some(label) if !label.is_empty() => Some(ConstraintSubject::Label(label.to_owned())),
            _ if subject == "node.hostname" => Some(ConstraintSubject::Hostname),
            _ if subject == "node.id" => Some(ConstraintSubject::Id),
            _ => None,
        };
        if let Some(subject) = subject
            && !value.is_empty()
        {
            return Some(Constraint { subject, equal, value });
        }
    }
    at.refuse(
        report,
        format!("expected node.labels.NAME, node.hostname or node.id, then == or !=, then a value; found \"{text}\""),
    );
    None
}
