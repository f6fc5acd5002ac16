//! `convoke demo`.

use clap::Args;

use super::Context;
use super::failure::Failure;

/// Train on handwritten digits with a whole cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  convoke demo\n  convoke demo --kill-rank 2")]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) async fn run(self, _context: &Context) -> Result<(), Failure> {
        Err(Failure::new(1, "NOT_BUILT", "not built yet"))
    }
}
