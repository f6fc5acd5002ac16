//! Arguments that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice};

use super::output::Format;

/// Options that every command takes, before or after its name.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Address of the coordinator [env: CONVOKE_COORDINATOR]
    // By `env` it would be told as a required one in every usage.
    #[arg(
        long, global = true, value_name = "URL", default_value_t = coordinator(),
        help_heading = "Global options"
    )]
    pub(crate) coordinator: String,

    /// How answers are printed: tables, or JSON (a stream: one object a line)
    #[arg(
        long,
        short = 'o',
        global = true,
        value_name = "FORMAT",
        env = "CONVOKE_OUTPUT",
        default_value = "table",
        help_heading = "Global options"
    )]
    pub(crate) output: Format,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub(crate) color: ColorChoice,

    /// How long to try again when the coordinator goes away in the middle of a command
    #[arg(
        long, global = true, value_name = "DURATION", env = "CONVOKE_PATIENCE", default_value = "5m",
        value_parser = super::text::duration, help_heading = "Global options"
    )]
    pub(crate) patience: Duration,
}

fn coordinator() -> String {
    let named = std::env::var("CONVOKE_COORDINATOR").ok().filter(|url| !url.is_empty());
    named.unwrap_or_else(|| format!("http://{}", convoke_coordinator::DEFAULT_LISTEN))
}

/// Words of `docker run` and `docker exec` that ask for what happens anyway, but for a terminal of `run`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Habits {
    #[arg(short, long, hide = true)]
    interactive: bool,
    #[arg(short, long, hide = true)]
    tty: bool,
    #[arg(long, hide = true)]
    rm: bool,
}

impl Habits {
    pub(crate) fn wants_terminal(&self) -> bool {
        self.interactive || self.tty
    }
}

/// Which Compose project, read how. Taken before the command's name (as `docker compose` does) or
/// after it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Compose {
    /// Compose file; several are merged, later ones winning [default: compose.yaml here or above]
    #[arg(short, long = "file", value_name = "FILE", help_heading = "Compose options")]
    pub(crate) file: Vec<PathBuf>,

    /// File of variables for interpolation [default: .env beside the Compose file]
    #[arg(long, value_name = "FILE", help_heading = "Compose options")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Name of the project [default: the file's `name`, or its directory's name]
    #[arg(short, long, value_name = "PROJECT", help_heading = "Compose options")]
    pub(crate) project_name: Option<String>,

    /// Directory that relative paths mean [default: the first Compose file's]
    #[arg(long, value_name = "DIR", help_heading = "Compose options")]
    pub(crate) project_directory: Option<PathBuf>,

    /// Also take services of this profile
    #[arg(long, value_name = "PROFILE", help_heading = "Compose options")]
    pub(crate) profile: Vec<String>,
}

impl Compose {
    /// These options, with `inner`'s (given after the command's name) added or put in their place.
    pub(crate) fn with(mut self, inner: Self) -> Self {
        self.file.extend(inner.file);
        self.env_file.extend(inner.env_file);
        self.profile.extend(inner.profile);
        self.project_name = inner.project_name.or(self.project_name);
        self.project_directory = inner.project_directory.or(self.project_directory);
        self
    }
}
