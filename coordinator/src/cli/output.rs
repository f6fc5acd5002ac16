//! Where a command's answer goes: tables for people or JSON for programs on stdout, what is said
//! about it on stderr.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::Style;
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{Row, Table};
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

    pub(crate) fn print(mut self) -> Result<(), Failure> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 3));
        }
        for text in self.0.lines() {
            line(text.trim_end())?;
        }
        Ok(())
    }
}

/// `text` in `style`, for a line that anstream prints.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
