//! The steps of a fake task.

use std::time::Duration;

use convoke_model::ExitStatus;

/// One word of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Run(Duration),
    Print(String),
    End(ExitStatus),
    Hang,
    Deaf,
}

/// Why a task cannot be started, as a process's exit would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unplayable {
    pub(super) code: i32,
    pub(super) message: String,
}

pub(super) fn parse(words: &[String]) -> Result<Vec<Step>, Unplayable> {
    if let Some(why) = words.first().and_then(|word| word.strip_prefix("refuse=")) {
        return Err(Unplayable { code: 126, message: why.to_owned() });
    }
    words.iter().map(|word| step(word).ok_or_else(|| not_a_step(word))).collect()
}

fn step(word: &str) -> Option<Step> {
    Some(match word.split_once('=') {
        None if word == "hang" => Step::Hang,
        None if word == "deaf" => Step::Deaf,
        Some(("run", time)) => Step::Run(humantime::parse_duration(time).ok()?),
        Some(("print", text)) => Step::Print(text.to_owned()),
        Some(("exit", code)) => Step::End(ExitStatus::Code(code.parse().ok()?)),
        Some(("signal", signal)) => Step::End(ExitStatus::Signal(signal.parse().ok()?)),
        None | Some(_) => return None,
    })
}

fn not_a_step(word: &str) -> Unplayable {
    let message = format!(
        "\"{word}\" is not a step of a fake task; there are run=3s, print=text, exit=1, signal=9, hang, deaf, and refuse=why as the first"
    );
    Unplayable { code: 127, message }
}
