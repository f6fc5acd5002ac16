//! `convoke run`: one command in one image, on nodes of the cluster, as `docker run` on one host.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use convoke_model::{
    Constraint, ConstraintSubject, DeviceCount, DeviceKind, DeviceRequest, JobName, JobSpec, Mount,
    MountKind, RestartPolicy,
};
use convoke_proto::v1;
use uuid::Uuid;

use super::args::Habits;
use super::failure::{Failure, exit};
use super::link::Link;
use super::submit::{Session, Submit};
use super::{Context, text};

/// Run one command in an image, on one node or on many
///
/// As `docker run`, on the cluster: the job is seen by `convoke ps`, its output is shown by rank and
/// node, and its exit code is that of the task that failed, if one did.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke run --nodes all --gpus all nvidia/cuda:13.0.0-base-ubuntu24.04 nvidia-smi -L
  convoke run --gpus 2 -v ./scripts:/scripts pytorch/pytorch python /scripts/try.py
  convoke run --on gpu-03 --gpus device=0,1 IMAGE nvidia-smi topo -m
  convoke run -d --nodes 4 --gpus all IMAGE torchrun train.py")]
pub(crate) struct Run {
    /// Number of nodes, or `all` that run containers now
    #[arg(long, value_name = "N|all", default_value = "1", value_parser = nodes)]
    nodes: Nodes,

    /// GPUs of each node: a number, `all`, or device=INDEX-OR-UUID,... [default: none]
    #[arg(long, value_name = "N|all|device=…", value_parser = gpus)]
    gpus: Option<DeviceCount>,

    /// This node only
    #[arg(long, value_name = "NODE", conflicts_with = "nodes")]
    on: Option<String>,

    /// A variable for the command, or the name of one of this shell's; may be repeated
    #[arg(short, long = "env", value_name = "K=V", value_parser = super::session::variable)]
    env: Vec<(String, String)>,

    /// Mount SOURCE:TARGET or SOURCE:TARGET:ro: a directory of yours (./x travels), of the nodes' (/x), or a volume
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET", value_parser = mount)]
    volumes: Vec<Mount>,

    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// User inside the container
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Size of /dev/shm, such as 16g
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shm_size: Option<u64>,

    /// Name of the job [default: run- and eight digits]
    #[arg(long, value_name = "NAME")]
    name: Option<JobName>,

    #[command(flatten)]
    submit: Submit,

    #[command(flatten)]
    habits: Habits,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,

    /// The command and its arguments [default: the image's own]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nodes {
    All,
    Count(u32),
}

fn nodes(text: &str) -> Result<Nodes, String> {
    match text {
        "all" => Ok(Nodes::All),
        _ => match text.parse() {
            Ok(n @ 1..) => Ok(Nodes::Count(n)),
            _ => Err("write a number of nodes, or all".to_owned()),
        },
    }
}

fn size(text: &str) -> Result<u64, String> {
    convoke_compose::bytes(text).ok_or_else(|| "write a size, such as 512m or 16g".to_owned())
}

fn gpus(text: &str) -> Result<DeviceCount, String> {
    if text == "all" {
        return Ok(DeviceCount::All);
    }
    // As docker run takes it, quotes and all.
    if let Some(ids) = text.trim_matches('"').strip_prefix("device=") {
        let ids: Vec<String> = ids.split(',').map(|id| id.trim().to_owned()).collect();
        return if ids.iter().any(String::is_empty) {
            Err("write device=0,1 or device=UUID".to_owned())
        } else {
            Ok(DeviceCount::Ids(ids))
        };
    }
    match text.parse() {
        Ok(n @ 1..) => Ok(DeviceCount::Count(n)),
        _ => Err("write a number of GPUs, all, or device=0,1".to_owned()),
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (*source, *target, false),
        [source, target, "ro"] => (*source, *target, true),
        _ => return Err("write SOURCE:TARGET or SOURCE:TARGET:ro".to_owned()),
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(format!("\"{target}\" must be an absolute path inside the container"));
    }
    let bind = source.starts_with(['.', '/']);
    let kind = if bind { MountKind::Bind } else { MountKind::Volume };
    Ok(Mount {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
        content: None,
        shared: None,
    })
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let directory = std::env::current_dir()?;
        if self.habits.wants_terminal() {
            super::output::note(
                "note: -i and -t: a job has no terminal and no input; `convoke run -d --name NAME …` and \
                 `convoke exec -it NAME sh` give you one",
            );
        }
        let session = Session::open(context, self.submit.detach).await?;
        if let Some(node) = &self.on {
            known(&session.link, node).await?;
        }
        let replicas = match self.nodes {
            Nodes::Count(n) => n,
            Nodes::All => count_nodes(&session.link, self.gpus.is_some()).await?,
        };
        let spec = self.spec(replicas, &directory)?;
        Box::pin(self.submit.run(context, session, vec![spec])).await
    }

    fn spec(&self, replicas: u32, directory: &Path) -> Result<JobSpec, Failure> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                let random = Uuid::new_v4().simple().to_string();
                JobName::new(&format!("run-{}", &random[..8])).expect("digits and a prefix are a name")
            }
        };
        let devices = match &self.gpus {
            Some(count) => DeviceRequest { kind: DeviceKind::Gpu, count: count.clone() },
            None => DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::Count(0) },
        };
        let on =
            |node: &String| Constraint { subject: ConstraintSubject::Id, equal: true, value: node.clone() };
        let mut spec = JobSpec {
            project: "run".to_owned(),
            project_dir: directory.display().to_string(),
            environment: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            working_dir: self.workdir.clone(),
            replicas,
            devices,
            constraints: self.on.iter().map(on).collect(),
            // What is typed by hand is tried once.
            restart: RestartPolicy { infrastructure: Some(0), application: Some(0), ..Default::default() },
            image: Some(self.image.clone()),
            ..JobSpec::processes(name, self.command.clone())
        };
        spec.container.volumes = self.volumes.clone();
        spec.container.user = self.user.clone();
        spec.container.shm_size = self.shm_size;
        spec.validate().map_err(|invalid| Failure::usage(invalid.to_string()))?;
        Ok(spec)
    }
}

