//! The environment of whole gangs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use convoke_model::{
    CheckpointPolicy, Collect, ContainerOptions, DesiredReplica, DeviceCount, DeviceId, DeviceKind,
    DeviceRequest, Framework, Generation, JobId, JobName, JobSpec, NodeAddress, NodeId, NodeRank, Peer, Rank,
    RankLayout, Rendezvous, ReplicaGoal, ReplicaPlacement, ResourceLimits, RestartPolicy,
};
use proptest::prelude::*;

use super::{EnvironmentError, Facts, TaskEnvironment, task_environment};

/// A gang: devices per node, and how they are cut into tasks.
struct Gang {
    spec: JobSpec,
    devices: Vec<u32>,
}

fn spec(layout: RankLayout) -> JobSpec {
    JobSpec {
        name: JobName::new("digits").unwrap(),
        project: "demo".to_owned(),
        service: "train".to_owned(),
        project_dir: "/srv/demo".to_owned(),
        entrypoint: None,
        command: vec!["convoke-trainer".to_owned()],
        environment: BTreeMap::new(),
        working_dir: None,
        replicas: 1,
        devices: DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::All },
        limits: ResourceLimits::default(),
        layout,
        procs_per_task: None,
        framework: Framework::Torch,
        priority: 0,
        restart: RestartPolicy::default(),
        stop_signal: 15,
        stop_grace: std::time::Duration::from_secs(10),
        failure_grace: std::time::Duration::from_secs(2),
        time_limit: None,
        checkpoint: CheckpointPolicy::default(),
        interface: None,
        fence: None,
        collect: Collect::default(),
        preflight: false,
        constraints: Vec::new(),
        image: None,
        container: ContainerOptions::default(),
    }
}

impl Gang {
    fn new(layout: RankLayout, devices: &[u32]) -> Self {
        Self { spec: spec(layout), devices: devices.to_vec() }
    }

    fn replica(&self, node: usize) -> DesiredReplica {
        let first: u32 = self.devices[..node].iter().map(|d| self.spec.local_world(*d)).sum();
        let local_world = self.spec.local_world(self.devices[node]);
        DesiredReplica {
            job: JobId::new("job-1").unwrap(),
            generation: Generation(3),
            spec: self.spec.clone(),
            placement: ReplicaPlacement {
                node: NodeId::new(&format!("node-{node}")).unwrap(),
                node_rank: NodeRank(u32::try_from(node).unwrap()),
                devices: (0..self.devices[node])
                    .map(|d| DeviceId::new(&format!("cpu-{d}")).unwrap())
                    .collect(),
                first_rank: Rank(first),
                local_world,
            },
            world_size: self.devices.iter().map(|d| self.spec.local_world(*d)).sum(),
            node_count: u32::try_from(self.devices.len()).unwrap(),
            goal: ReplicaGoal::Prepared,
            resume_from: None,
            predecessors: Vec::new(),
        }
    }

    /// (node, task index on it, first rank) of every task.
    fn tasks(&self) -> Vec<(usize, u32, u32)> {
        let task = |node: usize| {
            let replica = self.replica(node);
            let count = replica.placement.task_count(&self.spec);
            (0..count).map(move |index| (node, index, replica.placement.first_rank.0 + index))
        };
        (0..self.devices.len()).flat_map(task).collect()
    }

    fn rendezvous(&self) -> Rendezvous {
        let peer = |(node, _, rank): (usize, u32, u32)| Peer {
            node: NodeId::new(&format!("node-{node}")).unwrap(),
            node_rank: NodeRank(u32::try_from(node).unwrap()),
            rank: Rank(rank),
            address: format!("10.0.0.{}", node + 1).parse().unwrap(),
            port: 40_000 + u16::try_from(rank).unwrap(),
            probe_port: None,
        };
        Rendezvous {
            master_addr: "10.0.0.1".parse().unwrap(),
            master_port: 62_000,
            world_size: self.replica(0).world_size,
            peers: self.tasks().into_iter().map(peer).collect(),
            services: Vec::new(),
        }
    }

    fn environment(&self, node: usize, task_index: u32) -> Result<TaskEnvironment, EnvironmentError> {
        self.environment_with(node, task_index, &BTreeMap::new())
    }

