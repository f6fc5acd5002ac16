//! The `convoke` command line: a client of the public API, a file per command.

mod args;
mod attach;
mod cache;
mod cause;
mod checkpoint;
mod completions;
mod config;
mod demo;
mod down;
mod events;
mod failure;
mod follow;
mod habits;
mod inspect;
mod json;
mod link;
mod logs;
mod metrics;
mod names;
mod nodes;
mod order;
mod output;
mod project;
mod ps;
mod pull;
mod receive;
mod restart;
mod run;
mod serve;
mod session;
mod ship;
mod signals;
mod stop;
mod submit;
#[cfg(test)]
mod testing;
mod text;
mod up;
mod wait;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{ColorChoice, Parser, Subcommand};

use args::{Compose, Global};
use failure::{Failure, exit};
use link::Link;
use output::Format;

const AFTER_HELP: &str = "\
Start here:
  convoke demo                  a whole cluster on this machine trains on handwritten digits
  convoke serve                 the coordinator; each host then runs convoke-agent
  convoke up                    submits ./compose.yaml and follows it

Exit codes:
    0  it worked; for `up` and `wait`: the job succeeded
    1  it failed
    2  the command line or the job file is wrong
    3  no coordinator answers
    4  the coordinator refused; the message says why
  124  `wait --timeout` ran out
  130  Ctrl-C
  `up` and `wait` return the exit code of the task that made the job fail (128+N for signal N),
  `exec` that of its command.";

#[derive(Parser)]
#[command(
    name = "convoke", version, about = "Docker Compose for multi-node GPU training",
    after_help = AFTER_HELP, max_term_width = 100, subcommand_required = true, arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    compose: Compose,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Up),
    Run(run::Run),
    Down(down::Down),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Metrics(metrics::Metrics),
    Inspect(inspect::Inspect),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Wait(wait::Wait),
    Exec(session::Exec),
    Port(session::Port),
    Cp(session::Copy),
    Pull(pull::Pull),
    Checkpoint(checkpoint::Checkpoint),
    Config(config::Config),
    Nodes(nodes::Nodes),
    Events(events::Events),
    Serve(serve::Serve),
    Demo(demo::Demo),
    Completions(completions::Completions),
}

/// What a command works with.
struct Context {
    coordinator: String,
    format: Format,
    patience: std::time::Duration,
    /// Compose options given before the command's name.
    compose: Compose,
}

impl Context {
    /// The coordinator; its absences are told on stderr.
    async fn link(&self) -> Result<Arc<Link>, Failure> {
        self.link_saying(Box::new(|text| output::note(&format!("convoke: {text}")))).await
    }

    async fn link_saying(&self, say: link::Say) -> Result<Arc<Link>, Failure> {
        Link::connect(&self.coordinator, self.patience, say).await.map(Arc::new)
    }
}

/// What `main` is: parse, run, report.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.global.output.is_json();
    let color = match cli.global.color {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    color.write_global();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Failure::from(error).report(json);
            return ExitCode::from(exit::FAILED);
        }
    };
    let result = runtime.block_on(run(cli));
    // A thread may still be blocked in a read that nobody wants any more.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit)
        }
    }
}

/// Clap's own text, or one JSON line where the command line asks for JSON although it is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let asked = words.iter().any(|w| w == "--output=json" || w == "-ojson")
        || words.windows(2).any(|w| (w[0] == "--output" || w[0] == "-o") && w[1] == "json")
        || std::env::var_os("CONVOKE_OUTPUT").is_some_and(|v| v == "json");
    if let Some(message) = habits::instead(error) {
        Failure::usage(message).report(asked);
    } else if error.use_stderr() && asked {
        let text = error.to_string();
        let (message, hint) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error: ").trim();
        Failure::usage(message).hint(hint.trim()).report(true);
    } else {
        // Nobody is left to tell when the terminal is gone.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let context = Context {
        coordinator: cli.global.coordinator,
        format: cli.global.output,
        patience: cli.global.patience,
        compose: cli.compose,
    };
    match cli.command {
        // These have something to end when they are interrupted.
        Command::Up(args) => Box::pin(args.run(&context)).await,
        Command::Run(args) => Box::pin(args.run(&context)).await,
        Command::Cp(args) => Box::pin(args.run(&context)).await,
        Command::Serve(args) => Box::pin(args.run()).await,
        Command::Demo(args) => Box::pin(args.run(&context)).await,
        other => signals::or_interrupted(Box::pin(simple(other, &context))).await,
    }
}

/// Commands that an interrupt may simply drop.
async fn simple(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Down(args) => args.run(context).await,
        Command::Ps(args) => args.run(context).await,
        Command::Logs(args) => args.run(context).await,
        Command::Metrics(args) => args.run(context).await,
        Command::Inspect(args) => args.run(context).await,
        Command::Stop(args) => args.run(context).await,
        Command::Restart(args) => args.run(context).await,
        Command::Wait(args) => args.run(context).await,
        Command::Exec(args) => args.run(context).await,
        Command::Port(args) => args.run(context).await,
        Command::Pull(args) => args.run(context).await,
        Command::Checkpoint(args) => args.run(context).await,
        Command::Config(args) => args.run(context),
        Command::Nodes(args) => args.run(context).await,
        Command::Events(args) => args.run(context).await,
        Command::Completions(args) => args.run(),
        Command::Up(_) | Command::Run(_) | Command::Cp(_) | Command::Serve(_) | Command::Demo(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|c| c.get_name() != "checkpoint") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("convoke "), "`convoke {} --help` has no example", sub.get_name());
        }
    }

    #[test]
    fn words_of_docker_compose_and_kubectl_are_answered_with_what_they_are_called_here() {
        let told =
            |words: &[&str]| Cli::try_parse_from(words).err().and_then(|error| habits::instead(&error));
        let commands = ["rm", "kill", "start", "build", "stats", "version", "top", "get", "describe"];
        for word in commands {
            let told = told(&["convoke", word, "train"]).unwrap_or_default();
            assert!(told.contains("`convoke ") && told.contains(word), "{word}: {told}");
        }
        assert_eq!(told(&["convoke", "uup"]), None);
        assert_eq!(told(&["convoke", "ps", "--nope"]), None);
    }

    #[test]
    fn what_people_type_out_of_habit_is_taken() {
        for words in [
            &["exec", "-it", "train", "bash"][..],
            &["exec", "-i", "-t", "-p", "mine", "train", "cat", "-n", "x"],
            &["run", "--rm", "-it", "image", "sh"],
            &["logs", "-n", "all", "-t"],
            &["logs", "-fn", "5", "train", "eval"],
            &["ps", "-q"],
            &["down", "--remove-orphans"],
            &["up", "--remove-orphans", "--force-recreate"],
            &["wait", "train", "--timeout", "1"],
        ] {
            let parsed = Cli::try_parse_from(["convoke"].iter().chain(words));
            assert!(parsed.is_ok(), "{words:?}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn compose_options_go_before_or_after_the_command() {
        let cli = Cli::try_parse_from(["convoke", "-f", "a.yaml", "config", "-f", "b.yaml"]).unwrap();
        let Command::Config(config) = cli.command else { panic!("another command") };
        let files = cli.compose.with(config.compose).file;
        assert_eq!(files, ["a.yaml", "b.yaml"].map(std::path::PathBuf::from));
    }
}
