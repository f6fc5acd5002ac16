//! The facts of the evidence that a rule's sentences may name.

use bytesize::ByteSize;
use convoke_model::ExitStatus;

use crate::findings::Findings;
use crate::signal;
use crate::traceback::last_frame;

const GIB: u64 = 1 << 30;

/// The facts that always have a value.
#[cfg(test)]
pub(crate) const ALWAYS: &[&str] = &["how"];

pub(crate) fn fact(findings: &Findings<'_>, name: &str) -> Option<String> {
    let evidence = findings.evidence;
    match name {
        "how" => Some(how(evidence.exit)),
        "limit" => evidence.memory_limit.map(size),
        "peak" => evidence.memory_peak.map(size),
        "more_memory" => evidence.memory_limit.map(|limit| compose_size(limit.saturating_add(limit / 2))),
        "shm_size" => evidence.shm_size.map(size),
        // It is looked at now and then: what filled up and failed at once was not seen full.
        "shm_peak" => evidence.shm_peak.filter(|peak| *peak > 0).map(size),
        "more_shm" => evidence.shm_size.map(|size| compose_size(size.saturating_mul(2).max(16 * GIB))),
        "image" => evidence.image.map(str::to_owned),
        "command" => evidence.command.first().map(|_| evidence.command.join(" ")),
        "program" => evidence.command.first().cloned(),
        "interface" => evidence.data_interface.map(str::to_owned),
        "address" => evidence.data_address.map(str::to_owned),
        "node" => evidence.node.map(str::to_owned),
        "error" => findings.engine.first().map(|line| (*line).to_owned()),
        "worker_code" => findings.worker.as_ref().map(|worker| worker.exit.to_string()),
        "exception" => exception(findings, false),
        "ended_by" => exception(findings, true),
        "place" => place(findings),
        _ => None,
    }
}

fn how(exit: ExitStatus) -> String {
    match exit {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(number) => format!("was ended by {}", signal::name(number)),
        ExitStatus::Unknown => "ended and nobody saw how".to_owned(),
    }
}

/// The exception that was raised first, or the one that ended the program where it is another.
fn exception(findings: &Findings<'_>, last: bool) -> Option<String> {
    let chain = findings.chain.as_ref()?;
    let text =
        |line: usize| findings.lines.get(line).map(|l| l.text.trim_start_matches([' ', '|']).to_owned());
    let first = text(*chain.first().message.first()?)?;
    if !last {
        return Some(first);
    }
    let ended_by = text(*chain.last().message.first()?)?;
    // One that quotes the original says the same again.
    (ended_by != first && !chain.first().quoted).then_some(ended_by)
}

fn place(findings: &Findings<'_>) -> Option<String> {
    let frame = last_frame(&findings.lines, findings.chain.as_ref()?.first())?;
    Some(format!("line {} of {}", frame.line, frame.file))
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// As the job file writes it, rounded up: `96m`, `12g`.
fn compose_size(bytes: u64) -> String {
    if bytes >= GIB { format!("{}g", bytes.div_ceil(GIB)) } else { format!("{}m", bytes.div_ceil(1 << 20)) }
}
