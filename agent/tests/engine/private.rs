//! An engine of its own, on a disk that is too small.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use convoke_agent::engine::images::{ImageError, Images, Wanted};
use convoke_agent::engine::{Engine, EngineError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::registry::Registry;
use crate::scene::{Fetched, Scene, config};

const DISK: u64 = 60 << 20;
/// More than is left on it, but a few files fit.
const LAYERS: [usize; 2] = [1 << 20, 70 << 20];

pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can mount a disk for an engine of its own".to_owned());
    }
    if let Err(problem) = run(Command::new("dockerd").arg("--version")) {
        return Some(problem);
    }
    let probe = tempfile::tempdir().unwrap();
    SmallDisk::mount(probe.path()).err()
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: &Path) -> Result<Self, String> {
        let (image, point) = (directory.join("disk.img"), directory.join("disk"));
        File::create(&image).and_then(|file| file.set_len(DISK)).map_err(|e| e.to_string())?;
        fs::create_dir_all(&point).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Self(point))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A dockerd with nothing in common with the node's.
struct Dockerd {
    child: Child,
    socket: PathBuf,
    _bridge: Bridge,
}

/// A bridge of its own: an engine that is told to have none deletes the host's docker0.
struct Bridge(String);

impl Bridge {
    fn add() -> Self {
        let bridge = Self(format!("cvk{}", std::process::id()));
        run(Command::new("ip").args(["link", "add", &bridge.0, "type", "bridge"])).unwrap();
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["link", "del", &self.0]));
    }
}

impl Dockerd {
    async fn start(directory: &Path, data_root: &Path) -> Self {
        // A socket's path is at most 107 bytes.
        let socket = directory.join("d.sock");
        let config = directory.join("daemon.json");
        fs::write(&config, r#"{"insecure-registries": ["127.0.0.0/8"]}"#).unwrap();
        let log = File::create(directory.join("dockerd.log")).unwrap();
        let bridge = Bridge::add();
        let child = Command::new("dockerd")
            .arg("--config-file")
            .arg(config)
            .arg("--data-root")
            .arg(data_root)
            .arg("--exec-root")
            .arg(directory.join("exec"))
            .arg("--pidfile")
            .arg(directory.join("d.pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--bridge", &bridge.0, "--iptables=false", "--ip6tables=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Self { child, socket, _bridge: bridge };
        let deadline = Instant::now() + Duration::from_secs(60);
        while Engine::connect(&dockerd.socket).await.is_err() {
            let log = || fs::read_to_string(directory.join("dockerd.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "no engine: {}", log());
            sleep(Duration::from_millis(50)).await;
        }
        dockerd
    }

    /// As an init system stops it: it takes its containerd with it.
    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.stop();
    }
}

pub async fn a_disk_that_is_too_small_is_told_before_it_is_full_and_when_it_is(scene: &mut Scene) {
    let registry = Registry::open(scene.directory.path()).await;
    let name = format!("{}/{}/large", registry.address, scene.unique);
    let saved = scene.saved(&LAYERS);
    scene.push(&saved, &name, "1", None).await;

    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(place.path()).unwrap();
    let mut dockerd = Dockerd::start(place.path(), &disk.0.join("docker")).await;
    let engine = Engine::connect(&dockerd.socket).await.unwrap();
    let data_root = engine.info().await.unwrap().data_root;
    assert_eq!(data_root, disk.0.join("docker"));
    let named = || Wanted::Named { reference: format!("{name}:1"), digest: None };
    let shipped = || Wanted::Shipped(saved.shipped(&Fetched::default()));
    let failed = async |wanted, data_root: &Path, keep_free| {
        let images = Images::new(engine.clone(), config(place.path(), data_root, keep_free));
        images.ensure(wanted).done().await.unwrap_err()
    };

    // Under the floor nothing is asked for.
    let before = registry.log().len();
    let error = failed(named(), &data_root, 1 << 40).await;
    assert!(matches!(*error, ImageError::NoSpace { .. }) && error.is_retryable(), "{error}");
    assert_eq!(registry.log().len(), before);
    // Once the layers' sizes are known, and before the disk is full.
    let error = failed(named(), &data_root, 0).await;
    assert!(matches!(&*error, ImageError::NoSpace { needed, .. } if *needed > 200 << 20), "{error}");
    let error = failed(shipped(), &data_root, 0).await;
    assert!(matches!(&*error, ImageError::NoSpace { needed, .. } if *needed > 140 << 20), "{error}");
    // Where the disk cannot be asked, the engine fills it and says so.
    let nowhere = Path::new("/nonexistent");
    let error = failed(named(), nowhere, 0).await;
    assert!(matches!(*error, ImageError::DiskFull { .. }) && error.is_retryable(), "{error}");
    let error = failed(shipped(), nowhere, 0).await;
    assert!(matches!(*error, ImageError::DiskFull { .. }), "{error}");

    dockerd.stop();
    let error = failed(named(), &data_root, 0).await;
    assert!(matches!(&*error, ImageError::Engine(e) if e.is_away()) && error.is_retryable(), "{error}");
    let error = Engine::connect(&dockerd.socket).await.unwrap_err();
    assert!(matches!(error, EngineError::Missing { .. } | EngineError::NotRunning { .. }), "{error}");
}
