//! What a command ends with when it did not do what was asked: an exit code, a stable reason for
//! programs, and for people what went wrong, where, and what to do next.

use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use convoke_compose::Project;
use tonic::{Code, Status};

use super::cause::Cause;

/// Exit codes of `convoke`, as `convoke --help` lists them.
pub(crate) mod exit {
    /// The job failed, or anything without a code of its own went wrong.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or the job file is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// No coordinator answered.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// The coordinator refused, with a reason.
    pub(crate) const REFUSED: u8 = 4;
    /// `wait --timeout` ran out.
    pub(crate) const TIMEOUT: u8 = 124;
    /// Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
    /// The reader of the output went away; what a shell reports for SIGPIPE.
    pub(crate) const PIPE: u8 = 141;
}

/// Why a command did not succeed. `message` may be empty: then everything has been said already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    /// UPPER_SNAKE_CASE, stable.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Why a job failed.
    pub(crate) cause: Option<Box<Cause>>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// What else failed, each told after this one.
    pub(crate) others: Vec<Failure>,
}

impl Failure {
    pub(crate) fn new(exit: u8, reason: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            reason: reason.to_owned(),
            message: message.into(),
            cause: None,
            hint: None,
            others: Vec::new(),
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the line of the job file to change, if the job came from `project`.
    pub(crate) fn located(mut self, project: &Project) -> Self {
        let others = self.others.iter_mut().filter_map(|other| other.cause.as_mut());
        self.cause.iter_mut().chain(others).for_each(|cause| cause.locate(project));
        self
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, "USAGE", message)
    }

    /// Ends with `exit` and says nothing more.
    pub(crate) fn silent(exit: u8) -> Self {
        Self::new(exit, "", "")
    }

    pub(crate) fn interrupted() -> Self {
        Self::silent(exit::INTERRUPTED)
    }

    /// A file operation on `path` that failed.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(exit::FAILED, "FILE", format!("cannot {what} {}: {error}", path.display()))
    }

    /// Writes the failure to stderr: two lines for people, or one JSON line.
    pub(crate) fn report(&self, json: bool) {
        if self.message.is_empty() {
            return;
        }
        // Nobody is left to tell when stderr is gone.
        let _ = if json { self.report_json() } else { self.report_text() };
    }

    fn report_json(&self) -> io::Result<()> {
        let others: Vec<_> = self.others.iter().map(Self::json).collect();
        let mut told = serde_json::json!({ "error": self.json() });
        if !others.is_empty() {
            told["others"] = others.into();
        }
        writeln!(io::stderr(), "{told}")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "reason": self.reason, "message": self.message, "hint": self.hint, "exit_code": self.exit,
            "cause": self.cause.as_ref().map(|cause| cause.json()),
        })
    }

    fn report_text(&self) -> io::Result<()> {
        let mut err = anstream::stderr();
        let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        writeln!(err, "{style}error{style:#}: {}", self.message)?;
        for line in self.cause.iter().flat_map(|cause| cause.lines()) {
            writeln!(err, "{line}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(err, "  {hint}")?;
        }
        self.others.iter().try_for_each(Self::report_text)
    }
}

/// A refusal, or a failure inside the coordinator. What may pass by itself is the link's to judge.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(reason) = convoke_proto::reason(&status) {
            let failure = Self::new(exit::REFUSED, &reason, status.message());
            return if reason == "UNKNOWN_JOB" {
                failure.hint("`convoke ps -a` lists all jobs")
            } else {
                failure
            };
        }
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => {
                Self::new(exit::REFUSED, "REFUSED", status.message())
            }
            Code::Unimplemented => Self::new(
                exit::FAILED,
                "UNIMPLEMENTED",
                format!("the coordinator does not know this call: {}", status.message()),
            )
            .hint("convoke and its coordinator should be of the same version; see `convoke --version`"),
            code => Self::new(exit::FAILED, "COORDINATOR", format!("{code:?}: {}", status.message())),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(exit::PIPE);
        }
        Self::new(exit::FAILED, "IO", error.to_string())
    }
}

/// The innermost cause of an error: "Connection refused" rather than "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_has_its_own_exit_code() {
        let status = convoke_proto::refusal(Code::AlreadyExists, "NAME_TAKEN", "job \"a\" is running");
        let failure = Failure::from(status);
        assert_eq!((failure.exit, failure.reason.as_str()), (exit::REFUSED, "NAME_TAKEN"));
        assert_eq!(failure.message, "job \"a\" is running");
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure, Failure::silent(exit::PIPE));
    }
}
