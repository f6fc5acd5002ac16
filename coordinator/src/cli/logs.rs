//! `convoke logs`: what a job printed.

use clap::Args;
use convoke_proto::v1;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Context;
use super::attach::Prefix;
use super::failure::Failure;
use super::follow::{Follow, LogLines};
use super::json::json;
use super::link::Link;
use super::names::Within;
use super::{cause, output, text};

/// Show what a job printed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke logs train
  convoke logs train -f --rank 0
  convoke logs train --since 10m --tail 100
  convoke logs -f                     # all services of the project in this directory")]
pub(crate) struct Logs {
    /// Id, name (the newest job of it), Compose service, or unique prefix [default: all services of the project]
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,

    /// Stay until the job has ended
    #[arg(short, long)]
    follow: bool,

    /// Only the task that runs this rank; may be given several times
    #[arg(long, value_name = "RANK")]
    rank: Vec<u32>,

    /// Only lines printed since then: an age such as 10m, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = text::since)]
    since: Option<u64>,

    /// Only the last lines of each rank, or `all`
    #[arg(short = 'n', long, value_name = "LINES|all", default_value = "all", hide_default_value = true, value_parser = last)]
    tail: Last,

    /// With the time of each line
    #[arg(short, long)]
    timestamps: bool,

    #[command(flatten)]
    within: Within,
}

/// How many lines; `None` is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last(Option<u32>);

fn last(text: &str) -> Result<Last, String> {
    match text {
        "all" => Ok(Last(None)),
        _ => text.parse().map(|n| Last(Some(n))).map_err(|_| "write a number of lines, or all".to_owned()),
    }
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let jobs = self.jobs(context, &link).await?;
        let several = jobs.len() > 1;
        let (mut prefixes, mut streams) = (Vec::new(), Vec::new());
        for (index, job) in jobs.iter().enumerate() {
            self.note_strangers(job);
            let name = several.then(|| text::job_name(job));
            let mut prefix = name.map(Prefix::named).unwrap_or_default();
            prefix.widen(job);
            prefixes.push(if self.timestamps { prefix.timed() } else { prefix });
            let lines = Follow::new(link.clone(), LogLines::new(self.request(job)));
            streams.push(Box::pin(stream::try_unfold(lines, move |mut lines| async move {
                let batch = lines.next().await?;
                Ok::<_, Failure>(batch.map(|batch| ((index, batch), lines)))
            })));
        }
        // What is still to come is told as it comes; what is there, job by job.
        let mut lines = match self.follow {
            true => stream::select_all(streams).left_stream(),
            false => stream::iter(streams).flatten().right_stream(),
        };
        while let Some((index, batch)) = lines.try_next().await? {
            for line in &batch {
                if context.format.is_json() {
                    let mut record = json("LogLine", line);
                    if several {
                        record["job"] = text::job_name(&jobs[index]).into();
                    }
                    output::record(&record)?;
                } else {
                    output::line(&prefixes[index].line(line))?;
                }
            }
        }
        Ok(())
    }

    async fn jobs(&self, context: &Context, link: &Link) -> Result<Vec<v1::Job>, Failure> {
        let scope = self.within.scope(context)?;
        if self.jobs.is_empty() {
            return scope.all(link).await;
        }
        let mut jobs = Vec::new();
        for word in &self.jobs {
            jobs.push(scope.find(link, word).await?);
        }
        Ok(jobs)
    }

    fn request(&self, job: &v1::Job) -> v1::StreamLogsRequest {
        v1::StreamLogsRequest {
            job: job.id.clone(),
            ranks: self.rank.iter().map(|rank| cause::task_of(job, *rank).unwrap_or(*rank)).collect(),
            since_unix_ms: self.since,
            tail: self.tail.0,
            follow: self.follow,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_a_number_of_lines_or_all() {
        assert_eq!((last("3"), last("all")), (Ok(Last(Some(3))), Ok(Last(None))));
        assert!(last("-1").is_err() && last("some").is_err());
    }
}
