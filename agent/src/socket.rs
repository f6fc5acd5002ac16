//! A task's trainer socket: a gRPC server on a Unix-domain socket in a directory of the task's own.
//!
//! The directory outlives the agent, the socket file does not: a new agent puts a new one in its
//! place, and a trainer that tries again finds it.

mod service;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use convoke_model::{DesiredReplica, Rendezvous};
use convoke_proto::v1::trainer_service_server::TrainerServiceServer;
use convoke_transport::{MAX_MESSAGE_BYTES, ShutdownTrigger, serve_unix, shutdown};
use tokio::net::UnixListener;
use tonic::service::Routes;
use tracing::warn;

use crate::checkpoint::Watch;
use crate::home::socket_in;
use crate::host::Host;
use crate::runtime::TaskKey;
use crate::work::TaskPaths;

pub use service::Trainer;

/// What a trainer is told about itself.
#[derive(Debug, Clone)]
pub struct World {
    pub desired: DesiredReplica,
    pub rendezvous: Rendezvous,
    pub paths: TaskPaths,
    /// The trainer is in a container, perhaps as another user.
    pub contained: bool,
}

/// A socket that is served as long as this lives.
#[derive(Debug)]
pub struct Socket {
    _trigger: ShutdownTrigger,
}

impl Socket {
    /// Binds the task's socket, in place of an earlier agent's, and serves it.
    pub fn open(
        host: &Arc<Host>,
        task: &TaskKey,
        world: World,
        checkpoints: Option<Watch>,
    ) -> io::Result<Self> {
        let directory = host.home.socket_dir(&task.replica, task.rank);
        let listener = bind(&directory, world.contained)?;
        let (trigger, stopping) = shutdown();
        let trainer = Trainer::new(host.clone(), task.clone(), world, checkpoints);
        let task = task.clone();
        tokio::spawn(async move {
            let (health, health_service) = tonic_health::server::health_reporter();
            health.set_serving::<TrainerServiceServer<Trainer>>().await;
            let service = TrainerServiceServer::new(trainer)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            let routes = Routes::new(service).add_service(health_service);
            if let Err(error) = serve_unix(listener, routes, stopping).await {
                warn!(%task, "the trainer socket failed: {error}");
            }
        });
        Ok(Self { _trigger: trigger })
    }
}

fn bind(directory: &Path, for_all: bool) -> io::Result<UnixListener> {
    fs::create_dir_all(directory)?;
    // Beside the directory, in which the task could put a link in its place.
    let path = directory.with_extension("n");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    if for_all {
        // Who may get to it is decided by who may see its directory.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    // Nobody serves what is there: the state directory's lock is held.
    fs::rename(&path, socket_in(directory))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_link_that_the_task_puts_in_the_place_of_its_socket_opens_no_file_of_the_hosts() {
        let place = tempfile::tempdir().unwrap();
        let (directory, victim) = (place.path().join("0123"), place.path().join("shadow"));
        fs::create_dir(&directory).unwrap();
        fs::write(&victim, "root's").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        let (socket, ended) = (socket_in(&directory), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let link = directory.join("link");
                while !ended.load(Ordering::Relaxed) {
                    symlink(&victim, &link).unwrap();
                    fs::rename(&link, &socket).unwrap();
                }
            });
            for _ in 0..500 {
                // Whoever wins, the victim stays closed.
                let _ = bind(&directory, true);
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
        let listener = bind(&directory, true).unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
        drop(listener);
    }
}
