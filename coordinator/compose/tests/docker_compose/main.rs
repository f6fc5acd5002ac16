//! Every file of the corpus means to Convoke what `docker-compose config` of Debian (1.29) prints of
//! it, on the keys that Convoke honours and before its own defaults.
//!
//! Where docker-compose is not there, or is another one, each case is reported as ignored, under a name
//! that says so.

mod ours;
mod theirs;
mod units;

#[path = "../support/case.rs"]
mod case;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use case::{Case, TOO_OLD};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value as Json;

use crate::ours::Facts;

/// What docker-compose's first line names; the one that has its libraries.
const PYTHON: &str = "/usr/bin/python3";

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Each waits for a process of its own that computes; more than the processors only wait longer.
    args.test_threads = args.test_threads.or(Some(2));
    let missing = missing().err();
    let trials = case::corpus().into_iter().map(|case| {
        let name = format!("{}_means_what_docker_compose_says", case.name.replace('-', "_"));
        match &missing {
            None => Trial::test(name, move || story(&case)),
            Some(why) => Trial::test(format!("{name} (not run: {why})"), || Ok(())).with_ignored_flag(true),
        }
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

/// Why docker-compose cannot be asked.
fn missing() -> Result<(), String> {
    let said = Command::new("docker-compose").args(["version", "--short"]).output();
    let said = said.map_err(|_| "docker-compose is not installed".to_owned())?;
    let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if !version.starts_with("1.29.") {
        return Err(format!("docker-compose is \"{version}\", and 1.29 is compared with"));
    }
    match Command::new(PYTHON).args(["-c", "import yaml"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!("{PYTHON} has no yaml")),
    }
}

fn story(case: &Case) -> Result<(), Failed> {
    let project = case.load().map_err(|e| format!("refused:\n{e}"))?;
    let ours = ours::facts(&project);
    let scratch = tempfile::tempdir()?;
    // Links are resolved: docker-compose prints paths as the system tells them.
    let dir = scratch.path().canonicalize()?.join(&case.name);
    copy(&case.dir, &dir)?;
    let config = config(case, &dir)?;
    let profiles = case.profiles();
    let setting = theirs::Setting { dir: &dir, project: &project.name, profiles: &profiles };
    let theirs = theirs::facts(&config, &setting);
    let differences = differences(case, &ours, theirs);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n").into()) }
}

/// Facts that are not the same, one a line.
fn differences(case: &Case, ours: &Facts, theirs: theirs::Understood) -> Vec<String> {
    let theirs::Understood { mut facts, mut numbers } = theirs;
    let mut differences = Vec::new();
    for judged in &case.judged {
        if facts.get(&judged.path) == judged.value.as_ref() {
            differences
                .push(format!("{}: docker-compose says so itself; nothing is to be judged", judged.path));
        }
        numbers.remove(&judged.path);
        match &judged.value {
            Some(value) => _ = facts.insert(judged.path.clone(), value.clone()),
            None => _ = facts.remove(&judged.path),
        }
    }
    let paths: std::collections::BTreeSet<&String> = ours.keys().chain(facts.keys()).collect();
    for path in paths {
        let (mine, other) = (ours.get(path), facts.get(path));
        // Of a number docker-compose keeps what it counts, and not how it was written.
        let same_number = || {
            let number = mine?.parse::<f64>().ok()?;
            Some(numbers.get(path)?.to_bits() == number.to_bits())
        };
        if mine != other && same_number() != Some(true) {
            let show = |text: Option<&String>| text.map_or("nothing".to_owned(), |t| format!("{t:?}"));
            differences.push(format!("{path}: Convoke has {}, docker-compose {}", show(mine), show(other)));
        }
    }
    differences
}

/// A copy of a case without the lines that docker-compose 1.29 cannot read.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
            continue;
        }
        let text = fs::read_to_string(entry.path())?;
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(TOO_OLD)).collect();
        fs::write(target, kept)?;
    }
    Ok(())
}

/// What `docker-compose config` prints, with command strings cut into words.
fn config(case: &Case, dir: &PathBuf) -> Result<Json, Failed> {
    let mut compose = Command::new("docker-compose");
    compose.args(&case.args).arg("config").current_dir(dir).env_clear().envs(&case.env);
    compose.envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("LANG", "C.UTF-8");
    let printed = compose.output()?;
    if !printed.status.success() {
        return Err(format!("docker-compose: {}", String::from_utf8_lossy(&printed.stderr)).into());
    }
    let mut python = Command::new(PYTHON);
    python.args(["-c", include_str!("oracle.py")]).env_clear().env("LANG", "C.UTF-8");
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    python.stdin.take().expect("it was piped").write_all(&printed.stdout)?;
    let output = python.wait_with_output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}
