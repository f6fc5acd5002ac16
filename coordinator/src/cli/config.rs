//! `convoke config`: the job file as understood.

use clap::Args;

use super::Context;
use super::args::Compose;
use super::failure::Failure;
use super::output;
use super::project::{self, Selection};

/// Print the job file as understood
///
/// Every default spelled out, variables filled in, files merged. What was noted but has no effect
/// is told on stderr.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke config
  convoke config -f compose.yaml -f compose.gpu.yaml
  convoke config -o json | jq .services")]
pub(crate) struct Config {
    #[command(flatten)]
    pub(super) compose: Compose,

    /// Only these services, and those they depend on [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// As with `up --nodes`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,

    /// Print nothing; only say whether the file is right
    #[arg(short, long)]
    quiet: bool,
}

impl Config {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let selection = Selection { services: self.services, nodes: self.nodes };
        let project = project::load(context, self.compose, selection)?;
        project::tell_notes(&project);
        if self.quiet {
            return Ok(());
        }
        if context.format.is_json() {
            return output::document(&project.to_json());
        }
        output::line(project.to_yaml().trim_end())
    }
}
