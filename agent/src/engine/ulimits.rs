//! Ulimits that the host does not let its engine set.
//!
//! Whether it may is only known once a container starts: runc then fails with a message that names the
//! resource. The limit is left out from then on, and the user is told; a training that would run with
//! less is worth more than none.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bollard::models::ResourcesUlimits;

use super::EngineError;

/// The kernel's numbers of resources (`man 2 getrlimit`, x86 and ARM), by Docker's names.
const NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// What this host refused since the agent started: the lowest hard limit by name.
#[derive(Debug, Default)]
pub struct RefusedUlimits(Mutex<BTreeMap<String, u64>>);

impl RefusedUlimits {
    /// Learns from a container that did not start. True if that was for one of its `ulimits`, and the
    /// container is worth another try without it.
    pub fn learn(&self, ulimits: &[ResourcesUlimits], error: &EngineError) -> bool {
        let EngineError::Refused { message, .. } = error else { return false };
        let Some(name) = named_in(message) else { return false };
        let Some(ulimit) = ulimits.iter().find(|u| u.name.as_deref() == Some(name)) else { return false };
        let hard = height(ulimit.hard.unwrap_or_default());
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = refused.entry(name.to_owned()).or_insert(hard);
        *lowest = hard.min(*lowest);
        true
    }

    /// True if a hard limit so high (-1 is unlimited) is known to be refused.
    pub fn refuses(&self, name: &str, hard: i64) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(name).is_some_and(|lowest| height(hard) >= *lowest)
    }
}

fn height(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// The ulimit that runc ("error setting rlimit type 8: operation not permitted") or crun
/// ("setrlimit `RLIMIT_MEMLOCK`: Operation not permitted") could not set.
fn named_in(message: &str) -> Option<&'static str> {
    if let Some((_, rest)) = message.split_once("error setting rlimit type ") {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        return NAMES.get(digits.parse::<usize>().ok()?).copied();
    }
    let (_, rest) = message.split_once("setrlimit `RLIMIT_")?;
    let name = rest.split('`').next()?.to_ascii_lowercase();
    NAMES.into_iter().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, hard: i64) -> ResourcesUlimits {
        ResourcesUlimits { name: Some(name.to_owned()), soft: Some(hard), hard: Some(hard) }
    }

    fn refused(message: &str) -> EngineError {
        EngineError::Refused {
            what: "does not start it".to_owned(),
            status: 400,
            message: message.to_owned(),
        }
    }

    #[test]
    fn what_the_host_refused_is_refused_from_then_on_and_less_is_not() {
        let known = RefusedUlimits::default();
        let wanted = [ulimit("memlock", -1), ulimit("nofile", 1 << 20)];
        let runc = "OCI runtime create failed: container_linux.go:380: starting container process caused: \
                    process_linux.go:545: container init caused: setting rlimits for ready process caused: \
                    error setting rlimit type 8: operation not permitted: unknown";
        assert!(known.learn(&wanted, &refused(runc)));
        assert!(known.refuses("memlock", -1));
        assert!(!known.refuses("memlock", 8 << 20));
        assert!(!known.refuses("nofile", 1 << 20));

        assert!(known.learn(&wanted, &refused("crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted")));
        assert!(known.refuses("nofile", 1 << 20) && known.refuses("nofile", -1));
        assert!(!known.refuses("nofile", 1024));
    }

    #[test]
    fn other_failures_and_limits_that_were_not_asked_for_are_no_reason_to_try_again() {
        let known = RefusedUlimits::default();
        assert!(!known.learn(&[ulimit("memlock", -1)], &refused("exec: \"x\": not found")));
        assert!(!known.learn(&[], &refused("error setting rlimit type 8: operation not permitted")));
        assert!(!known.learn(&[ulimit("memlock", -1)], &refused("error setting rlimit type 99: no")));
    }
}
