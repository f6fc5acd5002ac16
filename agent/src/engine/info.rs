//! What an engine says of itself.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bollard::models::{SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion};
use convoke_model::GpuInjection;

use super::EngineError;

/// Docker Engine 20.10: what Debian 11 to 12 and Ubuntu 20.04 carry, the oldest that is tested.
pub(crate) const OLDEST_API: ApiVersion = ApiVersion { major: 1, minor: 41 };

/// Of the engine's API; Docker Engine 20.10 speaks 1.41, 25.0 speaks 1.44.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    pub api_version: ApiVersion,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// `cgroupfs` or `systemd`; empty where the engine does not say.
    pub cgroup_driver: String,
    /// Containers go on while the engine restarts.
    pub live_restore: bool,
    pub default_runtime: String,
    pub runtimes: BTreeSet<String>,
    pub storage_driver: String,
    /// Where images and containers lie.
    pub data_root: PathBuf,
    /// Where it looks for CDI specifications; none: it does not know CDI, or has it off.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Bytes of the host's RAM.
    pub memory: u64,
    /// `None` where containers cannot get GPUs.
    pub gpu_injection: Option<GpuInjection>,
}

impl EngineInfo {
    pub(super) fn of(
        socket: &Path,
        version: &SystemVersion,
        system: SystemInfo,
    ) -> Result<Self, EngineError> {
        let cgroup_driver = match system.cgroup_driver {
            Some(SystemInfoCgroupDriverEnum::CGROUPFS) => "cgroupfs",
            Some(SystemInfoCgroupDriverEnum::SYSTEMD) => "systemd",
            Some(SystemInfoCgroupDriverEnum::NONE) => "none",
            Some(SystemInfoCgroupDriverEnum::EMPTY) | None => "",
        };
        let cgroup_version = match system.cgroup_version {
            Some(SystemInfoCgroupVersionEnum::_2) => 2,
            // Engines that do not tell know only the first.
            _ => 1,
        };
        Ok(Self {
            version: version.version.clone().unwrap_or_default(),
            api_version: check(socket, version)?,
            cgroup_version,
            cgroup_driver: cgroup_driver.to_owned(),
            live_restore: system.live_restore_enabled.unwrap_or_default(),
            default_runtime: system.default_runtime.unwrap_or_default(),
            runtimes: system.runtimes.unwrap_or_default().into_keys().collect(),
            storage_driver: system.driver.unwrap_or_default(),
            data_root: system.docker_root_dir.unwrap_or_default().into(),
            cdi_spec_dirs: system.cdi_spec_dirs.unwrap_or_default().into_iter().map(Into::into).collect(),
            memory: system.mem_total.and_then(|total| total.try_into().ok()).unwrap_or_default(),
            gpu_injection: None,
        })
    }

    /// For people: the engine and its version.
    pub fn describe(&self) -> String {
        format!("Docker Engine {}", self.version)
    }
}

/// The API version, if it is one that Convoke can use.
pub(super) fn check(socket: &Path, version: &SystemVersion) -> Result<ApiVersion, EngineError> {
    let socket = socket.to_owned();
    let text = version.api_version.as_deref().unwrap_or_default();
    let Ok(api) = text.parse::<ApiVersion>() else {
        return Err(EngineError::NotAnEngine { socket, problem: format!("its API version is {text:?}") });
    };
    if api < OLDEST_API {
        let version = version.version.clone().unwrap_or_default();
        return Err(EngineError::TooOld { socket, version, api });
    }
    Ok(api)
}
