//! `rank 0 · node-a │ ` before each line, so that several ranks can be told apart.

use anstyle::{AnsiColor, Style};
use convoke_proto::v1;

use crate::cli::text;

/// Far enough apart to be told apart on dark and on light grounds.
const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

/// Widths seen so far; they only grow, so that columns stay put.
#[derive(Default)]
pub(crate) struct Prefix {
    rank: usize,
    node: usize,
    /// Job names go before, where several jobs are shown.
    name: Option<String>,
    /// Each line's time goes before its text.
    timed: bool,
}

impl Prefix {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }

    pub(crate) fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// Makes room for the job's ranks and nodes.
    pub(crate) fn widen(&mut self, job: &v1::Job) {
        self.rank = self.rank.max(job.world_size.saturating_sub(1).to_string().len());
        for replica in &job.replicas {
            self.node = self.node.max(replica.node.chars().count());
        }
    }

    /// A log line as it is shown.
    pub(crate) fn line(&self, line: &v1::LogLine) -> String {
        let name = self.name.as_ref().map(|name| format!("{name} · ")).unwrap_or_default();
        let (rank, node) = (self.rank, self.node);
        let prefix = format!("{name}rank {:>rank$} · {:<node$} │", line.rank, line.node);
        let colour = COLOURS[line.rank as usize % COLOURS.len()];
        let style = Style::new().fg_color(Some(colour.into()));
        let time = if self.timed { format!("{} ", text::utc(line.at_unix_ms)) } else { String::new() };
        let text = format!("{time}{}", visible(&line.text));
        match line.source() {
            v1::LogSource::Convoke => {
                let own = text::yellow();
                format!("{style}{prefix}{style:#} {own}{text}{own:#}")
            }
            _ => format!("{style}{prefix}{style:#} {text}"),
        }
    }
}

/// What a terminal would show in the end of a line that was overwritten with carriage returns.
fn visible(text: &str) -> &str {
    text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(prefix: &Prefix, rank: u32, text: &str) -> String {
        let line = v1::LogLine { node: "node-a".into(), rank, text: text.into(), ..Default::default() };
        anstream::adapter::strip_str(&prefix.line(&line)).to_string()
    }

    #[test]
    fn columns_line_up_over_ranks_and_nodes() {
        let mut prefix = Prefix::default();
        let replica = v1::Replica { node: "node-10".into(), ..Default::default() };
        prefix.widen(&v1::Job { world_size: 16, replicas: vec![replica], ..Default::default() });
        assert_eq!(plain(&prefix, 0, "hi"), "rank  0 · node-a  │ hi");
        assert_eq!(plain(&prefix, 12, "hi"), "rank 12 · node-a  │ hi");
    }

    #[test]
    fn a_lines_time_is_told_where_it_is_asked_for() {
        assert_eq!(plain(&Prefix::default().timed(), 0, "hi"), "rank 0 · node-a │ 1970-01-01T00:00:00Z hi");
    }

    #[test]
    fn a_progress_bar_of_the_trainer_does_not_overwrite_the_prefix() {
        assert_eq!(plain(&Prefix::named("a"), 0, "10%\r20%\r"), "a · rank 0 · node-a │ 20%");
    }
}
