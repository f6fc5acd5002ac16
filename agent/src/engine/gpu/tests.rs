use std::fs;
use std::os::unix::fs::symlink;

use bollard::models::DeviceRequest;
use serde_json::json;

use super::*;
use crate::engine::{ApiVersion, EngineInfo};

const FIRST: &str = "GPU-11111111-2222-3333-4444-555555555555";
const SECOND: &str = "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa";

/// A host with two GPUs, the first of the bus being the second of `/dev`.
struct Host(tempfile::TempDir);

impl Host {
    fn bare() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_gpus() -> Self {
        let host = Self::bare();
        for (bus, uuid, minor) in [("0000:07:00.0", FIRST, 1), ("0000:0a:00.0", SECOND, 0)] {
            host.write(
                &format!("/proc/driver/nvidia/gpus/{bus}/information"),
                &format!(
                    "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 17\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\nDevice Minor: \t {minor}\n"
                ),
            );
        }
        for node in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "sda"] {
            host.write(&format!("/dev/{node}"), "");
        }
        host
    }

    fn with_driver() -> Self {
        let host = Self::with_gpus();
        let dir = "/usr/local/nvidia/lib64";
        for library in ["libcuda.so.580.1", "libnvidia-ptxjitcompiler.so.580.1", "libnvidia-eglcore.so.580.1"]
        {
            host.write(&format!("{dir}/{library}"), "");
        }
        host.link(&format!("{dir}/libcuda.so.1"), "libcuda.so.580.1");
        host.write("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "");
        // An older driver's, which another directory comes before.
        host.write("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "");
        host.write("/usr/bin/nvidia-smi", "");
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = files::below(self.0.path(), Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, files::below(self.0.path(), Path::new(path))).unwrap();
    }

    fn files(&self) -> GpuFiles {
        GpuFiles::read(self.0.path(), &[])
    }

    fn detect(&self, info: &EngineInfo) -> Option<GpuInjection> {
        detect(self.0.path(), info)
    }
}

fn engine(minor: u32) -> EngineInfo {
    EngineInfo {
        version: "?".to_owned(),
        api_version: ApiVersion { major: 1, minor },
        cgroup_version: 2,
        cgroup_driver: "systemd".to_owned(),
        live_restore: false,
        default_runtime: "runc".to_owned(),
        runtimes: ["runc".to_owned()].into(),
        storage_driver: "overlay2".to_owned(),
        data_root: "/var/lib/docker".into(),
        cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        memory: 1 << 40,
        gpu_injection: None,
    }
}

fn ids(uuids: &[&str]) -> Vec<DeviceId> {
    uuids.iter().map(|uuid| DeviceId::new(uuid).unwrap()).collect()
}

#[test]
fn nvidia_s_toolkit_is_asked_for_the_uuids_with_compute_and_utility() {
    let request = request(&GpuFiles::default(), Some(GpuInjection::Nvidia), &ids(&[FIRST, SECOND])).unwrap();
    assert_eq!(
        serde_json::to_value(&request.device_requests).unwrap(),
        json!([{
            "Driver": "nvidia",
            "DeviceIDs": [FIRST, SECOND],
            "Capabilities": [["gpu", "compute", "utility"]],
        }])
    );
    assert_eq!(request.variables["NVIDIA_VISIBLE_DEVICES"], format!("{FIRST},{SECOND}"));
    assert!(request.devices.is_empty() && request.mounts.is_empty() && !request.libraries);
}

#[test]
fn cdi_is_asked_for_qualified_names_that_a_specification_has() {
    let host = Host::with_driver();
    let injection = Some(GpuInjection::Cdi);
    assert_eq!(
        request(&host.files(), injection, &ids(&[FIRST])),
        Err(GpuError::NoCdiName(DeviceId::new(FIRST).unwrap()))
    );
    host.write("/etc/cdi/nvidia.yaml", &format!("kind: nvidia.com/gpu\ndevices:\n- name: {FIRST}\n"));
    let request = request(&host.files(), injection, &ids(&[FIRST])).unwrap();
    assert_eq!(
        request.device_requests,
        [DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(vec![format!("nvidia.com/gpu={FIRST}")]),
            ..DeviceRequest::default()
        }]
    );
    assert_eq!(request.variables, hidden());
}

