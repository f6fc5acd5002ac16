//! The keys at the top of a file, and which services are meant.

use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::{Cursor, Unsupported};
use crate::networks;
use crate::project::LoadOptions;
use crate::report::Report;
use crate::tree::{Entry, Value};

const KNOWN: [&str; 7] = ["name", "version", "services", "volumes", "secrets", "configs", "networks"];
const UNSUPPORTED: &Unsupported = &[
    ("include", "name the files with several -f, or use extends"),
    ("models", "run the model as a service of its own"),
];

/// What services refer to by name.
#[derive(Debug, Default)]
pub(crate) struct TopLevel {
    /// Named volumes and what the engine is to call them.
    pub(crate) volumes: BTreeMap<String, String>,
    /// What the engine calls those that it must have already.
    pub(crate) external: BTreeSet<String>,
    /// Secrets and configs and the submitter's files that hold them.
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) networks: BTreeSet<String>,
}

impl TopLevel {
    pub(crate) fn read(root: &Cursor<'_>, project: &str, report: &mut Report) -> Self {
        root.only(report, &KNOWN, UNSUPPORTED);
        if let Some(version) = root.get("version") {
            version.note(report, "has no effect: Compose files have no version any more");
        }
        if let Some(extension) = root.get("x-convoke") {
            extension.note(report, "has no effect here: x-convoke belongs below a service");
        }
        let (volumes, external) =
            root.get("volumes").map(|v| volumes(&v, project, report)).unwrap_or_default();
        Self {
            volumes,
            external,
            secrets: root.get("secrets").map(|s| grants(&s, report)).unwrap_or_default(),
            configs: root.get("configs").map(|c| grants(&c, report)).unwrap_or_default(),
            networks: networks::declared(root, report),
        }
    }
}

/// What the engine is to call each, and which of those names it must have already.
fn volumes(
    at: &Cursor<'_>,
    project: &str,
    report: &mut Report,
) -> (BTreeMap<String, String>, BTreeSet<String>) {
    const LOCAL: &str = "mount it on the nodes and name its absolute path";
    let (mut volumes, mut externals) = (BTreeMap::new(), BTreeSet::new());
    for (entry, at) in at.entries(report) {
        at.only(report, &["name", "external", "driver", "labels"], &[("driver_opts", LOCAL)]);
        if let Some(driver) = at.get("driver")
            && driver.text(report).is_some_and(|d| d != "local")
        {
            driver.refuse(report, format!("volume drivers are not supported by Convoke: {LOCAL}"));
        }
        let external = at.get("external").and_then(|e| e.boolean(report)).unwrap_or(false);
        let name = at
            .get("name")
            .and_then(|n| n.string(report))
            .unwrap_or_else(|| if external { entry.key.clone() } else { format!("{project}_{}", entry.key) });
        if external {
            externals.insert(name.clone());
        }
        volumes.insert(entry.key.clone(), name);
    }
    (volumes, externals)
}

fn grants(at: &Cursor<'_>, report: &mut Report) -> BTreeMap<String, String> {
    const FILE: &str = "put it into a file and name that with file:";
    const UNSUPPORTED: &Unsupported = &[
        ("external", FILE),
        ("environment", FILE),
        ("content", FILE),
        ("driver", FILE),
        ("driver_opts", FILE),
        ("template_driver", FILE),
    ];
    let mut grants = BTreeMap::new();
    for (entry, at) in at.entries(report) {
        at.only(report, &["file", "name", "labels"], UNSUPPORTED);
        let before = report.problems.len();
        match at.get("file").and_then(|f| f.string(report)) {
            Some(file) => _ = grants.insert(entry.key.clone(), file),
            None if at.entries(report).is_empty() && report.problems.len() == before => {
                report.problem(Some(&entry.place), at.path, "needs a \"file\"");
            }
            // Refused above; entered, so that its uses are not refused as well.
            None => _ = grants.insert(entry.key.clone(), String::new()),
        }
    }
    grants
}

