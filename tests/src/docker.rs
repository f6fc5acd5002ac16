//! The host's Docker Engine as its users see it: through the `docker` command.

use std::process::{Command, Output};

/// Runs `docker`; returns what it printed.
///
/// # Panics
/// Where it fails, with its own words.
pub fn docker(args: &[&str]) -> String {
    let output = run(args).expect("the docker command can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn run(args: &[&str]) -> std::io::Result<Output> {
    Command::new("docker").args(args).output()
}

/// What is missing on this host before containers of these images can run.
pub(crate) fn missing(images: &[&str]) -> Option<String> {
    match run(&["version", "--format", "{{.Server.Version}}"]) {
        Err(error) => return Some(format!("the docker command: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            return Some(said.lines().next().unwrap_or("no Docker Engine answers").to_owned());
        }
        Ok(_) => {}
    }
    let lacks = |image: &&&str| !run(&["image", "inspect", image]).is_ok_and(|o| o.status.success());
    images.iter().find(lacks).map(|image| format!("no image {image}"))
}

/// The containers of one cluster, whoever made them.
#[derive(Debug)]
pub struct Containers {
    filter: String,
}

impl Containers {
    pub fn of_cluster(cluster: &str) -> Self {
        Self { filter: format!("label=convoke.cluster={cluster}") }
    }

    /// Their names, in any state.
    pub fn list(&self) -> Vec<String> {
        self.ps("{{.Names}}", &[])
    }

    /// The running container of a job's rank, by its id.
    pub fn of_rank(&self, job: &str, rank: u32) -> Option<String> {
        let labels = [format!("label=convoke.job={job}"), format!("label=convoke.rank={rank}")];
        self.ps("{{.ID}}", &[&labels[0], &labels[1], "status=running"]).into_iter().next()
    }

    /// Removes them all.
    pub fn remove(&self) {
        for id in self.ps("{{.ID}}", &[]) {
            // It may be going just now.
            let _ = run(&["rm", "--force", "--volumes", &id]);
        }
    }

    fn ps(&self, format: &str, filters: &[&str]) -> Vec<String> {
        let mut args = vec!["ps", "--all", "--no-trunc", "--format", format, "--filter", &self.filter];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        let output = run(&args).map(|o| o.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().map(str::to_owned).collect()
    }
}
