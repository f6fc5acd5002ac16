//! `convoke events`: the cluster's history.

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::Failure;
use super::follow::{Events as Source, Follow};
use super::json::json;
use super::names::Within;
use super::output::{self, paint};
use super::text;

/// Show what happened in the cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke events
  convoke events -f
  convoke events --job train --since 1h")]
pub(crate) struct Events {
    /// Stay, and show what happens from now on
    #[arg(short, long)]
    follow: bool,

    /// Only this job: id, name, Compose service, or unique prefix
    #[arg(long, value_name = "JOB")]
    job: Option<String>,

    /// Only what happened since then: an age such as 10m, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = text::since)]
    since: Option<u64>,

    #[command(flatten)]
    within: Within,
}

impl Events {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = match &self.job {
            Some(job) => self.within.scope(context)?.find(&link, job).await?.id,
            None => String::new(),
        };
        let request = v1::StreamEventsRequest { from_sequence: 0, follow: self.follow, job };
        let mut events = Follow::new(link, Source { request });
        while let Some(batch) = events.next().await? {
            let wanted = |event: &&v1::Event| self.since.is_none_or(|since| event.at_unix_ms >= since);
            for event in batch.iter().filter(wanted) {
                if context.format.is_json() {
                    output::record(&json("Event", event))?;
                } else {
                    output::line(&sentence(event))?;
                }
            }
        }
        Ok(())
    }
}

fn sentence(event: &v1::Event) -> String {
    let style = match event.level() {
        v1::EventLevel::Warning => text::yellow(),
        v1::EventLevel::Info | v1::EventLevel::Unspecified => text::dim(),
    };
    let subject = event.job_name.as_deref().or(event.node.as_deref()).unwrap_or("-");
    let kind = format!("{:<24}", event.kind);
    format!("{}  {}{subject:<16}  {}", text::local_time(event.at_unix_ms), paint(style, &kind), event.message)
}