    fn environment_with(
        &self,
        node: usize,
        task_index: u32,
        visibility: &BTreeMap<String, String>,
    ) -> Result<TaskEnvironment, EnvironmentError> {
        let address = format!("10.0.0.{}", node + 1).parse().unwrap();
        task_environment(&Facts {
            replica: &self.replica(node),
            rendezvous: &self.rendezvous(),
            task_index,
            data: &NodeAddress { interface: "eth0".to_owned(), address },
            socket: Path::new("/s/t.sock"),
            checkpoint_dir: Path::new("/ckpt"),
            resume_from: Some(Path::new("/resume")),
            metrics: Path::new("/m.jsonl"),
            log_dir: Path::new("/logs"),
            visibility,
            node: &BTreeMap::from([("NCCL_NVLS_ENABLE".to_owned(), "0".to_owned())]),
        })
    }

    fn all(&self) -> Vec<BTreeMap<String, String>> {
        let tasks = self.tasks();
        tasks.iter().map(|(node, index, _)| self.environment(*node, *index).unwrap().variables).collect()
    }
}

fn number(variables: &BTreeMap<String, String>, name: &str) -> u32 {
    variables[name].parse().unwrap()
}

proptest! {
    #[test]
    fn ranks_of_any_gang_are_a_permutation_and_its_tasks_agree(
        devices in proptest::collection::vec(1_u32..9, 1..8)
    ) {
        let gang = Gang::new(RankLayout::PerGpu, &devices);
        let all = gang.all();
        let world: u32 = devices.iter().sum();
        let ranks: BTreeSet<u32> = all.iter().map(|v| number(v, "RANK")).collect();
        prop_assert_eq!(ranks, (0..world).collect::<BTreeSet<_>>());
        for ((node, index, rank), variables) in gang.tasks().iter().zip(&all) {
            prop_assert!(!variables.contains_key("PET_NNODES"));
            prop_assert_eq!(number(variables, "RANK"), *rank);
            prop_assert_eq!(number(variables, "LOCAL_RANK"), *index);
            prop_assert_eq!(number(variables, "LOCAL_WORLD_SIZE"), devices[*node]);
            prop_assert_eq!(number(variables, "NODE_RANK") as usize, *node);
            prop_assert_eq!(number(variables, "GROUP_RANK") as usize, *node);
            for same in ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CONVOKE_JOB", "CONVOKE_GENERATION"] {
                prop_assert_eq!(&variables[same], &all[0][same]);
            }
            prop_assert_eq!(number(variables, "WORLD_SIZE"), world);
            let tf: serde_json::Value = serde_json::from_str(&variables["TF_CONFIG"]).unwrap();
            prop_assert_eq!(tf["cluster"]["worker"].as_array().unwrap().len(), all.len());
            prop_assert_eq!(tf["task"]["index"].as_u64(), Some(u64::from(*rank)));
        }
    }

    #[test]
    fn launchers_of_any_gang_make_up_the_world(devices in proptest::collection::vec(2_u32..9, 1..8)) {
        let gang = Gang::new(RankLayout::PerNode, &devices);
        let all = gang.all();
        let world: u32 = all.iter().map(|v| number(v, "PET_NPROC_PER_NODE")).sum();
        prop_assert_eq!(world, devices.iter().sum::<u32>());
        for (node, variables) in all.iter().enumerate() {
            prop_assert_eq!(number(variables, "PET_NODE_RANK") as usize, node);
            prop_assert_eq!(number(variables, "PET_NNODES") as usize, devices.len());
            prop_assert!(!["RANK", "LOCAL_RANK", "WORLD_SIZE"].iter().any(|n| variables.contains_key(*n)));
        }
    }
}

#[test]
fn one_process_per_node_knows_its_rank_and_may_be_started_by_a_launcher() {
    let all = Gang::new(RankLayout::PerNode, &[1, 1]).all();
    assert_eq!((number(&all[1], "RANK"), number(&all[1], "LOCAL_RANK")), (1, 0));
    assert_eq!((number(&all[1], "PET_NODE_RANK"), number(&all[1], "PET_NPROC_PER_NODE")), (1, 1));
    assert_eq!((number(&all[1], "PET_NNODES"), &all[1]["PET_MASTER_PORT"]), (2, &all[1]["MASTER_PORT"]));
    assert!(!all[1].contains_key("OMP_NUM_THREADS"));
}

#[test]
fn torchrun_gets_its_whole_contract() {
    let all = Gang::new(RankLayout::PerNode, &[4, 4]).all();
    let expected = [
        ("PET_NNODES", "2"),
        ("PET_NPROC_PER_NODE", "4"),
        ("PET_NODE_RANK", "1"),
        ("PET_MASTER_ADDR", "10.0.0.1"),
        ("PET_MASTER_PORT", "62000"),
        ("PET_MAX_RESTARTS", "0"),
        ("PET_MONITOR_INTERVAL", "0.1"),
        ("PET_TEE", "3"),
        ("PYTHONUNBUFFERED", "1"),
        ("PET_LOG_DIR", "/logs"),
        ("NODE_RANK", "1"),
        ("MASTER_ADDR", "10.0.0.1"),
        ("MASTER_PORT", "62000"),
    ];
    for (name, value) in expected {
        assert_eq!(all[1][name], value, "{name}");
    }
}

