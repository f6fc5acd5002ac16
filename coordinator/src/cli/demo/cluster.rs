//! The demo's cluster: one coordinator, two agents, and the way to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use convoke_proto::v1;
use tokio::time::{Instant, sleep, timeout_at};

use super::home::Home;
use super::services::{Service, Services};
use crate::cli::attach::Screen;
use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;
use crate::cli::nodes;

pub(super) const NODES: [&str; 2] = ["node-a", "node-b"];
pub(super) const SLOTS: u32 = 2;

/// How long the coordinator, or the nodes, may take to come up; a loaded machine is slow.
const UP: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long the demo's own coordinator may be away; it is started again at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the coordinator and returns the way to it.
pub(super) async fn coordinator(
    home: &Home,
    services: &mut Services,
    screen: &Screen,
) -> Result<(Arc<Link>, String), Failure> {
    let program = std::env::current_exe().map_err(Failure::from)?;
    let address_file = home.address_file();
    let fixed = [
        ("--data-dir", home.path().join("coordinator")),
        ("--address-file", address_file.clone()),
        ("--lifeline", home.lifeline()),
    ]
    .map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
    let known = address_file.clone();
    let args = move || {
        // The first start takes a free port, every later one the same.
        let listen = address(&known).unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let start = ["serve".to_owned(), "--listen".to_owned(), listen];
        start.into_iter().chain(fixed.iter().flatten().cloned()).collect()
    };
    services.start(Service { name: "coordinator", program, args: Box::new(args) });
    let deadline = Instant::now() + UP;
    loop {
        if let Some(address) = address(&address_file) {
            let url = format!("http://{address}");
            let teller = screen.clone();
            let say = Box::new(move |text: &str| teller.note(&format!("demo: {text}")));
            if let Ok(link) = Link::connect(&url, PATIENCE, say).await {
                return Ok((Arc::new(link), url));
            }
        }
        if Instant::now() > deadline {
            return Err(slow("the coordinator does not answer", home));
        }
        sleep(LOOK).await;
    }
}

/// Starts the agents and waits until the coordinator has them.
pub(super) async fn agents(
    home: &Home,
    services: &mut Services,
    link: &Link,
    url: &str,
) -> Result<(), Failure> {
    let program = beside("convoke-agent")?;
    for name in NODES {
        let slots = SLOTS.to_string();
        let state = home.path().join(name).display().to_string();
        let lifeline = home.lifeline().display().to_string();
        let args = [
            "--coordinator",
            url,
            "--node",
            name,
            "--state-dir",
            &state,
            "--cpu-slots",
            &slots,
            "--allow-processes",
            "--advertise-address",
            "127.0.0.1",
            "--lifeline",
            &lifeline,
        ]
        .map(str::to_owned)
        .to_vec();
        services.start(Service { name, program: program.clone(), args: Box::new(move || args.clone()) });
    }
    let deadline = Instant::now() + UP;
    let ready = async {
        loop {
            let known = nodes::list(link).await?.nodes;
            if known.iter().filter(|n| n.state() == v1::NodeState::Ready).count() == NODES.len() {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    };
    timeout_at(deadline, ready).await.unwrap_or_else(|_| Err(slow("the nodes are not ready", home)))
}

/// Refuses early where a program that the demo needs is missing.
pub(super) fn check_programs() -> Result<(), Failure> {
    beside("convoke-agent")?;
    beside("convoke-trainer").map(|_| ())
}

/// A program in the directory of this one.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::from)?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let dir = own.parent().unwrap_or(Path::new("/")).display();
    let message = format!("{name} is not in {dir}, where this convoke is");
    Err(Failure::new(exit::FAILED, "MISSING_PROGRAM", message)
        .hint("build all of them together: cargo build --release"))
}

fn address(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let address = text.trim().trim_start_matches("http://");
    (!address.is_empty()).then(|| address.to_owned())
}

fn slow(what: &str, home: &Home) -> Failure {
    let message = format!("{what} after {}", humantime::format_duration(UP));
    Failure::new(exit::FAILED, "DEMO_SLOW", message).hint(format!("see {}", home.logs().display()))
}
