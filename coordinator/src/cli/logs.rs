//! `convoke logs`: what a job printed.

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::attach::Prefix;
use super::failure::Failure;
use super::follow::{Follow, LogLines};
use super::json::json;
use super::{cause, inspect, output, text};

/// Show what a job printed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke logs train
  convoke logs train -f --rank 0
  convoke logs train --since 10m --tail 100")]
pub(crate) struct Logs {
    /// Id, name (the newest job of it), Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    /// Stay until the job has ended
    #[arg(short, long)]
    follow: bool,

    /// Only the task that runs this rank; may be given several times
    #[arg(long, value_name = "RANK")]
    rank: Vec<u32>,

    /// Only lines printed since then: an age such as 10m, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = text::since)]
    since: Option<u64>,

    /// Only the last lines of each rank
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = inspect::get(&link, &self.job).await?;
        self.note_strangers(&job);
        let ranks = self.rank.iter().map(|rank| cause::task_of(&job, *rank).unwrap_or(*rank)).collect();
        let request = v1::StreamLogsRequest {
            job: job.id.clone(),
            ranks,
            since_unix_ms: self.since,
            tail: self.tail,
            follow: self.follow,
        };
        let mut prefix = Prefix::default();
        prefix.widen(&job);
        let mut lines = Follow::new(link, LogLines::new(request));
        while let Some(batch) = lines.next().await? {
            for line in &batch {
                if context.format.is_json() {
                    output::record(&json("LogLine", line))?;
                } else {
                    output::line(&prefix.line(line))?;
                }
            }
        }
        Ok(())
    }

    /// Only a note: an earlier generation may have had more ranks than the newest one.
    fn note_strangers(&self, job: &v1::Job) {
        let Some(last) = job.world_size.checked_sub(1) else { return };
        for rank in self.rank.iter().filter(|rank| **rank > last) {
            output::note(&format!(
                "job \"{}\" has no rank {rank} in generation {}; its ranks are 0 to {last}",
                text::job_name(job),
                job.generation
            ));
        }
    }
}
