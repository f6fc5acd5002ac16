//! One service of a Compose file, read into a job spec.

mod accelerate;
mod build;
mod command;
mod container;
mod deploy;
mod device_files;
mod devices;
mod environment;
mod extension;
mod gang;
mod keys;
mod launch;
mod mounts;
mod narrow;
mod network;
mod torchrun;
mod words;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use convoke_model::{DeviceCount, JobName, JobSpec, RankLayout};

use crate::cursor::Cursor;
use crate::files::Files;
use crate::report::Report;
use crate::sharing::Claim;
use crate::toplevel::TopLevel;

/// Compose's own default.
const STOP_GRACE: Duration = Duration::from_secs(10);
const SIGTERM: i32 = 15;

/// What a service is read against.
pub(crate) struct Scope<'a> {
    pub(crate) project: &'a str,
    pub(crate) project_dir: &'a Path,
    pub(crate) working_dir: &'a Path,
    pub(crate) vars: &'a BTreeMap<String, String>,
    pub(crate) files: &'a dyn Files,
    pub(crate) top: &'a TopLevel,
    /// Overrides `deploy.replicas`.
    pub(crate) nodes: Option<u32>,
    /// Some selected service reserves devices: the number of nodes is meant for those that do.
    pub(crate) training: bool,
    /// The services that are selected.
    pub(crate) active: &'a [&'a str],
}

/// A service as read: its job, and the GPUs that it names.
pub(crate) struct Service {
    pub(crate) job: JobSpec,
    pub(crate) claim: Option<Claim>,
}

/// Whether a service asks for devices of its own.
pub(crate) fn reserves(at: &Cursor<'_>) -> bool {
    let resources = at.get("deploy").and_then(|d| d.get("resources"));
    let devices = resources.and_then(|r| r.get("reservations")).and_then(|r| r.get("devices"));
    devices.or_else(|| at.get("gpus")).is_some()
}

/// The job that a service describes; what is wrong with it goes to the report.
pub(crate) fn read(scope: &Scope<'_>, name: &str, at: &Cursor<'_>, report: &mut Report) -> Option<Service> {
    at.only(report, &keys::KNOWN, keys::UNSUPPORTED);
    let before = report.problems.len();
    let mut environment = environment::read(scope, at, report);
    let extension = extension::read(at, report);
    let is_container = at.get("image").or_else(|| at.get("build")).is_some();
    let needs_slot = !is_container || extension.layout == RankLayout::PerGpu;
    let devices::Devices { request: devices, named } =
        devices::read(at, needs_slot, &mut environment, report);
    let container = container::read(scope, at, report);
    let entrypoint = command::argv(at.get("entrypoint"), report);
    let command = command::argv(at.get("command"), report).unwrap_or_default();
    let written = at.get("image").and_then(|i| i.string(report));
    // What is built needs a name to be started by; this is Compose's.
    let built = || container.build.as_ref().map(|_| format!("{}-{name}", scope.project).to_lowercase());
    let image = written.or_else(built);
    let argv: Vec<String> = entrypoint.iter().flatten().chain(&command).cloned().collect();
    let launches = launch::find(&argv);
    // A dashboard beside a training is not shown on more nodes.
    let trains = reserves(at) || !launches.is_empty() || !scope.training;
    let mut deploy = deploy::read(at, scope.nodes.filter(|_| trains), report);
    let has_devices = devices.count != DeviceCount::Count(0);
    deploy.finishes_if_it_trains(at, !launches.is_empty(), has_devices, report);
    let gang = gang::Gang {
        service: at,
        replicas: deploy.replicas,
        devices: &devices,
        layout: extension.layout,
        entry: entry(at, entrypoint.as_deref()),
    };
    let procs_per_task = gang.check(&environment, &launches, report);
    without_effect(at, report);
    if image.is_none() {
        host_process(at, &argv, report);
    }
    let job_name = job_name(scope.project, name, at, report)?;
    let spec = JobSpec {
        name: job_name,
        project: scope.project.to_owned(),
        service: name.to_owned(),
        project_dir: scope.project_dir.display().to_string(),
        entrypoint,
        command,
        environment: environment.into_iter().map(|(key, (value, _))| (key, value)).collect(),
        working_dir: at.get("working_dir").and_then(|w| working_dir(&w, image.is_some(), report)),
        replicas: deploy.replicas,
        devices,
        limits: deploy.limits,
        layout: extension.layout,
        procs_per_task,
        framework: extension.framework,
        priority: extension.priority,
        restart: deploy.restart,
        stop_signal: at.get("stop_signal").and_then(|s| stop_signal(&s, report)).unwrap_or(SIGTERM),
        stop_grace: at.get("stop_grace_period").and_then(|g| g.duration(report)).unwrap_or(STOP_GRACE),
        failure_grace: extension.failure_grace,
        time_limit: extension.time_limit,
        checkpoint: extension.checkpoint,
        interface: extension.interface,
        fence: extension.fence,
        collect: extension.collect,
        preflight: extension.preflight,
        constraints: deploy.constraints,
        image,
        container,
    };
    // What the readers above let pass and the model does not; with their problems it would only
    // say the same again.
    if report.problems.len() == before
        && let Err(invalid) = spec.validate()
    {
        at.refuse(report, invalid.to_string());
    }
    let claim = named.map(|n| Claim { service: name.to_owned(), ids: n.ids, place: n.place, path: n.path });
    Some(Service { job: spec, claim })
}

