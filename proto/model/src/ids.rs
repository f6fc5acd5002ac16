//! Identifiers. Each is its own type, so that a rank is never passed for a step.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} \"{value}\" is longer than {max} characters")]
    TooLong { what: &'static str, value: String, max: usize },
    #[error(
        "{what} \"{value}\" may only contain a-z, A-Z, 0-9, '-', '_' and '.', and must start with a letter or digit"
    )]
    BadCharacter { what: &'static str, value: String },
    #[error("{what} \"{value}\" is not 64 hexadecimal digits")]
    NotADigest { what: &'static str, value: String },
}

fn checked(what: &'static str, max: usize, value: &str) -> Result<String, InvalidId> {
    if value.is_empty() {
        return Err(InvalidId::Empty { what });
    }
    if value.len() > max {
        return Err(InvalidId::TooLong { what, value: value.chars().take(max).collect(), max });
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !value.chars().all(good) || !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(InvalidId::BadCharacter { what, value: value.to_owned() });
    }
    Ok(value.to_owned())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value` and takes it; the error names what is wrong.
            pub fn new(value: &str) -> Result<Self, InvalidId> {
                checked($what, $max, value).map(Self)
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(&value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

name_type!(
    /// A cluster: made once by the first start of a coordinator on an empty ledger.
    ClusterId, "cluster id", 64);
name_type!(
    /// A node, by the name its operator gave it (the host name by default).
    NodeId, "node name", 128);
name_type!(
    /// One installation of an agent: made once in its state directory. Tells a returning agent
    /// from another one that claims the same node name.
    AgentInstance, "agent instance", 64);
name_type!(
    /// A job, unique for ever; made by the coordinator.
    JobId, "job id", 64);
name_type!(
    /// The name people use for a job; unique among jobs that have not ended.
    JobName, "job name", 128);
name_type!(
    /// A device of a node: a GPU's UUID, or `cpu-<n>` for a CPU slot.
    DeviceId, "device id", 128);
name_type!(
    /// The caller's key that makes a submit safe to repeat.
    IdempotencyKey, "idempotency key", 128);
name_type!(
    /// One communicator of a job (data-parallel, tensor-parallel, …); `world` is all ranks.
    GroupName, "group name", 64);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_type!(
    /// A job's start counter; 1 is the first start, every (re)start of the gang is a new one.
    Generation, u64);
number_type!(
    /// A cluster-wide counter of desired-state changes; only grows.
    Revision, u64);
number_type!(
    /// Counts the starts of a coordinator on one ledger.
    Epoch, u64);
number_type!(
    /// A process's rank in the whole gang.
    Rank, u32);
number_type!(
    /// A replica's index in its gang; the node rank of torch.distributed.
    NodeRank, u32);
number_type!(
    /// A training step, as counted by the trainer.
    Step, u64);

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A SHA-256 digest; shown and stored as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&value, &mut bytes)
            .map_err(|_| InvalidId::NotADigest { what: "digest", value: value.chars().take(80).collect() })?;
        Ok(Self(bytes))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_refused_with_the_rule() {
        let error = JobName::new("a/b").unwrap_err();
        assert!(error.to_string().contains("may only contain"), "{error}");
    }

    #[test]
    fn names_survive_json_and_bad_json_does_not_become_a_name() {
        let name: NodeId = serde_json::from_str("\"gpu-01\"").unwrap();
        assert_eq!(name.as_str(), "gpu-01");
        assert!(serde_json::from_str::<NodeId>("\"../x\"").is_err());
    }

    #[test]
    fn a_digest_is_64_hex_digits() {
        let digest = Digest([7; 32]);
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert!(Digest::try_from("07".to_owned()).is_err());
    }
}
