//! `convoke exec`: a command inside a running task.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, IsTerminal as _};

use clap::Args;
use convoke_proto::v1;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::channel::{self, Input, Output};
use super::terminal::{self, Raw};
use crate::cli::Context;
use crate::cli::args::Habits;
use crate::cli::failure::{Failure, exit};
use crate::cli::names::Within;

/// Run a command inside a running task
///
/// With a terminal on standard input and output, the command gets one too. The exit code is the
/// command's own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke exec train bash
  convoke exec --rank 3 train nvidia-smi
  convoke exec -T train cat /workspace/log.txt > log.txt")]
pub(crate) struct Exec {
    /// The rank in whose task it runs
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: u32,

    /// No terminal for the command, whatever this one is
    #[arg(short = 'T', long)]
    no_tty: bool,

    /// User inside the container
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// A variable for the command; may be repeated
    #[arg(short, long = "env", value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,

    #[command(flatten)]
    within: Within,

    #[command(flatten)]
    habits: Habits,

    /// Id, name, Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `K=V`, or the name of a variable of this process.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("a variable needs a name: K=V".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => std::env::var(text)
            .map(|value| (text.to_owned(), value))
            .map_err(|_| format!("{text} is not set here; write {text}=VALUE")),
    }
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = self.within.scope(context)?.find_running(&link, &self.job).await?;
        let tty = !self.no_tty && io::stdin().is_terminal() && io::stdout().is_terminal();
        let (rows, columns) = if tty { terminal::size() } else { (0, 0) };
        let target = Target::Exec(v1::TunnelExec {
            task: None,
            command: self.command,
            tty,
            rows,
            columns,
            user: self.user.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            environment: self.env.into_iter().collect::<HashMap<_, _>>(),
        });
        let (input, output) = channel::open(&link, &job.id, self.rank, target).await?;
        let raw = if tty { Some(Raw::enter()?) } else { None };
        let ended = converse(input, output, tty).await;
        drop(raw);
        match ended? {
            0 => Ok(()),
            code => Err(Failure::silent(u8::try_from(code).unwrap_or(exit::FAILED))),
        }
    }
}

/// Passes keys and output until the command's end; its exit code. The two go side by side: a command that
/// prints while it reads must not wait for itself.
async fn converse(input: Input, output: Output, tty: bool) -> Result<i32, Failure> {
    let resized = signal(SignalKind::window_change())?;
    tokio::select! {
        ended = show(output) => ended,
        never = type_in(input, resized, tty) => match never {},
    }
}

async fn show(mut output: Output) -> Result<i32, Failure> {
    loop {
        match output.next().await? {
            Some(Frame::Data(bytes)) => print(&mut io::stdout().lock(), &bytes)?,
            Some(Frame::ErrorData(bytes)) => print(&mut io::stderr().lock(), &bytes)?,
            Some(Frame::Exit(ended)) => return Ok(ended.code),
            Some(_) => {}
            None => return Err(channel::broken()),
        }
    }
}

/// Keeps the sending half open, also when nothing more is typed: its end would be our going away.
async fn type_in(input: Input, mut resized: Signal, tty: bool) -> Infallible {
    let mut typed = terminal::input();
    let mut typing = true;
    loop {
        tokio::select! {
            chunk = typed.recv(), if typing => match chunk {
                Some(bytes) => typing = input.send(Frame::Data(bytes.into())).await,
                None => {
                    typing = false;
                    input.send(Frame::End(v1::TunnelEnd {})).await;
                }
            },
            _ = resized.recv(), if tty => {
                let (rows, columns) = terminal::size();
                input.send(Frame::Resize(v1::TunnelResize { rows, columns })).await;
            }
            else => return std::future::pending().await,
        }
    }
}

fn print(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_a_value_of_its_own_or_of_this_process() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("=b").is_err());
        assert!(variable("NOT_SET_ANYWHERE_HERE").is_err());
        assert_eq!(variable("PATH").map(|(key, _)| key), Ok("PATH".to_owned()));
    }
}
