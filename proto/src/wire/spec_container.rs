//! The container part of a job specification.

use std::time::Duration;

use convoke_model::{
    ContainerOptions, DependsCondition, FileGrant, Healthcheck, Marker, Mount, MountKind, PortMapping,
    TreeRef, Ulimit, millis,
};

use super::{InvalidMessage, all, choice, invalid, port};
use crate::v1;

impl From<ContainerOptions> for v1::ContainerOptions {
    fn from(options: ContainerOptions) -> Self {
        let condition = |condition| match condition {
            DependsCondition::Started => v1::DependsCondition::Started.into(),
            DependsCondition::Healthy => v1::DependsCondition::Healthy.into(),
            DependsCondition::CompletedSuccessfully => v1::DependsCondition::CompletedSuccessfully.into(),
        };
        Self {
            container_name: options.container_name,
            build: options.build,
            volumes: options.volumes.into_iter().map(Into::into).collect(),
            tmpfs: options.tmpfs,
            shm_size: options.shm_size,
            ipc: options.ipc,
            ulimits: options.ulimits.into_iter().map(|(k, v)| (k, v.into())).collect(),
            user: options.user,
            init: options.init,
            cap_add: options.cap_add,
            labels: options.labels.into_iter().collect(),
            ports: options.ports.into_iter().map(Into::into).collect(),
            expose: options.expose,
            healthcheck: options.healthcheck.map(Into::into),
            secrets: options.secrets.into_iter().map(Into::into).collect(),
            configs: options.configs.into_iter().map(Into::into).collect(),
            depends_on: options.depends_on.into_iter().map(|(k, v)| (k, condition(v))).collect(),
            devices: options.devices,
            network_mode: options.network_mode,
            hostname: options.hostname,
            extra_hosts: options.extra_hosts,
            dns: options.dns,
            group_add: options.group_add,
            sysctls: options.sysctls.into_iter().collect(),
            external_volumes: options.external_volumes.into_iter().collect(),
            image_digest: options.image_digest,
            image_content: options.image_content.map(Into::into),
            aliases: options.aliases,
        }
    }
}

impl TryFrom<v1::ContainerOptions> for ContainerOptions {
    type Error = InvalidMessage;
    fn try_from(wire: v1::ContainerOptions) -> Result<Self, InvalidMessage> {
        let condition = |value| {
            choice(value, "container.depends_on", |wire: v1::DependsCondition| match wire {
                v1::DependsCondition::Unspecified => None,
                v1::DependsCondition::Started => Some(DependsCondition::Started),
                v1::DependsCondition::Healthy => Some(DependsCondition::Healthy),
                v1::DependsCondition::CompletedSuccessfully => Some(DependsCondition::CompletedSuccessfully),
            })
        };
        Ok(Self {
            container_name: wire.container_name,
            build: wire.build,
            volumes: all(wire.volumes)?,
            tmpfs: wire.tmpfs,
            shm_size: wire.shm_size,
            ipc: wire.ipc,
            ulimits: wire.ulimits.into_iter().map(|(k, v)| (k, v.into())).collect(),
            user: wire.user,
            init: wire.init,
            cap_add: wire.cap_add,
            labels: wire.labels.into_iter().collect(),
            ports: all(wire.ports)?,
            expose: wire.expose,
            healthcheck: wire.healthcheck.map(Into::into),
            secrets: all(wire.secrets)?,
            configs: all(wire.configs)?,
            depends_on: wire
                .depends_on
                .into_iter()
                .map(|(k, v)| Ok((k, condition(v)?)))
                .collect::<Result<_, InvalidMessage>>()?,
            devices: wire.devices,
            network_mode: wire.network_mode,
            hostname: wire.hostname,
            extra_hosts: wire.extra_hosts,
            dns: wire.dns,
            group_add: wire.group_add,
            sysctls: wire.sysctls.into_iter().collect(),
            external_volumes: wire.external_volumes.into_iter().collect(),
            image_digest: wire.image_digest,
            image_content: tree(wire.image_content)?,
            aliases: wire.aliases,
        })
    }
}

