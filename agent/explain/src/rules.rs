//! The rules, in the order in which they are asked.
//!
//! To add one: write it where its evidence stands among the others' (what says more comes first),
//! and put a real excerpt into `tests/excerpts/`; a test fails for words that no excerpt has.

mod engine;
mod files;
mod gpu;
mod memory;
mod network;
mod program;

use crate::rule::{On, Rule, When};

/// Ends of tasks that are another task's doing.
const CONSEQUENCES: &[&str] = &["PeerLost", "CollectiveTimeout"];
/// Ends that may be: the other side is not there, or is and cannot be reached.
const MEETINGS: &[&str] = &["NcclConnection", "GlooConnection", "RendezvousTimeout"];

/// How likely it is that a cause is behind other failures beside it, the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blame {
    /// It is its own doing, or not known.
    Own,
    /// It did not meet another one.
    Meeting,
    Consequence,
}

impl Blame {
    pub(crate) fn of(cause: Option<&str>) -> Self {
        match cause {
            Some(cause) if CONSEQUENCES.contains(&cause) => Self::Consequence,
            Some(cause) if MEETINGS.contains(&cause) => Self::Meeting,
            _ => Self::Own,
        }
    }
}

const STOPPED: &[Rule] = &[
    Rule {
        cause: "Stopped",
        on: On::Stopped,
        when: When::Killed,
        summary: "Convoke stopped it, and killed it since it did not end by itself in time",
        advice: "raise `stop_grace_period` if it saves something when it is stopped; a command under `sh -c` \
                 gets the signal only after `exec`",
        key: Some("stop_grace_period"),
    },
    Rule {
        cause: "Stopped",
        on: On::Stopped,
        when: When::Always,
        summary: "Convoke stopped it; it {how}",
        advice: "nothing: look at why it was stopped, `convoke events` says it",
        key: None,
    },
];

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    [STOPPED, engine::RULES, memory::RULES, gpu::RULES, network::RULES, files::RULES, program::RULES]
        .into_iter()
        .flatten()
}

/// True for the cause that says that Convoke stopped it.
pub fn is_stop(cause: &str) -> bool {
    cause == "Stopped"
}

/// True for a cause that says only that another task failed, or did not come along.
pub fn is_consequence(cause: &str) -> bool {
    Blame::of(Some(cause)) == Blame::Consequence
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::facts::ALWAYS;
    use crate::template::required;

    /// Keys of a service in the job file.
    const KEYS: &[&str] = &[
        "command",
        "container_name",
        "depends_on",
        "deploy.placement.constraints",
        "deploy.resources.limits.cpus",
        "deploy.resources.limits.memory",
        "deploy.resources.reservations.devices",
        "devices",
        "environment",
        "extra_hosts",
        "image",
        "network_mode",
        "ports",
        "shm_size",
        "stop_grace_period",
        "ulimits",
        "user",
        "volumes",
        "working_dir",
        "x-convoke.interface",
        "x-convoke.ranks",
    ];

    #[test]
    fn every_key_is_one_of_the_job_file_and_its_advice_names_it() {
        for rule in all() {
            if let Some(key) = rule.key {
                assert!(KEYS.contains(&key), "{}: {key}", rule.cause);
                let named = [format!("`{key}"), format!("`{}", key.rsplit('.').next().unwrap())];
                assert!(named.iter().any(|n| rule.advice.contains(n)), "{}: {}", rule.cause, rule.advice);
            }
        }
    }

    #[test]
    fn every_name_in_a_sentence_has_a_value_or_a_bracket_around_it() {
        for rule in all() {
            let groups = |word: &&str| {
                let regex = Regex::new(word).unwrap();
                regex.capture_names().flatten().map(str::to_owned).collect::<Vec<_>>()
            };
            let words: Vec<Vec<String>> = rule.on.words().iter().map(groups).collect();
            for name in required(rule.summary).into_iter().chain(required(rule.advice)) {
                let caught = !words.is_empty() && words.iter().all(|groups| groups.contains(&name));
                assert!(
                    caught || ALWAYS.contains(&name.as_str()) || sure(rule, &name),
                    "{}: {name}",
                    rule.cause
                );
            }
            let brackets = rule.summary.split('[').skip(1).chain(rule.advice.split('[').skip(1));
            for bracket in brackets {
                let (inside, _) = bracket.split_once(']').unwrap();
                assert!(inside.contains('{'), "{}: [{inside}] is always left in", rule.cause);
            }
        }
    }

    /// Facts that a rule's own evidence gives.
    fn sure(rule: &Rule, name: &str) -> bool {
        match rule.on {
            On::Engine(_) => name == "error",
            On::Traceback => name == "exception",
            On::Worker => name == "worker_code",
            _ => false,
        }
    }

    #[test]
    fn a_cause_is_named_in_camel_case_and_what_may_follow_from_another_is_some_rules() {
        let camel = Regex::new("^([A-Z][a-z]+)+$").unwrap();
        let causes: Vec<&str> = all().map(|rule| rule.cause).collect();
        assert!(causes.iter().all(|cause| camel.is_match(cause)), "{causes:?}");
        assert!(CONSEQUENCES.iter().chain(MEETINGS).all(|cause| causes.contains(cause)));
    }
}
