//! A rule that holds, told: its sentences filled, its lines picked.

use crate::facts::fact;
use crate::findings::{Findings, Hit};
use crate::rule::{On, Rule};
use crate::table::table;
use crate::tail::{Worker, cut};
use crate::template::fill;
use crate::traceback::{Block, Chain, excerpt};
use crate::worker::FailedWorker;
use crate::{Explanation, MAX_EVIDENCE};

/// Longer values are cut: they stand in a sentence.
const MAX_VALUE: usize = 200;
/// Lines outside of a traceback that are shown of a rule's words.
const MAX_SAID: usize = 6;
/// Last lines that are shown of a crash that said nothing of itself.
const LAST: usize = 3;

pub(crate) fn tell(
    findings: &Findings<'_>,
    index: usize,
    rule: &'static Rule,
    hit: Option<Hit>,
) -> Explanation {
    let line = hit.map(|hit| match rule.on {
        On::Engine(_) => findings.engine[hit.line],
        _ => findings.lines[hit.line].text.as_str(),
    });
    let captures = hit.zip(line).and_then(|(hit, line)| table().captures(hit.pattern, line));
    let value = |name: &str| {
        let caught = captures.as_ref().and_then(|c| c.name(name)).map(|m| m.as_str().trim().to_owned());
        let value = caught.or_else(|| match name {
            "next" => findings
                .lines
                .get(hit?.line + 1)
                .map(|l| l.text.trim().trim_start_matches("what():").trim().to_owned()),
            name => fact(findings, name),
        });
        value.filter(|v| !v.is_empty()).map(shortened)
    };
    let who = match rule.on {
        On::Stopped | On::Engine(_) => None,
        // Whoever else speaks, the kernel's victim is the one that died by its signal.
        On::OomKilled => {
            findings.worker.as_ref().filter(|w| w.signal() == Some(9)).and_then(FailedWorker::name)
        }
        _ => findings.worker_of(hit),
    };
    let rank = who.and_then(|who| rank(who, findings.evidence.ranks?));
    Explanation {
        cause: rule.cause,
        summary: fill(rule.summary, &value) + &suffix(who.filter(|_| rank.is_none())),
        evidence: lines(findings, index, rule, hit),
        advice: fill(rule.advice, &value),
        key: rule.key,
        rank,
    }
}

fn shortened(value: String) -> String {
    if value.len() <= MAX_VALUE { value } else { format!("{}…", cut(&value, MAX_VALUE)) }
}

/// The worker's rank in the job, if the task has such a one.
fn rank(worker: Worker, (first, count): (u32, u32)) -> Option<u32> {
    let rank = match worker {
        Worker::Rank(rank) => rank,
        Worker::LocalRank(local) => first.checked_add(local)?,
    };
    (first..first.saturating_add(count)).contains(&rank).then_some(rank)
}

fn suffix(worker: Option<Worker>) -> String {
    match worker {
        Some(Worker::Rank(rank)) => format!(" (rank {rank})"),
        Some(Worker::LocalRank(rank)) => format!(" (local rank {rank})"),
        None => String::new(),
    }
}

/// The lines that show it.
fn lines(findings: &Findings<'_>, index: usize, rule: &Rule, hit: Option<Hit>) -> Vec<String> {
    match (rule.on, hit) {
        (On::Stopped, _) => Vec::new(),
        (On::Engine(_), _) => {
            findings.engine.iter().take(MAX_SAID).map(|&l| cut(l, 1024).to_owned()).collect()
        }
        (On::Crash(_), Some(hit)) => text(findings, hit.line..=hit.line + 1),
        (_, Some(hit)) => match findings.chain.as_ref().filter(|c| c.lines().any(|at| at == hit.line)) {
            Some(chain) => chain_lines(findings, chain, Some(hit.line)),
            None => said(findings, index),
        },
        (_, None) => context(findings),
    }
}

/// What a rule without words shows: the traceback, what the launcher said, or the last lines.
fn context(findings: &Findings<'_>) -> Vec<String> {
    if let Some(chain) = &findings.chain {
        return chain_lines(findings, chain, None);
    }
    if let Some(worker) = &findings.worker {
        return text(findings, worker.lines.iter().copied());
    }
    let filled: Vec<usize> =
        (0..findings.lines.len()).filter(|&at| !findings.lines[at].text.is_empty()).collect();
    text(findings, filled[filled.len().saturating_sub(LAST)..].iter().copied())
}

/// The block that holds the line `hit`, or the first, and the exception that ended the program.
fn chain_lines(findings: &Findings<'_>, chain: &Chain, hit: Option<usize>) -> Vec<String> {
    let holds = |block: &&Block| hit.is_some_and(|at| block.message.contains(&at));
    let block = chain.blocks.iter().find(holds).unwrap_or_else(|| chain.first());
    let last = chain.last().message[0];
    if block.message.contains(&last) || block.quoted {
        return excerpt(&findings.lines, block, MAX_EVIDENCE);
    }
    let mut lines = excerpt(&findings.lines, block, MAX_EVIDENCE - 2);
    lines.push("…".to_owned());
    lines.push(findings.lines[last].text.clone());
    lines
}

/// The distinct lines where a rule's words stand.
fn said(findings: &Findings<'_>, rule: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text(findings, findings.said(rule)) {
        if !lines.contains(&line) && lines.len() < MAX_SAID {
            lines.push(line);
        }
    }
    lines
}

fn text(findings: &Findings<'_>, lines: impl IntoIterator<Item = usize>) -> Vec<String> {
    lines.into_iter().filter_map(|at| findings.lines.get(at)).map(|l| l.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use convoke_model::ExitStatus;

    use crate::{Evidence, Explanation, Line, Source, explain};

    fn told(lines: &[String]) -> Explanation {
        let tail: Vec<Line<'_>> = lines.iter().map(|text| Line { source: Source::Stderr, text }).collect();
        explain(&Evidence { tail: &tail, ..Evidence::new(ExitStatus::Code(2)) }).unwrap()
    }

    #[test]
    fn few_lines_are_shown_of_many_that_say_the_same() {
        let refused = |n| format!("train.py: error: unrecognized arguments: --x{}", n % 9);
        assert_eq!(told(&(0..40).map(refused).collect::<Vec<_>>()).evidence.len(), 6);
        assert_eq!(told(&vec![refused(0); 9]).evidence, [refused(0)]);
        let error = "failed\n".repeat(30);
        let evidence = Evidence { runtime_error: Some(&error), ..Evidence::new(ExitStatus::Unknown) };
        assert_eq!(explain(&evidence).unwrap().evidence.len(), 6);
    }

    #[test]
    fn a_long_message_is_cut_in_the_sentence_and_whole_among_the_lines() {
        let message = format!("ValueError: {}", "x".repeat(900));
        let lines = ["Traceback (most recent call last):", "  File \"a.py\", line 1, in f", &message];
        let told = told(&lines.map(str::to_owned));
        assert!(told.summary.ends_with("xxx…") && told.summary.len() < 210, "{}", told.summary);
        assert_eq!(told.evidence[2], message);
    }
}
