//! A job specification survives the wire, and a bad one is refused by the name of its field.

use std::collections::BTreeMap;
use std::time::Duration;

use convoke_model::{
    CheckpointPolicy, Collect, Constraint, ConstraintSubject, ContainerOptions, DependsCondition,
    DeviceCount, DeviceKind, DeviceRequest, Digest, FileGrant, Framework, Healthcheck, JobName, JobSpec,
    MARKER_FILE, Marker, Mount, MountKind, PortMapping, RankLayout, ResourceLimits, RestartPolicy, Shards,
    TreeRef, Ulimit,
};
use convoke_proto::{InvalidMessage, v1};
use prop::collection::{btree_map, vec};
use prop::option::of;
use prop::sample::select;
use proptest::prelude::*;
use prost::Message;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,8}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[A-Z_]{1,6}", text(), 0..3)
}

/// The wire counts milliseconds.
fn duration() -> impl Strategy<Value = Duration> {
    (0u64..10_000_000).prop_map(Duration::from_millis)
}

fn devices() -> impl Strategy<Value = DeviceRequest> {
    let count = prop_oneof![
        (1u32..1_024).prop_map(DeviceCount::Count),
        Just(DeviceCount::All),
        prop::collection::hash_set("[a-z0-9]{1,6}", 1..4)
            .prop_map(|ids| DeviceCount::Ids(ids.into_iter().collect())),
    ];
    (select(vec![DeviceKind::Gpu, DeviceKind::Cpu]), count)
        .prop_map(|(kind, count)| DeviceRequest { kind, count })
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let subject = prop_oneof![
        Just(ConstraintSubject::Hostname),
        Just(ConstraintSubject::Id),
        text().prop_map(ConstraintSubject::Label)
    ];
    (subject, any::<bool>(), text()).prop_map(|(subject, equal, value)| Constraint { subject, equal, value })
}

fn tree() -> impl Strategy<Value = TreeRef> {
    (any::<[u8; 32]>(), any::<u64>(), any::<u64>()).prop_map(|(digest, files, bytes)| TreeRef {
        digest: Digest(digest),
        files,
        bytes,
    })
}

fn mount() -> impl Strategy<Value = Mount> {
    let kind = select(vec![MountKind::Bind, MountKind::Volume, MountKind::Tmpfs]);
    let marker = |path: String| Marker {
        directory: format!("/mnt{path}"),
        file: MARKER_FILE.to_owned(),
        id: "a1".to_owned(),
    };
    // Either content, or a marker, or neither.
    let there = prop_oneof![
        of(tree()).prop_map(|content| (content, None)),
        "(/[a-z]{1,8}){0,3}".prop_map(move |path| (None, Some(marker(path)))),
    ];
    (kind, text(), text(), any::<bool>(), there).prop_map(
        |(kind, source, target, read_only, (content, shared))| Mount {
            kind,
            source,
            target,
            read_only,
            content,
            shared,
        },
    )
}

fn port() -> impl Strategy<Value = PortMapping> {
    (of(text()), of(text()), 1u16.., text()).prop_map(|(host_ip, published, target, protocol)| PortMapping {
        host_ip,
        published,
        target,
        protocol,
    })
}

fn healthcheck() -> impl Strategy<Value = Healthcheck> {
    (texts(), of(duration()), of(duration()), of(duration()), of(any::<u32>())).prop_map(
        |(test, interval, timeout, start_period, retries)| Healthcheck {
            test,
            interval,
            timeout,
            start_period,
            retries,
        },
    )
}

fn grants() -> impl Strategy<Value = Vec<FileGrant>> {
    let grant = (text(), of(text()), of(text()), of(tree()))
        .prop_map(|(source, file, target, content)| FileGrant { source, file, target, content });
    vec(grant, 0..3)
}

fn container() -> impl Strategy<Value = ContainerOptions> {
    let ulimit = (any::<i64>(), any::<i64>()).prop_map(|(soft, hard)| Ulimit { soft, hard });
    let condition = select(vec![
        DependsCondition::Started,
        DependsCondition::Healthy,
        DependsCondition::CompletedSuccessfully,
    ]);
    let names = (of(text()), of(text()), of(text()), of(text()), of(text()), of(text()));
    let lists = (texts(), texts(), texts(), texts(), texts());
    let rest = (
        vec(mount(), 0..3),
        of(any::<u64>()),
        btree_map(text(), ulimit, 0..3),
        of(any::<bool>()),
        map(),
        vec(port(), 0..3),
        of(healthcheck()),
        grants(),
        grants(),
        btree_map(text(), condition, 0..3),
        (of(text()), of(tree()), texts(), texts(), map(), texts(), texts()),
    );
    (names, lists, rest).prop_map(|(names, lists, rest)| ContainerOptions {
        container_name: names.0,
        build: names.1,
        ipc: names.2,
        user: names.3,
        network_mode: names.4,
        hostname: names.5,
        tmpfs: lists.0,
        cap_add: lists.1,
        expose: lists.2,
        devices: lists.3,
        extra_hosts: lists.4,
        volumes: rest.0,
        shm_size: rest.1,
        ulimits: rest.2,
        init: rest.3,
        labels: rest.4,
        ports: rest.5,
        healthcheck: rest.6,
        secrets: rest.7,
        configs: rest.8,
        depends_on: rest.9,
        image_digest: rest.10.0,
        image_content: rest.10.1,
        dns: rest.10.2,
        group_add: rest.10.3,
        sysctls: rest.10.4,
        external_volumes: rest.10.5.into_iter().collect(),
        aliases: rest.10.6,
    })
}

