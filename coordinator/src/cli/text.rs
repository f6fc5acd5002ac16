//! Times, sizes and states in words for people.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use convoke_model::Condition;
use convoke_proto::v1;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A duration in its two largest units: `2h 5m`, `42s`; below a second, `0s`.
pub(crate) fn short(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// How long ago `unix_ms` was.
pub(crate) fn age(unix_ms: u64) -> String {
    short(Duration::from_millis(now_ms().saturating_sub(unix_ms)))
}

/// Local date and time with its zone, to the second.
pub(crate) fn local_time(unix_ms: u64) -> String {
    let Some(at) = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) else {
        return format!("{unix_ms} ms");
    };
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A time as programs read it: `2026-01-31T08:00:00.123Z`.
pub(crate) fn utc(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| format!("{unix_ms} ms"), |at| at.to_string())
}

/// A size in IEC units with the digits that matter: `1.6 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// A number with its thousands set apart: `2,001`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2,001 files`.
pub(crate) fn files(n: u64) -> String {
    format!("{} {}", grouped(n), if n == 1 { "file" } else { "files" })
}

/// `10m`, or a number of seconds as docker and timeout(1) take it.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text),
    }
}

/// `10m` (ago) or an RFC 3339 time, as Unix milliseconds.
pub(crate) fn since(text: &str) -> Result<u64, String> {
    if let Ok(ago) = duration(text) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(now_ms().saturating_sub(ago));
    }
    let at: Timestamp = text.parse().map_err(|_| {
        format!("\"{text}\" is neither a duration such as 10m nor a time such as 2026-01-31T08:00:00Z")
    })?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

/// A number as a person would round it: four significant digits, none of them invented.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    // Casting is exact: the exponent of an f64 is within ±324.
    let digits = 3 - value.abs().log10().floor() as i32;
    if (0..=9).contains(&digits) {
        format!("{value:.*}", digits.unsigned_abs() as usize)
    } else if digits < 0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3e}")
    }
}

pub(crate) fn job_state(job: &v1::Job) -> &'static str {
    match job.state() {
        v1::JobState::Unspecified => "unspecified",
        v1::JobState::Queued => "queued",
        v1::JobState::Starting => "starting",
        v1::JobState::Running => "running",
        v1::JobState::Stopping => "stopping",
        v1::JobState::Succeeded => "succeeded",
        v1::JobState::Failed => "failed",
        v1::JobState::Stopped => "stopped",
    }
}

pub(crate) fn job_style(job: &v1::Job) -> Style {
    match job.state() {
        v1::JobState::Running | v1::JobState::Succeeded => green(),
        v1::JobState::Failed => red(),
        v1::JobState::Queued | v1::JobState::Starting | v1::JobState::Stopping => yellow(),
        v1::JobState::Stopped | v1::JobState::Unspecified => Style::new(),
    }
}

pub(crate) fn is_final(job: &v1::Job) -> bool {
    matches!(job.state(), v1::JobState::Succeeded | v1::JobState::Failed | v1::JobState::Stopped)
}

/// The job's name, or its id where the coordinator left the spec out.
pub(crate) fn job_name(job: &v1::Job) -> &str {
    job.spec.as_ref().map_or(job.id.as_str(), |spec| spec.name.as_str())
}

/// `node-a (ranks 0-1), node-b (ranks 2-3)`.
pub(crate) fn placement(replicas: &[v1::Replica]) -> String {
    let one = |r: &v1::Replica| format!("{} ({})", r.node, ranks(r.first_rank, r.local_world));
    replicas.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn ranks(first: u32, count: u32) -> String {
    match count {
        0 | 1 => format!("rank {first}"),
        n => format!("ranks {first}-{}", first.saturating_add(n - 1)),
    }
}

/// `rank 2`, `ranks 1, 2, 5`.
pub(crate) fn rank_list(ranks: &[u32]) -> String {
    let listed = ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    format!("rank{} {listed}", if ranks.len() == 1 { "" } else { "s" })
}

/// How a task ended: `exit code 3`, `killed by signal 9`.
pub(crate) fn exit(exit: &v1::TaskExit) -> String {
    use v1::task_exit::Status;
    match exit.status {
        Some(Status::Code(code)) => format!("exit code {code}"),
        Some(Status::Signal(signal)) => format!("killed by signal {signal}"),
        // What never started has no end of its own, but a reason.
        Some(Status::Unknown(_)) | None => match exit.message.lines().next() {
            Some(reason) => reason.to_owned(),
            None => "unknown end".to_owned(),
        },
    }
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

pub(crate) fn green() -> Style {
    Style::new().fg_color(Some(AnsiColor::Green.into()))
}

pub(crate) fn yellow() -> Style {
    Style::new().fg_color(Some(AnsiColor::Yellow.into()))
}

pub(crate) fn red() -> Style {
    Style::new().fg_color(Some(AnsiColor::Red.into()))
}

pub(crate) fn bold() -> Style {
    Style::new().bold()
}

pub(crate) fn dim() -> Style {
    Style::new().dimmed()
}

/// What nodes say of files and checkpoints of a job that are still there: node and message.
pub(crate) fn still_on_nodes(job: &v1::Job) -> Vec<(&str, &str)> {
    let names = [Condition::RETURNING_FILES, Condition::FILES_NOT_RETURNED, Condition::CHECKPOINT_NOT_STORED];
    let told = job.replicas.iter().flat_map(|r| r.conditions.iter().map(move |c| (r.node.as_str(), c)));
    let still = told.filter(|(_, condition)| names.contains(&condition.name.as_str()));
    still.map(|(node, condition)| (node, condition.message.as_str())).collect()
}

/// The first node on which somebody has paused a container of the job.
pub(crate) fn paused_on(job: &v1::Job) -> Option<&str> {
    let paused = |r: &&v1::Replica| r.conditions.iter().any(|c| c.name == Condition::TASK_PAUSED);
    job.replicas.iter().find(paused).map(|replica| replica.node.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_shows_its_two_largest_units() {
        assert_eq!(short(Duration::from_millis(400)), "0s");
        assert_eq!(short(Duration::from_millis(61_900)), "1m 1s");
        assert_eq!(short(Duration::from_secs(7_384)), "2h 3m");
    }

    #[test]
    fn since_takes_an_age_or_a_time_and_names_both_otherwise() {
        let ten_minutes_ago = since("10m").unwrap();
        assert!(now_ms() - ten_minutes_ago >= 600_000);
        assert_eq!(since("1970-01-01T00:00:02Z"), Ok(2_000));
        assert_eq!(since("1970-01-01T01:00:00+01:00"), Ok(0));
        assert!(since("yesterday").unwrap_err().contains("10m"));
        assert_eq!(since("999999years"), Ok(0));
    }

    #[test]
    fn a_duration_has_a_unit_or_is_of_seconds() {
        assert_eq!(duration("1"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert!(duration("-1").is_err() && duration("x").is_err());
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        assert_eq!(number(0.123_456), "0.1235");
        assert_eq!(number(1234.567), "1235");
        assert_eq!(number(500.0), "500");
        assert_eq!(number(0.000_000_123_4), "1.234e-7");
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn large_numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 2_001, 1_000_000].map(grouped), ["0", "999", "2,001", "1,000,000"]);
    }

    #[test]
    fn ranks_of_one_replica_read_as_a_range() {
        assert_eq!(ranks(2, 1), "rank 2");
        assert_eq!(ranks(2, 2), "ranks 2-3");
    }
}