/// The key that a launcher's command line comes from.
fn entry<'a>(at: &Cursor<'a>, entrypoint: Option<&[String]>) -> Option<Cursor<'a>> {
    let (command, own) = (at.get("command"), at.get("entrypoint"));
    match entrypoint {
        Some(words) if !launch::find(words).is_empty() => own,
        _ => command.or(own),
    }
}

fn job_name(project: &str, service: &str, at: &Cursor<'_>, report: &mut Report) -> Option<JobName> {
    match JobName::new(&format!("{project}-{service}")) {
        Ok(name) => Some(name),
        Err(why) => {
            at.refuse(report, why.to_string());
            None
        }
    }
}

fn stop_signal(at: &Cursor<'_>, report: &mut Report) -> Option<i32> {
    let text = at.text(report)?;
    let signal = convoke_model::signal_number(text);
    if signal.is_none() {
        at.refuse(report, format!("\"{text}\" is not a signal; write a name such as SIGINT, or a number"));
    }
    signal
}

/// For a host process it may be relative: it is the submitter's.
fn working_dir(at: &Cursor<'_>, is_container: bool, report: &mut Report) -> Option<String> {
    let dir = at.string(report)?;
    if is_container && !dir.starts_with('/') {
        at.refuse(report, format!("\"{dir}\" must be an absolute path inside the container"));
        return None;
    }
    Some(dir)
}

/// Keys that Docker reads and that mean nothing here.
fn without_effect(at: &Cursor<'_>, report: &mut Report) {
    for key in ["stdin_open", "tty"] {
        if at.get(key).and_then(|value| value.boolean(report)) == Some(true) {
            at.get(key).into_iter().for_each(|key| {
                key.note(report, "has no effect: nobody is at a job's terminal; `convoke exec` gives one");
            });
        }
    }
    for (key, why) in keys::WITHOUT_EFFECT {
        at.get(key).into_iter().for_each(|key| key.note(report, *why));
    }
}

fn host_process(at: &Cursor<'_>, argv: &[String], report: &mut Report) {
    if argv.is_empty() {
        at.refuse(report, "needs an image, a build, or a command to run as a host process");
    }
    let limits = at.get("deploy").and_then(|d| d.get("resources")).and_then(|r| r.get("limits"));
    let collect = at.get("x-convoke").and_then(|x| x.get("collect"));
    for key in keys::CONTAINER_ONLY.iter().filter_map(|key| at.get(key)).chain(limits).chain(collect) {
        key.note(report, "has no effect: the service has no image, so it runs as host processes");
    }
}
