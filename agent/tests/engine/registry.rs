//! A real registry (Debian's docker-registry) on a port of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

const PROGRAM: &str = "docker-registry";
pub const USER: &str = "trainer";
/// Written in base64 it needs the two letters in which the alphabets differ.
pub const PASSWORD: &str = "se?cret>~x";
/// Of the password above, as `htpasswd -B` writes it.
const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuutohyxXNqu0BacTJBLiQHj6Tnh0mAdXC";

pub fn missing() -> Option<String> {
    let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_err().then(|| format!("{PROGRAM} is not installed; apt-get install docker-registry"))
}

pub struct Registry {
    child: Child,
    directory: PathBuf,
    pub address: String,
}

impl Registry {
    pub async fn open(directory: &Path) -> Self {
        Self::start(directory, "").await
    }

    /// Lets in only [`USER`].
    pub async fn closed(directory: &Path) -> Self {
        let passwords = directory.join("htpasswd");
        fs::write(&passwords, format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        Self::start(directory, &format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", passwords.display()))
            .await
    }

    async fn start(directory: &Path, more: &str) -> Self {
        let directory = directory.join("registry");
        fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n{more}",
            directory.join("data").display()
        );
        fs::write(directory.join("config.yml"), config).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(directory.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { child, directory, address: String::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while registry.address.is_empty() {
            assert!(Instant::now() < deadline, "no registry: {}", registry.log());
            sleep(Duration::from_millis(20)).await;
            let log = registry.log();
            let said = log.split_once("listening on ").map(|(_, rest)| rest);
            registry.address =
                said.and_then(|rest| rest.split([',', '"', ' ']).next()).unwrap_or_default().to_owned();
        }
        registry
    }

    /// Errors and requests, a line each.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Changes a byte of each blob that is larger than a manifest.
    pub fn damage_layers(&self) {
        let found = walk(&self.directory.join("data")).into_iter().filter(|path| path.ends_with("data"));
        let mut damaged = 0;
        for path in found {
            let mut bytes = fs::read(&path).unwrap();
            if bytes.len() > 10_000 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
        assert!(damaged > 0, "no layer was found");
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
