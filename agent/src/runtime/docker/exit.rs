//! How a container's end, or a start that failed, reads as a task's exit. Pure.

use bollard::models::{ContainerState, ContainerStateStatusEnum};
use convoke_model::{ExitStatus, TaskExit, Timestamp};

use super::logs::time_of;
use crate::engine::EngineError;

/// As shells have it.
const NOT_FOUND: i32 = 127;
const CANNOT_RUN: i32 = 126;

/// What is known of a container's end besides its state.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// It was asked to end, by this signal.
    pub(super) stopped: Option<i32>,
    /// SIGKILL followed.
    pub(super) killed: bool,
    /// What went away while the container ran, or may have, and takes containers with it.
    pub(super) went: Option<Went>,
    /// Bytes.
    pub(super) memory_limit: Option<u64>,
}

/// What a container cannot outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    Engine,
    Host,
    /// Perhaps the engine: nobody saw the container end.
    Unseen,
    /// Its first process, for another one.
    Restarted,
}

/// The exit of a container that is not running any more.
pub(super) fn exit(state: &ContainerState, facts: &Facts, now: Timestamp) -> TaskExit {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let at = state.finished_at.as_deref().and_then(time_of).unwrap_or(now);
    let stopped = facts.stopped.is_some();
    if let Some(went) = facts.went.filter(|_| !stopped) {
        let code = code.map_or(String::new(), |code| format!(" (exit code {code})"));
        const KEEP: &str =
            "set \"live-restore\": true in the engine's daemon.json to keep containers running";
        let message = match went {
            Went::Host => format!("the host restarted, and its container ended with it{code}"),
            Went::Engine => {
                format!(
                    "the Docker Engine stopped or restarted, and its container ended with it{code}; {KEEP}"
                )
            }
            Went::Restarted => "somebody else restarted its container (docker restart?)".to_owned(),
            Went::Unseen => format!(
                "its container ended while no agent was there{code}, and the Docker Engine does not tell that it did so \
                 by itself: it may have ended with the engine; {KEEP}"
            ),
        };
        // Also with code 0: a trainer that ends well when the engine asks it to has not finished.
        return TaskExit { stopped, message: Some(message), ..TaskExit::new(ExitStatus::Unknown, at) };
    }
    if state.status == Some(ContainerStateStatusEnum::CREATED) {
        let message = "its container was made and never started: the agent ended between the two".to_owned();
        return TaskExit { stopped, message: Some(message), ..TaskExit::new(ExitStatus::Unknown, now) };
    }
    let status = match code {
        Some(code) => status(code),
        None => ExitStatus::Unknown,
    };
    let oom_killed = state.oom_killed == Some(true);
    TaskExit { stopped, message: message(state, facts), oom_killed, ..TaskExit::new(status, at) }
}

fn message(state: &ContainerState, facts: &Facts) -> Option<String> {
    if state.oom_killed == Some(true) {
        return Some(match facts.memory_limit {
            Some(limit) => format!("OOM-killed (limit {})", bytes(limit)),
            None => "OOM-killed (the host ran out of memory)".to_owned(),
        });
    }
    if let (true, Some(signal)) = (facts.killed, facts.stopped) {
        return Some(format!("it did not end within its grace after signal {signal}"));
    }
    state.error.clone().filter(|error| !error.is_empty())
}

/// An init passes on a signal that ended its child as 128 and the signal's number, as shells do.
fn status(code: i32) -> ExitStatus {
    match code {
        129..=192 => ExitStatus::Signal(code - 128),
        code => ExitStatus::Code(code),
    }
}

/// True if the command may never have run.
pub(super) fn is_not_run(exit: &TaskExit) -> bool {
    matches!(exit.status, ExitStatus::Code(NOT_FOUND | CANNOT_RUN))
}

