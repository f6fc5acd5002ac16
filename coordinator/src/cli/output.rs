//! Where a command's answer goes: tables for people or JSON for programs on stdout, what is said
//! about it on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::Style;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use serde_json::Value;

use super::failure::Failure;

/// Tables and sentences, or one JSON document, or one JSON object a line where the answer is a stream.
// A comment on a variant would stretch every command's help to several lines an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }
}

/// One line on stdout; colours go where there is no terminal for them.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}

/// A whole document on stdout: indented for a terminal, else one line.
pub(crate) fn document(value: &Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "{value:#}")?;
    } else {
        writeln!(out, "{value}")?;
    }
    Ok(())
}

/// One object of a stream on stdout, always on one line.
pub(crate) fn record(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(io::Error::from)?;
    writeln!(io::stdout().lock(), "{line}")?;
    Ok(())
}

/// Something worth knowing beside the answer, on stderr.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Between two columns.
const GAP: u16 = 3;

/// Room for the last cell, with the gap after it, however narrow the terminal is.
const LAST_CELL: u16 = 20;

/// A table without borders, as docker and kubectl print them.
pub(crate) struct Grid(Table);

impl Grid {
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(header.iter().copied());
        Self(table)
    }

    pub(crate) fn row<T: Into<Row>>(&mut self, cells: T) {
        self.0.add_row(cells);
    }

    /// On a terminal a row is a line: its last cell ends with … where it would be longer.
    pub(crate) fn print(self) -> Result<(), Failure> {
        let width = tcgetwinsize(io::stdout()).map(|size| size.ws_col).ok().filter(|width| *width > 0);
        self.lines(width).iter().try_for_each(|text| line(text))
    }

    fn lines(mut self, width: Option<u16>) -> Vec<String> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        if let Some(width) = width {
            let last = self.0.column_count().saturating_sub(1);
            let fixed = self.0.column_max_content_widths().into_iter().take(last);
            let least = fixed.fold(LAST_CELL, |sum, column| sum.saturating_add(column + GAP));
            self.0.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(least));
            self.0.column_iter_mut().take(last).for_each(|column| {
                column.set_constraint(ColumnConstraint::ContentWidth);
            });
            self.0.row_iter_mut().for_each(|row| _ = row.max_height(1));
        }
        self.0.lines().map(|text| text.trim_end().to_owned()).collect()
    }
}

/// `text` in `style`, for a line that anstream prints.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_terminal_a_row_is_a_line_and_elsewhere_all_of_it_is_there() {
        let of = |width| {
            let mut grid = Grid::new(&["NAME", "STATE", "REASON"]);
            let state = paint(super::super::text::red(), "failed");
            grid.row(vec!["train", &state, "rank 0 on node-a: a long story of many words"]);
            grid.row(vec!["other", "running", "short"]);
            let lines = grid.lines(width);
            lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect::<Vec<_>>()
        };
        assert!(of(None)[1].ends_with("of many words"));
        let cut = of(Some(48));
        assert!(
            cut[1].starts_with("train   failed    rank 0 on node-a: a") && cut[1].ends_with('…'),
            "{cut:?}"
        );
        assert!(cut.iter().all(|line| line.chars().count() <= 48), "{cut:?}");
        assert_eq!((cut.len(), cut[2].as_str()), (3, "other   running   short"));
        let narrow = of(Some(10));
        assert!(narrow.len() == 3 && narrow[1].starts_with("train   failed    rank 0"), "{narrow:?}");
    }
}
