//! Commands of docker, compose and kubectl that are called otherwise here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What to do instead, if `error` is about such a command.
pub(crate) fn instead(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    equivalent(word).map(|what| format!("there is no `convoke {word}`: {what}"))
}

fn equivalent(word: &str) -> Option<&'static str> {
    Some(match word {
        "rm" | "delete" | "prune" => {
            "`convoke stop JOB` or `convoke down` ends jobs; ended ones need no removing"
        }
        "kill" => "`convoke stop --grace 0s JOB` ends a job without waiting",
        "start" | "unpause" => "`convoke restart JOB` starts a job again, from its last checkpoint",
        "pause" => {
            "`convoke stop JOB` ends a job, and `convoke restart JOB` goes on from its last checkpoint"
        }
        "create" | "apply" => "`convoke up -d` submits the services of a Compose file",
        "build" => "`convoke up --build` builds images and takes them along",
        "stats" | "top" => {
            "`convoke nodes` shows who uses which devices, `convoke metrics JOB` what a job measures, and \
             `convoke exec JOB nvidia-smi` looks inside"
        }
        "version" => "`convoke --version` tells it",
        "ls" | "list" | "get" => "`convoke ps` lists jobs, `convoke nodes` hosts",
        "describe" | "show" => "`convoke inspect JOB` shows all of a job",
        "attach" => "`convoke logs -f JOB` follows a job, `convoke exec JOB sh` gets into it",
        "scale" => "`convoke up --nodes N --replace` goes on with another number of nodes",
        "port-forward" => "`convoke port JOB PORT` brings a port here",
        "push" | "images" => "images travel by themselves; see `convoke up --help`",
        _ => return None,
    })
}