#[test]
fn jax_finds_open_mpis_variables_with_the_port_that_was_held() {
    let mut gang = Gang::new(RankLayout::PerGpu, &[2, 2]);
    gang.spec.framework = Framework::Jax;
    let variables = &gang.all()[3];
    assert_eq!(variables["OMPI_COMM_WORLD_RANK"], "3");
    assert_eq!(variables["OMPI_COMM_WORLD_SIZE"], "4");
    assert_eq!(variables["OMPI_COMM_WORLD_LOCAL_RANK"], "1");
    assert_eq!(variables["JAX_COORDINATOR_ADDRESS"], "10.0.0.1:62000");
    // What an older JAX makes of it: 61440 + (2293760 / 4096) % 4096 = 62000.
    assert_eq!(variables["OMPI_MCA_orte_hnp_uri"], "2293760.0;tcp://10.0.0.1:62000");
}

#[test]
fn a_jax_process_that_has_a_node_to_itself_drives_all_its_devices() {
    let mut gang = Gang::new(RankLayout::PerNode, &[4, 4]);
    gang.spec.framework = Framework::Jax;
    let variables = &gang.all()[1];
    assert_eq!(variables["OMPI_COMM_WORLD_LOCAL_RANK"], "0");
    assert_eq!(variables["JAX_LOCAL_DEVICE_IDS"], "0,1,2,3");
    // One process per device: its local rank is the device.
    gang.spec.layout = RankLayout::PerGpu;
    assert!(!gang.all()[1].contains_key("JAX_LOCAL_DEVICE_IDS"));
}

#[test]
fn the_users_values_stay_except_where_they_would_break_the_gang() {
    let mut gang = Gang::new(RankLayout::PerGpu, &[2]);
    gang.spec.environment = [
        ("OMP_NUM_THREADS", "7"),
        ("NCCL_SOCKET_IFNAME", "ib0"),
        ("NCCL_NVLS_ENABLE", "1"),
        ("CONVOKE_JOB", "mine"),
        ("NVIDIA_VISIBLE_DEVICES", "all"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let ours = BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), "GPU-1".to_owned())]);
    let TaskEnvironment { variables, notes } = gang.environment_with(0, 0, &ours).unwrap();
    assert_eq!((&*variables["OMP_NUM_THREADS"], &*variables["NCCL_SOCKET_IFNAME"]), ("7", "ib0"));
    assert_eq!(variables["NCCL_NVLS_ENABLE"], "1");
    assert_eq!((&*variables["CONVOKE_JOB"], &*variables["NVIDIA_VISIBLE_DEVICES"]), ("job-1", "GPU-1"));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().any(|n| n.starts_with("NVIDIA_VISIBLE_DEVICES=all")));

    for name in ["RANK", "MASTER_ADDR", "NODE_RANK", "TF_CONFIG", "PET_NODE_RANK"] {
        gang.spec.environment = BTreeMap::from([(name.to_owned(), "0".to_owned())]);
        let error = gang.environment(0, 1).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{name} is set to \"0\"")), "{error}");
    }
    gang.devices = vec![1];
    gang.spec.environment = BTreeMap::from([("MASTER_PORT".to_owned(), "29500".to_owned())]);
    assert_eq!(gang.environment(0, 0).unwrap().variables["MASTER_PORT"], "29500");
}

#[test]
fn a_rendezvous_of_another_placement_is_refused() {
    let gang = Gang::new(RankLayout::PerGpu, &[2]);
    assert_eq!(gang.environment(0, 5), Err(EnvironmentError::NotInRendezvous { rank: 5 }));
}

#[test]
fn ten_thousand_tasks_do_not_make_a_variable_that_exec_refuses() {
    let gang = Gang::new(RankLayout::PerNode, &[1; 250]);
    assert!(gang.environment(3, 0).unwrap().notes.is_empty());
    let mut rendezvous = gang.rendezvous();
    let peer = rendezvous.peers[0].clone();
    rendezvous.peers.resize(10_000, peer);
    assert_eq!(super::frameworks::tf_config(&rendezvous, 0), None);
}