impl From<Mount> for v1::Mount {
    fn from(mount: Mount) -> Self {
        let kind = match mount.kind {
            MountKind::Bind => v1::MountKind::Bind,
            MountKind::Volume => v1::MountKind::Volume,
            MountKind::Tmpfs => v1::MountKind::Tmpfs,
        };
        Self {
            kind: kind.into(),
            source: mount.source,
            target: mount.target,
            read_only: mount.read_only,
            content: mount.content.map(Into::into),
            shared: mount.shared.map(Into::into),
        }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Mount) -> Result<Self, InvalidMessage> {
        let kind = choice(wire.kind, "mount.kind", |kind: v1::MountKind| match kind {
            v1::MountKind::Unspecified => None,
            v1::MountKind::Bind => Some(MountKind::Bind),
            v1::MountKind::Volume => Some(MountKind::Volume),
            v1::MountKind::Tmpfs => Some(MountKind::Tmpfs),
        })?;
        let (content, shared) = (tree(wire.content)?, wire.shared.map(Marker::try_from).transpose()?);
        if shared.is_some() && content.is_some() {
            return Err(invalid("mount.shared", "a directory is either mounted or shipped"));
        }
        let (source, target, read_only) = (wire.source, wire.target, wire.read_only);
        Ok(Self { kind, source, target, read_only, content, shared })
    }
}

impl From<Marker> for v1::Marker {
    fn from(marker: Marker) -> Self {
        Self { directory: marker.directory, file: marker.file, id: marker.id }
    }
}

impl TryFrom<v1::Marker> for Marker {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Marker) -> Result<Self, InvalidMessage> {
        let marker = Self { directory: wire.directory, file: wire.file, id: wire.id };
        marker.validate().map_err(|problem| invalid("marker", problem))?;
        Ok(marker)
    }
}

impl From<Ulimit> for v1::Ulimit {
    fn from(limit: Ulimit) -> Self {
        Self { soft: limit.soft, hard: limit.hard }
    }
}

impl From<v1::Ulimit> for Ulimit {
    fn from(wire: v1::Ulimit) -> Self {
        Self { soft: wire.soft, hard: wire.hard }
    }
}

impl From<PortMapping> for v1::PortMapping {
    fn from(mapping: PortMapping) -> Self {
        Self {
            host_ip: mapping.host_ip,
            published: mapping.published,
            target: mapping.target.into(),
            protocol: mapping.protocol,
        }
    }
}

impl TryFrom<v1::PortMapping> for PortMapping {
    type Error = InvalidMessage;
    fn try_from(wire: v1::PortMapping) -> Result<Self, InvalidMessage> {
        Ok(Self {
            host_ip: wire.host_ip,
            published: wire.published,
            target: port(wire.target, "ports.target")?,
            protocol: wire.protocol,
        })
    }
}

impl From<Healthcheck> for v1::Healthcheck {
    fn from(check: Healthcheck) -> Self {
        Self {
            test: check.test,
            interval_ms: check.interval.map(millis),
            timeout_ms: check.timeout.map(millis),
            start_period_ms: check.start_period.map(millis),
            retries: check.retries,
        }
    }
}

impl From<v1::Healthcheck> for Healthcheck {
    fn from(wire: v1::Healthcheck) -> Self {
        Self {
            test: wire.test,
            interval: wire.interval_ms.map(Duration::from_millis),
            timeout: wire.timeout_ms.map(Duration::from_millis),
            start_period: wire.start_period_ms.map(Duration::from_millis),
            retries: wire.retries,
        }
    }
}

impl From<FileGrant> for v1::FileGrant {
    fn from(grant: FileGrant) -> Self {
        Self {
            source: grant.source,
            file: grant.file,
            target: grant.target,
            content: grant.content.map(Into::into),
        }
    }
}

impl TryFrom<v1::FileGrant> for FileGrant {
    type Error = InvalidMessage;
    fn try_from(wire: v1::FileGrant) -> Result<Self, InvalidMessage> {
        let content = tree(wire.content)?;
        Ok(Self { source: wire.source, file: wire.file, target: wire.target, content })
    }
}

fn tree(wire: Option<v1::TreeRef>) -> Result<Option<TreeRef>, InvalidMessage> {
    wire.map(TreeRef::try_from).transpose()
}