fn spec() -> impl Strategy<Value = JobSpec> {
    let name = "[a-z][a-z0-9._-]{0,10}".prop_map(|n| JobName::new(&n).expect("made of allowed characters"));
    let names = (name, text(), text(), text(), of(text()), of(text()), of(text()));
    let process = (of(texts()), vec(text(), 1..4), map(), 1i32..=64);
    let gang = (
        1u32..100_000,
        devices(),
        (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()))
            .prop_map(|(milli_cpus, memory, pids)| ResourceLimits { milli_cpus, memory, pids }),
        select(vec![RankLayout::PerNode, RankLayout::PerGpu]),
        of(1u32..),
        select(vec![Framework::Torch, Framework::Jax, Framework::Tensorflow]),
        any::<i32>(),
        vec(constraint(), 0..3),
    );
    let restart = (of(any::<u32>()), of(any::<u32>()), duration(), any::<bool>());
    let restart = restart.prop_map(|(infrastructure, application, delay, after_success)| RestartPolicy {
        infrastructure,
        application,
        delay,
        after_success,
    });
    let checkpoint = (of(text()), 1u32.., select(vec![Shards::RankZero, Shards::All]))
        .prop_map(|(dir, keep, shards)| CheckpointPolicy { dir, keep, shards });
    let life = (
        restart,
        duration(),
        duration(),
        of(duration()),
        checkpoint,
        of(duration()),
        select(vec![Collect::NodeRankZero, Collect::All]),
        any::<bool>(),
    );
    (names, process, gang, life, container()).prop_map(|(names, process, gang, life, container)| JobSpec {
        name: names.0,
        project: names.1,
        service: names.2,
        project_dir: names.3,
        working_dir: names.4,
        interface: names.5,
        image: names.6,
        entrypoint: process.0,
        command: process.1,
        environment: process.2,
        stop_signal: process.3,
        replicas: gang.0,
        devices: gang.1,
        limits: gang.2,
        layout: gang.3,
        procs_per_task: gang.4,
        framework: gang.5,
        priority: gang.6,
        constraints: gang.7,
        restart: life.0,
        stop_grace: life.1,
        failure_grace: life.2,
        time_limit: life.3,
        checkpoint: life.4,
        fence: life.5,
        collect: life.6,
        preflight: life.7,
        container,
    })
}

proptest! {
    #[test]
    fn any_valid_spec_survives_the_wire(spec in spec()) {
        // A spec that the model itself refuses would be refused at the edge, rightly.
        prop_assume!(spec.validate().is_ok());
        let bytes = v1::JobSpec::from(spec.clone()).encode_to_vec();
        let wire = v1::JobSpec::decode(bytes.as_slice()).expect("it was just encoded");
        prop_assert_eq!(JobSpec::try_from(wire), Ok(spec));
    }

    #[test]
    fn any_bytes_are_a_spec_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::JobSpec::decode(bytes.as_slice()) {
            let _ = JobSpec::try_from(wire);
        }
    }
}

/// A spec that is accepted, to be spoilt.
fn good() -> v1::JobSpec {
    v1::JobSpec {
        name: "train".to_owned(),
        command: vec!["run".to_owned()],
        replicas: 1,
        devices: Some(v1::DeviceRequest {
            kind: v1::DeviceKind::Cpu.into(),
            count: Some(v1::device_request::Count::Exactly(1)),
        }),
        layout: v1::RankLayout::PerNode.into(),
        framework: v1::Framework::Torch.into(),
        restart: Some(v1::RestartPolicy::default()),
        stop_signal: 15,
        checkpoint: Some(v1::CheckpointPolicy { dir: None, keep: 1, shards: v1::Shards::RankZero.into() }),
        collect: v1::Collect::NodeRankZero.into(),
        container: Some(v1::ContainerOptions::default()),
        ..v1::JobSpec::default()
    }
}

#[test]
fn a_bad_field_is_refused_by_its_name() {
    type Spoil = fn(&mut v1::JobSpec);
    assert!(JobSpec::try_from(good()).is_ok());
    let cases: [(&str, Spoil); 14] = [
        ("field spec.name is invalid: job name is empty", |s| s.name.clear()),
        ("field spec.name is invalid: job name \"a/b\" may only", |s| s.name = "a/b".to_owned()),
        ("field spec.devices is missing", |s| s.devices = None),
        ("field devices.count is missing", |s| s.devices.as_mut().unwrap().count = None),
        ("field devices.kind is missing", |s| s.devices.as_mut().unwrap().kind = 0),
        ("field spec.layout is missing", |s| s.layout = 0),
        ("field spec.layout is invalid: 99 is not a known value", |s| s.layout = 99),
        ("field spec.framework is missing", |s| s.framework = 0),
        ("field spec.restart is missing", |s| s.restart = None),
        ("field checkpoint.shards is missing", |s| s.checkpoint.as_mut().unwrap().shards = 0),
        ("field spec.collect is missing", |s| s.collect = 0),
        ("deploy.replicas: 0 is not between 1 and", |s| s.replicas = 0),
        ("stop_signal: 0 is not a signal number", |s| s.stop_signal = 0),
        ("field ports.target is invalid: 70000 is not a port", |s| {
            let port = v1::PortMapping { target: 70_000, ..v1::PortMapping::default() };
            s.container.as_mut().unwrap().ports.push(port);
        }),
    ];
    for (expected, spoil) in cases {
        let mut wire = good();
        spoil(&mut wire);
        let error: InvalidMessage = JobSpec::try_from(wire).unwrap_err();
        assert!(error.to_string().contains(expected), "expected \"{expected}\", got \"{error}\"");
    }
}
