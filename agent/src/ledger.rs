//! What the agent must not forget: JSON files, replaced as a whole.
//!
//! A file is written under a temporary name, fsynced, renamed, and its directory fsynced: after a
//! crash the old or the new content is there, never a part. A file that cannot be read is an error
//! for its reader to judge, never silently empty.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use convoke_model::{
    AgentInstance, ClusterId, DesiredReplica, Explanation, NodeId, Rank, Rendezvous, ReplicaKey, TaskExit,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::accept::Stamp;
use crate::files::HostMount;
use crate::home::{self, Home};
use crate::work::Inside;

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what this agent writes")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {path}; check the space left on its file system")]
    Write { path: PathBuf, source: io::Error },
}

/// Why an agent cannot be who it was told to be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "the agent's identity in the state directory cannot be used; move the file that is named away to start as a \
         new agent"
    )]
    Ledger(#[from] LedgerError),
    #[error(
        "the state directory {} belongs to node {own}, and this agent was started as node {asked}, for which the \
         tasks and files of {own} are nothing that it wants. Start it with --node {own}, or give it another \
         --state-dir. To make this directory free: end what runs there by an agent with --node {own} (convoke stop, \
         for each of its jobs), then end that agent and delete the directory",
        .root.display()
    )]
    OtherNode { root: PathBuf, own: NodeId, asked: NodeId },
}

/// Who this agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub instance: AgentInstance,
    /// `None` before the first Welcome.
    pub cluster: Option<ClusterId>,
    /// Whose directory this is; `None` in the file of an agent that did not write it down yet.
    #[serde(default)]
    pub node: Option<NodeId>,
}

/// One replica, from its preparation to its removal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub desired: DesiredReplica,
    /// With what its tasks were started.
    #[serde(default)]
    pub rendezvous: Option<Rendezvous>,
    /// What its tasks find where the job has mounts.
    #[serde(default)]
    pub mounts: Vec<HostMount>,
    /// What its containers need to know; `None` for processes.
    #[serde(default)]
    pub inside: Option<Inside>,
    /// The directory of the checkpoint that it starts from.
    #[serde(default)]
    pub resume: Option<PathBuf>,
    /// Exits that the agent itself decided, such as that of a task that could not be started.
    #[serde(default)]
    pub exits: BTreeMap<Rank, TaskExit>,
    /// Why tasks failed, as far as it was found out.
    #[serde(default)]
    pub explanations: BTreeMap<Rank, Explanation>,
    /// Everything is over; kept until the coordinator forgets the replica.
    #[serde(default)]
    pub ended: bool,
}

impl Record {
    pub fn new(desired: DesiredReplica) -> Self {
        Self {
            desired,
            rendezvous: None,
            mounts: Vec::new(),
            inside: None,
            resume: None,
            exits: BTreeMap::new(),
            explanations: BTreeMap::new(),
            ended: false,
        }
    }
}

/// A replica's record in its directory.
pub const RECORD: &str = "record.json";

/// Reads the identity, making it on the first start. A directory is one node's for ever: under another name its tasks
/// would be nobody's, and the first desired state would stop them.
pub fn identity(home: &Home, node: &NodeId) -> Result<Identity, IdentityError> {
    let known = read::<Identity>(&home.agent_file())?.unwrap_or_else(Identity::new);
    match &known.node {
        Some(own) if own == node => Ok(known),
        Some(own) => {
            let (root, own) = (home.root().to_owned(), own.clone());
            Err(IdentityError::OtherNode { root, own, asked: node.clone() })
        }
        None => {
            let identity = Identity { node: Some(node.clone()), ..known };
            write(&home.agent_file(), &identity)?;
            Ok(identity)
        }
    }
}

impl Identity {
    fn new() -> Self {
        let instance =
            AgentInstance::new(&uuid::Uuid::new_v4().to_string()).expect("a UUID is a valid identifier");
        Self { instance, cluster: None, node: None }
    }
}

/// The stamp of the last accepted desired state.
pub fn accepted(home: &Home) -> Result<Option<Stamp>, LedgerError> {
    read(&home.accepted_file())
}

/// Every replica's record. One that cannot be read is returned as its error: the others are not affected.
pub fn records(home: &Home) -> Result<(Vec<Record>, BTreeMap<ReplicaKey, LedgerError>), LedgerError> {
    let directory = home.replicas_dir();
    let failed = |source| LedgerError::Read { path: directory.clone(), source };
    let (mut records, mut broken) = (Vec::new(), BTreeMap::new());
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match read(&entry.path().join(RECORD)) {
            Ok(Some(record)) => records.push(record),
            // Its removal was interrupted, or its making.
            Ok(None) => {}
            Err(error) => match entry.file_name().to_str().and_then(home::replica_of) {
                Some(key) => drop(broken.insert(key, error)),
                None => warn!("{error}: it is no replica's"),
            },
        }
    }
    Ok((records, broken))
}

/// Writes a replica's record.
pub fn write_record(home: &Home, record: &Record) -> Result<(), LedgerError> {
    write(&home.replica_dir(&record.desired.key()).join(RECORD), record)
}

/// `None` if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LedgerError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| LedgerError::Malformed { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LedgerError::Read { path: path.to_owned(), source }),
    }
}

/// Replaces the file at once and durably; its directory is made where needed.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), LedgerError> {
    let bytes = serde_json::to_vec(value).expect("the ledger's types have string keys and no failing parts");
    replace(path, &bytes).map_err(|source| LedgerError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn the_instance_is_made_once_and_the_cluster_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let mut first = identity(&home, &node("a")).unwrap();
        first.cluster = Some(ClusterId::new("c").unwrap());
        write(&home.agent_file(), &first).unwrap();
        assert_eq!(identity(&home, &node("a")).unwrap(), first);
    }

    #[test]
    fn a_directory_is_one_nodes_and_says_so_to_another() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let first = identity(&home, &node("a")).unwrap();
        let text = identity(&home, &node("b")).unwrap_err().to_string();
        for said in [home.root().to_str().unwrap(), "node a", "--node a", "node b", "another --state-dir"] {
            assert!(text.contains(said), "{text}");
        }
        assert_eq!(identity(&home, &node("a")).unwrap(), first);
    }

    #[test]
    fn a_directory_from_before_names_were_kept_takes_the_first_that_comes() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        fs::write(home.agent_file(), r#"{"instance":"i","cluster":"c"}"#).unwrap();
        let taken = identity(&home, &node("b")).unwrap();
        assert_eq!((taken.instance.as_str(), taken.cluster), ("i", ClusterId::new("c").ok()));
        assert!(matches!(identity(&home, &node("a")), Err(IdentityError::OtherNode { .. })));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        fs::write(home.accepted_file(), "{").unwrap();
        let error = accepted(&home).unwrap_err();
        assert!(error.to_string().contains("accepted.json"), "{error}");
    }

    #[test]
    fn one_damaged_record_does_not_hide_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let broken = home.replicas_dir().join("j.1.0");
        fs::create_dir_all(&broken).unwrap();
        fs::write(broken.join("record.json"), "nonsense").unwrap();
        let (records, errors) = records(&home).unwrap();
        assert_eq!((records.len(), errors.len()), (0, 1));
    }
}