/// The services that the profiles, or their own names, select; by name.
pub(crate) fn select<'a>(
    root: &Cursor<'a>,
    options: &LoadOptions,
    profiles: &[String],
    report: &mut Report,
) -> Vec<(String, Cursor<'a>)> {
    let before = report.problems.len();
    let services = root.get("services").map(|s| s.entries(report)).unwrap_or_default();
    if services.is_empty() && report.problems.len() > before {
        return Vec::new();
    }
    if services.is_empty() {
        root.refuse(report, "no services; a job file needs \"services:\" with at least one service");
        return Vec::new();
    }
    for wanted in &options.services {
        if !services.iter().any(|(e, _)| e.key == *wanted) {
            let names: Vec<_> = services.iter().map(|(e, _)| e.key.as_str()).collect();
            let message = format!("no service \"{wanted}\"; the file has: {}", names.join(", "));
            report.problem(None, "", message);
        }
    }
    let wanted = (!options.services.is_empty()).then(|| with_dependencies(&services, options, profiles));
    let mut selected: Vec<(String, Cursor<'a>)> = Vec::new();
    for (entry, at) in services {
        if is_selected(entry, &at, profiles, wanted.as_ref(), report) {
            selected.push((entry.key.clone(), at));
        }
    }
    if selected.is_empty() && report.problems.is_empty() {
        root.refuse(report, "every service belongs to a profile; choose one with --profile NAME");
    }
    selected.sort_by(|(a, _), (b, _)| a.cmp(b));
    selected
}

/// The services that are named, and what those wait for, as far as the profiles allow. Naming a
/// service chooses its profiles as well.
fn with_dependencies<'a>(
    services: &[(&'a Entry, Cursor<'a>)],
    options: &'a LoadOptions,
    profiles: &[String],
) -> BTreeSet<&'a str> {
    let find = |name: &str| services.iter().find(|(entry, _)| entry.key == name).map(|(_, at)| at);
    let own = |at: &Cursor<'_>| {
        // Read again, and complained about, when the service is looked at.
        at.get("profiles").map(|p| p.strings(&mut Report::default())).unwrap_or_default()
    };
    let mut chosen = profiles.to_vec();
    chosen.extend(options.services.iter().filter_map(|name| find(name)).flat_map(own));
    let mut wanted: BTreeSet<&str> = options.services.iter().map(String::as_str).collect();
    let mut open: Vec<&str> = wanted.iter().copied().collect();
    while let Some(at) = open.pop().map(find) {
        let Some(depends) = at.and_then(|at| at.get("depends_on")) else { continue };
        let names: Vec<&str> = match &depends.node.value {
            Value::Map(entries) => entries.iter().map(|e| e.key.as_str()).collect(),
            Value::List(items) => items.iter().filter_map(|n| n.as_str()).collect(),
            Value::Null | Value::Scalar(_) => Vec::new(),
        };
        for name in names {
            if find(name).is_some_and(|at| is_chosen(&own(at), &chosen)) && wanted.insert(name) {
                open.push(name);
            }
        }
    }
    wanted
}

fn is_chosen(own: &[String], profiles: &[String]) -> bool {
    own.is_empty() || profiles.iter().any(|p| p == "*" || own.contains(p))
}

fn is_selected(
    entry: &Entry,
    at: &Cursor<'_>,
    profiles: &[String],
    wanted: Option<&BTreeSet<&str>>,
    report: &mut Report,
) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if entry.key.is_empty() || !entry.key.chars().all(good) {
        let message =
            format!("service name \"{}\" may only contain a-z, A-Z, 0-9, \"-\", \"_\" and \".\"", entry.key);
        report.problem(Some(&entry.place), "services", message);
        return false;
    }
    if !at.is_map() {
        at.refuse(
            report,
            format!("a service is a map of keys such as image and command, found {}", at.node.kind()),
        );
        return false;
    }
    let own = at.get("profiles").map(|p| p.strings(report)).unwrap_or_default();
    wanted.map_or_else(|| is_chosen(&own, profiles), |wanted| wanted.contains(entry.key.as_str()))
}
