//! `convoke restart`: a new generation from the last complete checkpoint.

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::Failure;
use super::names::Within;
use super::stop;

/// Start jobs again from their last complete checkpoint
///
/// Works on a job that runs (it is stopped first) and on one that has ended.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke restart train")]
pub(crate) struct Restart {
    /// Id, name, Compose service, or unique prefix
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,

    #[command(flatten)]
    within: Within,
}

impl Restart {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let mut jobs = Vec::new();
        let scope = self.within.scope(context)?;
        for word in &self.jobs {
            let job = scope.find(&link, word).await?.id;
            let request = v1::RestartJobRequest { job };
            let response = link.call(request, |mut c, r| async move { c.jobs.restart_job(r).await }).await?;
            jobs.extend(response.job);
        }
        stop::print(context, jobs)
    }
}
