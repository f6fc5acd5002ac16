//! Loading a project: what files say is what is understood.

mod any;
mod files;
mod keys;
mod select;

use std::collections::BTreeMap;
use std::path::PathBuf;

use convoke_compose::{LoadOptions, Project};
use convoke_model::JobSpec;

/// Files below `/home/u/My Demo`, which is where the user stands.
const DIR: &str = "/home/u/My Demo";

fn load_with(
    files: &[(&str, &str)],
    set: impl FnOnce(&mut LoadOptions),
) -> Result<Project, convoke_compose::ComposeErrors> {
    let files: BTreeMap<PathBuf, String> =
        files.iter().map(|(name, text)| (PathBuf::from(DIR).join(name), (*text).to_owned())).collect();
    let mut options = LoadOptions { working_dir: DIR.into(), ..LoadOptions::default() };
    set(&mut options);
    Project::load_from(&options, &files)
}

fn load(files: &[(&str, &str)]) -> Project {
    load_with(files, |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn only_job(project: Project) -> JobSpec {
    let [job]: [JobSpec; 1] = project.jobs.try_into().expect("one job");
    job
}

/// One service from lines below `train:`.
fn service(lines: &str) -> JobSpec {
    only_job(load(&[("compose.yaml", &text(lines))]))
}

fn text(lines: &str) -> String {
    let lines: String = lines.lines().map(|l| format!("    {l}\n")).collect();
    format!("services:\n  train:\n    image: i\n{lines}")
}

fn notes(project: &Project) -> String {
    project.notes.iter().map(|n| format!("{n}\n")).collect()
}

const PLAIN: &str = "services:\n  train:\n    image: i\n";