/// The exit of a container that is gone.
pub(super) fn vanished(facts: &Facts, now: Timestamp) -> TaskExit {
    let message = "its container was removed by somebody else (docker rm?)".to_owned();
    let stopped = facts.stopped.is_some();
    TaskExit { stopped, message: Some(message), ..TaskExit::new(ExitStatus::Unknown, now) }
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotStarted {
    /// The command cannot be run: as if a shell had said so.
    Command(TaskExit),
    /// A port that it publishes is somebody else's.
    PortTaken(Option<u16>),
    /// The container whose namespaces it was to share has ended.
    NobodyToJoin,
    Other,
}

/// Reads the engine's refusal to start a container of `image`.
pub(super) fn not_started(error: &EngineError, image: &str, now: Timestamp) -> NotStarted {
    let EngineError::Refused { message, .. } = error else { return NotStarted::Other };
    if message.contains("port is already allocated") || message.contains("address already in use") {
        return NotStarted::PortTaken(port_in(message));
    }
    let not_running = ["not running", "non running", "non-running"].iter().any(|word| message.contains(word));
    if message.contains("join") && not_running || message.contains("No such container") {
        return NotStarted::NobodyToJoin;
    }
    let code = if message.contains("executable file not found")
        || message.contains("no such file or directory") && message.contains("exec:")
    {
        NOT_FOUND
    } else if message.contains("permission denied") && message.contains("exec:")
        || message.contains("is a directory")
        || message.contains("exec format error")
        || message.contains("unable to find user")
        || message.contains("no matching entries in passwd file")
    {
        CANNOT_RUN
    } else {
        return NotStarted::Other;
    };
    let message = format!("{} (image {image})", oci(message));
    NotStarted::Command(TaskExit { message: Some(message), ..TaskExit::new(ExitStatus::Code(code), now) })
}

/// The part of an OCI runtime's message that says what is wrong: from the last of its frames on.
fn oci(message: &str) -> &str {
    let begins = ["exec: ", "unable to find user"];
    let inner = begins.iter().find_map(|begin| message.rfind(begin)).map_or(message, |at| &message[at..]);
    inner.strip_suffix(": unknown").unwrap_or(inner)
}

/// `8080` of "Bind for 0.0.0.0:8080 failed" or "listen tcp4 0.0.0.0:8080: bind".
fn port_in(message: &str) -> Option<u16> {
    let ports = message.split_whitespace().filter_map(|word| word.trim_end_matches(':').rsplit_once(':'));
    ports.filter_map(|(_, port)| port.parse().ok()).next()
}

/// How the line begins with which a container's init says that it cannot start the command.
pub(super) const INIT_FAILURE: &str = "[FATAL tini (";

/// `[FATAL tini (7)] exec NAME failed: No such file or directory`, as a sentence.
pub(super) fn init_failure(line: &str, image: &str) -> Option<String> {
    let (_, rest) = line.strip_prefix(INIT_FAILURE)?.split_once(")] exec ")?;
    let (name, why) = rest.split_once(" failed: ")?;
    Some(match why {
        "No such file or directory" => format!("{name}: command not found in image {image}"),
        "Permission denied" => format!("{name} in image {image} is not executable, or a directory"),
        why => format!("{name} of image {image} cannot be run: {why}"),
    })
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(5);

    fn ended(code: i64) -> ContainerState {
        ContainerState { exit_code: Some(code), ..ContainerState::default() }
    }

    fn refused(message: &str) -> NotStarted {
        let error = EngineError::Refused { what: String::new(), status: 400, message: message.to_owned() };
        not_started(&error, "base:1", NOW)
    }

    fn code_and_message(message: &str) -> (ExitStatus, String) {
        let NotStarted::Command(exit) = refused(message) else { panic!("{message}") };
        (exit.status, exit.message.unwrap())
    }

    #[test]
    fn codes_and_signals_are_told_apart_as_shells_do() {
        let facts = Facts::default();
        for (code, status) in [
            (0, ExitStatus::Code(0)),
            (1, ExitStatus::Code(1)),
            (137, ExitStatus::Signal(9)),
            (143, ExitStatus::Signal(15)),
            (255, ExitStatus::Code(255)),
        ] {
            assert_eq!(exit(&ended(code), &facts, NOW).status, status);
        }
        assert_eq!(exit(&ContainerState::default(), &facts, NOW).status, ExitStatus::Unknown);
    }

    #[test]
    fn the_time_is_the_engines_unless_it_never_set_one() {
        let state = ContainerState { finished_at: Some("2026-11-24T11:29:19.2Z".into()), ..ended(0) };
        assert_eq!(exit(&state, &Facts::default(), NOW).at.0 % 1000, 200);
        let state = ContainerState { finished_at: Some("0001-01-01T00:00:00Z".into()), ..ended(0) };
        assert_eq!(exit(&state, &Facts::default(), NOW).at, NOW);
    }

    #[test]
    fn a_kill_for_memory_is_named_with_the_limit() {
        let state = ContainerState { oom_killed: Some(true), ..ended(137) };
        let facts = Facts { memory_limit: Some(512 << 20), ..Facts::default() };
        let exit = exit(&state, &facts, NOW);
        assert_eq!(
            (exit.status, exit.message.as_deref()),
            (ExitStatus::Signal(9), Some("OOM-killed (limit 512.0 MiB)"))
        );
    }

    #[test]
    fn a_container_that_never_ran_is_no_success() {
        let state = ContainerState { status: Some(ContainerStateStatusEnum::CREATED), ..ended(0) };
        assert_eq!(exit(&state, &Facts::default(), NOW).status, ExitStatus::Unknown);
    }

    #[test]
    fn what_ends_with_its_engine_is_no_success_and_no_fault_of_its_own() {
        let facts = Facts { went: Some(Went::Engine), ..Facts::default() };
        let unseen = Facts { went: Some(Went::Unseen), ..Facts::default() };
        assert_eq!(exit(&ended(0), &unseen, NOW).status, ExitStatus::Unknown);
        for code in [0, 137, 143] {
            let exit = exit(&ended(code), &facts, NOW);
            assert_eq!(exit.status, ExitStatus::Unknown);
            assert!(exit.message.unwrap().starts_with("the Docker Engine stopped or restarted"));
        }
        let asked = Facts { stopped: Some(15), ..facts };
        assert_eq!(exit(&ended(143), &asked, NOW).status, ExitStatus::Signal(15));
    }

    #[test]
    fn a_command_that_is_not_there_is_127_and_one_that_cannot_be_run_126() {
        let prefix = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
                      container process: ";
        let (status, message) = code_and_message(&format!(
            "{prefix}exec: \"nosuchcmd\": executable file not found in $PATH: unknown"
        ));
        assert_eq!(status, ExitStatus::Code(127));
        assert_eq!(message, "exec: \"nosuchcmd\": executable file not found in $PATH (image base:1)");
        let (status, _) =
            code_and_message(&format!("{prefix}exec: \"/no\": stat /no: no such file or directory: unknown"));
        assert_eq!(status, ExitStatus::Code(127));
        for text in ["exec: \"/etc\": permission denied: unknown", "exec: \"/etc\": is a directory: unknown"]
        {
            assert_eq!(code_and_message(&format!("{prefix}{text}")).0, ExitStatus::Code(126));
        }
        let (status, message) =
            code_and_message("unable to find user nobody2: no matching entries in passwd file");
        assert_eq!(status, ExitStatus::Code(126));
        assert!(message.starts_with("unable to find user nobody2"), "{message}");
    }

    #[test]
    fn a_taken_port_is_told_by_its_number() {
        let engine = "driver failed programming external connectivity on endpoint x (a6659176e343): Bind for \
                      0.0.0.0:18777 failed: port is already allocated";
        assert_eq!(refused(engine), NotStarted::PortTaken(Some(18777)));
        let host = "driver failed programming external connectivity on endpoint x (bcb69d): Error starting userland \
                    proxy: listen tcp4 0.0.0.0:18778: bind: address already in use";
        assert_eq!(refused(host), NotStarted::PortTaken(Some(18778)));
    }

    #[test]
    fn other_refusals_are_the_engines_own() {
        assert_eq!(refused("could not select device driver \"nvidia\""), NotStarted::Other);
        for gone in [
            "can't join IPC of container 9399ea: container 9399ea is not running",
            "cannot join network of a non running container: 9399ea",
            "No such container: 9399ea",
        ] {
            assert_eq!(refused(gone), NotStarted::NobodyToJoin);
        }
    }

    #[test]
    fn the_init_of_a_container_says_it_in_a_line() {
        let line = "[FATAL tini (7)] exec nosuchcmd failed: No such file or directory";
        assert_eq!(init_failure(line, "base:1").unwrap(), "nosuchcmd: command not found in image base:1");
        assert!(init_failure("[FATAL tini (7)] exec /etc failed: Permission denied", "b").is_some());
        assert_eq!(init_failure("Traceback (most recent call last):", "b"), None);
    }
}
