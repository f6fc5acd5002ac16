//! The Compose project that a command works on.

use std::path::PathBuf;

use convoke_compose::{LoadOptions, Project};

use super::Context;
use super::args::Compose;
use super::failure::Failure;
use super::output;

/// What selects and changes the project's jobs beyond its files.
#[derive(Default)]
pub(crate) struct Selection {
    /// Empty is every service.
    pub(crate) services: Vec<String>,
    pub(crate) nodes: Option<u32>,
}

/// Loads the project; its problems are a usage error. Notes are the caller's to tell.
pub(crate) fn load(context: &Context, compose: Compose, selection: Selection) -> Result<Project, Failure> {
    let compose = context.compose.clone().with(compose);
    let options = LoadOptions {
        working_dir: working_dir()?,
        files: compose.file,
        project_dir: compose.project_directory,
        project_name: compose.project_name,
        env: std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        env_files: compose.env_file,
        profiles: compose.profile,
        services: selection.services,
        nodes: selection.nodes,
    };
    Project::load(&options).map_err(|errors| {
        let mut failure = Failure::usage(errors.to_string());
        failure.reason = "JOB_FILE".to_owned();
        failure
    })
}

/// The notes of a load, on stderr.
pub(crate) fn tell_notes(project: &Project) {
    for note in &project.notes {
        output::note(&format!("note: {note}"));
    }
}

fn working_dir() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|e| {
        Failure::usage(format!("the current directory cannot be told: {e}"))
            .hint("change to a directory that exists")
    })
}
