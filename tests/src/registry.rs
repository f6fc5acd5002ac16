//! An image registry of a story's own: Debian's docker-registry.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::eventually;

const PROGRAM: &str = "docker-registry";

/// Ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// `HOST:PORT`.
    pub address: String,
}

/// What is missing before one can be started.
pub(crate) fn missing() -> Option<String> {
    let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_err().then(|| format!("{PROGRAM} is not installed; apt-get install {PROGRAM}"))
}

impl Registry {
    /// At loopback, its data below `directory`, for everybody.
    pub async fn start(directory: &Path) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, directory, "").await
    }

    /// The same, which lets nobody in.
    pub async fn start_closed(directory: &Path) -> Self {
        // It makes the file itself, with a user of its own.
        let users = directory.join("registry.users");
        let auth = format!("auth: {{htpasswd: {{realm: story, path: {}}}}}\n", users.display());
        Self::start_at(Ipv4Addr::LOCALHOST, directory, &auth).await
    }

    /// At an address of this host, with further keys of its configuration.
    pub async fn start_at(address: Ipv4Addr, directory: &Path, keys: &str) -> Self {
        let (config, log) = (directory.join("registry.yml"), directory.join("registry.log"));
        let data = directory.join("registry");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}:0\"}}\n{keys}",
            data.display()
        );
        fs::write(&config, text).expect("it is writable");
        let file = File::create(&log).expect("it is writable");
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().expect("the registry can be started");
        let address = eventually("the registry listens", async || {
            let said = fs::read_to_string(&log).ok()?;
            let (_, rest) = said.split_once("listening on ")?;
            Some(rest.split([',', '"', ' ']).next()?.to_owned())
        });
        Self { address: address.await, child }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