/// That there is a node of this name.
async fn known(link: &Link, name: &str) -> Result<(), Failure> {
    let nodes = super::nodes::list(link).await?.nodes;
    let names: Vec<_> = nodes.iter().filter_map(|node| Some(node.info.as_ref()?.id.as_str())).collect();
    if names.contains(&name) {
        return Ok(());
    }
    let there = if names.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    let failure = Failure::new(exit::REFUSED, "NO_NODES", format!("--on: no node is called {name}; {there}"));
    Err(failure.hint("`convoke nodes` lists them"))
}

/// Nodes that run containers now, and have GPUs where those are wanted.
async fn count_nodes(link: &Link, with_gpus: bool) -> Result<u32, Failure> {
    let nodes = super::nodes::list(link).await?.nodes;
    let total = nodes.len();
    let fits = |node: &v1::Node| {
        let info = node.info.clone().unwrap_or_default();
        node.state() == v1::NodeState::Ready
            && info.runtimes().any(|runtime| runtime == v1::RuntimeKind::Docker)
            && (!with_gpus || info.devices.iter().any(|device| device.kind() == v1::DeviceKind::Gpu))
    };
    match nodes.iter().filter(|node| fits(node)).count() {
        0 => {
            let what = if with_gpus { "runs containers and has GPUs" } else { "runs containers" };
            let message = format!("no ready node {what}, of {}", text::count(total, "node"));
            Err(Failure::new(exit::REFUSED, "NO_NODES", message).hint("`convoke nodes` lists them"))
        }
        n => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: Run,
    }

    fn spec(words: &[&str]) -> JobSpec {
        let words = std::iter::once("run").chain(words.iter().copied());
        Cli::try_parse_from(words).unwrap().run.spec(2, Path::new("/here")).unwrap()
    }

    #[test]
    fn the_words_of_docker_run_mean_what_they_mean_there() {
        let words = ["--gpus", "all", "-e", "A=b", "-v", "./x:/x:ro", "-w", "/w", "img", "nvidia-smi", "-L"];
        let spec = spec(&words);
        assert_eq!(spec.command, ["nvidia-smi", "-L"]);
        assert_eq!((spec.replicas, spec.image.as_deref()), (2, Some("img")));
        assert_eq!(spec.devices, DeviceRequest { kind: DeviceKind::Gpu, count: DeviceCount::All });
        assert_eq!(spec.environment["A"], "b");
        let volume = &spec.container.volumes[0];
        assert_eq!((volume.kind, volume.source.as_str(), volume.read_only), (MountKind::Bind, "./x", true));
    }

    #[test]
    fn a_size_is_in_powers_of_1024_as_docker_has_it() {
        assert_eq!(spec(&["--shm-size", "16m", "img"]).container.shm_size, Some(16 << 20));
        assert!(size("much").is_err());
    }

    #[test]
    fn gpus_are_counted_named_or_all_and_none_by_default() {
        assert_eq!(gpus("\"device=0,GPU-1\""), Ok(DeviceCount::Ids(vec!["0".into(), "GPU-1".into()])));
        assert_eq!(gpus("3"), Ok(DeviceCount::Count(3)));
        for bad in ["", "0", "-1", "device=", "device=0,,1", "some"] {
            assert!(gpus(bad).is_err(), "{bad:?}");
        }
        assert_eq!(spec(&["img"]).devices.count, DeviceCount::Count(0));
    }

    #[test]
    fn a_mount_has_two_or_three_parts_and_an_absolute_target() {
        assert_eq!(mount("data:/d").map(|m| m.kind), Ok(MountKind::Volume));
        for bad in ["x", "x:y", ":/y", "a:/b:c", "a:/b:ro:z"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_node_may_be_named() {
        let constraint = spec(&["--on", "gpu-3", "img"]).constraints.remove(0);
        assert_eq!((constraint.subject, constraint.value.as_str()), (ConstraintSubject::Id, "gpu-3"));
    }
}
