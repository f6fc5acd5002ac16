//! `convoke metrics`: what a job measured.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::Failure;
use super::follow::{Follow, Metrics as Source};
use super::json::json;
use super::names::Within;
use super::output::{self, Grid};
use super::text;

/// Points that a sparkline shows.
const SPARK: usize = 40;

/// Show what a job measured
///
/// A table of each rank's newest values and how rank 0's went; with -f, or with -o json, every
/// record on a line of its own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke metrics train
  convoke metrics train -f --rank 0
  convoke metrics train -o json | jq '[.step, .values.loss]'")]
pub(crate) struct Metrics {
    /// Id, name (the newest job of it), Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    /// Stay until the job has ended
    #[arg(short, long)]
    follow: bool,

    /// Only this rank; may be given several times
    #[arg(long, value_name = "RANK")]
    rank: Vec<u32>,

    /// Only records since then: an age such as 10m, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = text::since)]
    since: Option<u64>,

    #[command(flatten)]
    within: Within,
}

impl Metrics {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = self.within.scope(context)?.find(&link, &self.job).await?;
        let request = v1::StreamMetricsRequest {
            job: job.id,
            ranks: self.rank,
            since_unix_ms: self.since,
            follow: self.follow,
            latest: false,
        };
        let mut records = Follow::new(link, Source::new(request));
        let mut history = History::default();
        while let Some(batch) = records.next().await? {
            for record in batch {
                if context.format.is_json() {
                    output::record(&json("MetricRecord", &record))?;
                } else if self.follow {
                    output::line(&sentence(&record))?;
                } else {
                    history.add(record);
                }
            }
        }
        if self.follow || context.format.is_json() {
            return Ok(());
        }
        history.print()
    }
}

/// One record on one line.
fn sentence(record: &v1::MetricRecord) -> String {
    let values: BTreeMap<_, _> = record.values.iter().collect();
    let values: Vec<_> = values.into_iter().map(|(k, v)| format!("{k} {}", text::number(*v))).collect();
    let at = text::local_time(record.at_unix_ms);
    format!("{at}  rank {} · {}  step {}  {}", record.rank, record.node, record.step, values.join("  "))
}

/// The newest record of each rank, and the last values of the lowest rank.
#[derive(Default)]
struct History {
    newest: BTreeMap<u32, v1::MetricRecord>,
    /// By key, at most twice [`SPARK`] values, of rank `lowest`.
    series: BTreeMap<String, Series>,
    lowest: Option<u32>,
}

/// A series of any length in few points: when full, every second point goes.
#[derive(Default)]
struct Series {
    points: Vec<f64>,
    /// Values that one point stands for.
    stride: usize,
    skipped: usize,
}

impl Series {
    fn add(&mut self, value: f64) {
        self.stride = self.stride.max(1);
        self.skipped += 1;
        if self.skipped < self.stride && !self.points.is_empty() {
            return;
        }
        self.skipped = 0;
        self.points.push(value);
        if self.points.len() >= 2 * SPARK {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

impl History {
    fn add(&mut self, record: v1::MetricRecord) {
        if self.lowest.is_none_or(|lowest| record.rank < lowest) {
            self.lowest = Some(record.rank);
            self.series.clear();
        }
        if self.lowest == Some(record.rank) {
            for (key, value) in &record.values {
                self.series.entry(key.clone()).or_default().add(*value);
            }
        }
        self.newest.insert(record.rank, record);
    }

    fn print(&self) -> Result<(), Failure> {
        if self.newest.is_empty() {
            output::note(
                "no metrics; a trainer reports them as JSON lines with a `step`, on stdout or in $CONVOKE_METRICS",
            );
            return Ok(());
        }
        let keys: BTreeSet<&str> =
            self.newest.values().flat_map(|r| r.values.keys()).map(String::as_str).collect();
        let mut header = vec!["RANK".to_owned(), "NODE".to_owned(), "STEP".to_owned()];
        header.extend(keys.iter().map(|k| k.to_uppercase()));
        let mut grid = Grid::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for (rank, record) in &self.newest {
            let mut row = vec![rank.to_string(), record.node.clone(), record.step.to_string()];
            row.extend(
                keys.iter().map(|k| record.values.get(*k).map_or("-".to_owned(), |v| text::number(*v))),
            );
            grid.row(row);
        }
        grid.print()?;
        self.print_lines()
    }

    fn print_lines(&self) -> Result<(), Failure> {
        let width = self.series.keys().map(String::len).max().unwrap_or(0);
        for (key, series) in &self.series {
            let (line, low, high) = sparkline(&series.points);
            if low < high {
                let range = format!("{} … {}", text::number(low), text::number(high));
                output::line(&format!("{key:<width$}   {line}   {range}"))?;
            }
        }
        Ok(())
    }
}

/// The finite `values` as a row of bars, with their least and their greatest.
fn sparkline(values: &[f64]) -> (String, f64, f64) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let bar = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.0 };
        // In range by construction: share is within 0..=1.
        BARS[((share * 7.0).round() as usize).min(7)]
    };
    (finite().map(bar).collect(), low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_spans_its_range_and_skips_what_is_not_a_number() {
        let (line, low, high) = sparkline(&[0.0, f64::NAN, 3.5, 7.0]);
        assert_eq!(line, "▁▅█");
        assert_eq!((low, high), (0.0, 7.0));
        assert_eq!(sparkline(&[2.0, 2.0]).0, "▁▁");
        assert_eq!(sparkline(&[]).0, "");
    }

    #[test]
    fn a_long_series_stays_small_and_keeps_its_shape() {
        let mut series = Series::default();
        for i in 0..100_000 {
            series.add(f64::from(i));
        }
        assert!(series.points.len() < 2 * SPARK && series.points.len() >= SPARK / 2);
        assert!(series.points.is_sorted());
        assert!(series.points[0] < 1.0 && *series.points.last().unwrap() > 90_000.0);
    }
}