#[test]
fn direct_gives_the_device_nodes_by_minor_number_and_the_driver_s_files_read_only() {
    let host = Host::with_driver();
    let request = request(&host.files(), Some(GpuInjection::Direct), &ids(&[FIRST])).unwrap();
    let devices: Vec<_> = request.devices.iter().map(|d| d.path_on_host.clone().unwrap()).collect();
    assert_eq!(devices, ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]);
    assert!(request.devices.iter().all(|d| d.path_in_container == d.path_on_host));
    let mounts: Vec<_> = request
        .mounts
        .iter()
        .map(|m| {
            assert_eq!((m.typ, m.read_only), (Some(MountType::BIND), Some(true)));
            format!("{} at {}", m.source.as_ref().unwrap(), m.target.as_ref().unwrap())
        })
        .collect();
    let dir = "/usr/local/nvidia/lib64";
    assert_eq!(
        mounts,
        [
            format!("{dir}/libcuda.so.580.1 at {dir}/libcuda.so.1"),
            format!("{dir}/libcuda.so.580.1 at {dir}/libcuda.so.580.1"),
            format!("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1 at {dir}/libnvidia-ml.so.1"),
            format!("{dir}/libnvidia-ptxjitcompiler.so.580.1 at {dir}/libnvidia-ptxjitcompiler.so.580.1"),
            "/usr/bin/nvidia-smi at /usr/bin/nvidia-smi".to_owned(),
        ]
    );
    assert!(request.libraries && request.device_requests.is_empty());
}

#[test]
fn what_direct_lacks_is_named() {
    let host = Host::with_gpus();
    let asked = |host: &Host, uuid| request(&host.files(), Some(GpuInjection::Direct), &ids(&[uuid]));
    assert!(matches!(asked(&host, FIRST), Err(GpuError::NoLibraries(_))));
    let gone = asked(&host, "GPU-gone").unwrap_err().to_string();
    assert!(gone.contains("GPU-gone") && gone.contains(SECOND), "{gone}");
    fs::remove_file(files::below(host.0.path(), Path::new("/dev/nvidia-uvm"))).unwrap();
    assert_eq!(asked(&host, FIRST), Err(GpuError::NoDeviceNode("/dev/nvidia-uvm".into())));
    assert_eq!(request(&host.files(), None, &ids(&[FIRST])), Err(GpuError::NoWay));
    assert_eq!(request(&host.files(), None, &[]), Ok(GpuRequest::default()));
}

#[test]
fn the_way_is_found_from_what_the_host_and_its_engine_have() {
    let bare = Host::bare();
    bare.write("/usr/bin/nvidia-container-runtime-hook", "");
    assert_eq!(bare.detect(&engine(44)), None, "no GPU");

    assert_eq!(Host::with_gpus().detect(&engine(41)), None, "no driver libraries");
    let host = Host::with_driver();
    assert_eq!(host.detect(&engine(41)), Some(GpuInjection::Direct));

    host.write("/var/run/cdi/n.json", &format!("{{\"kind\":\"nvidia.com/gpu\",\"names\":[\"{FIRST}\"]}}"));
    assert_eq!(host.detect(&engine(44)), Some(GpuInjection::Direct), "one GPU has no CDI name");
    host.write("/etc/cdi/n.json", &format!("{{\"kind\":\"nvidia.com/gpu\",\"names\":[\"{SECOND}\"]}}"));
    assert_eq!(host.detect(&engine(43)), Some(GpuInjection::Direct), "the engine is too old for CDI");
    let off = EngineInfo { cdi_spec_dirs: Vec::new(), ..engine(44) };
    assert_eq!(host.detect(&off), Some(GpuInjection::Direct), "the engine has CDI off");
    assert_eq!(host.detect(&engine(44)), Some(GpuInjection::Cdi));

    let nvidia = EngineInfo { runtimes: ["nvidia".to_owned(), "runc".to_owned()].into(), ..engine(44) };
    assert_eq!(host.detect(&nvidia), Some(GpuInjection::Nvidia));
    host.write("/usr/bin/nvidia-container-runtime-hook", "");
    assert_eq!(host.detect(&engine(41)), Some(GpuInjection::Nvidia));
}
