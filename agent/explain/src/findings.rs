//! The evidence, read once: cleaned lines, the traceback that counts, what torchrun says of its
//! workers, and which of the rules' words stand where.

use crate::evidence::{Evidence, nearly_full, signal};
use crate::rule::{On, Rule, When};
use crate::rules::Blame;
use crate::table::{Table, table};
use crate::tail::{self, Said, Worker};
use crate::traceback::{self, Chain, Weight};
use crate::worker::{FailedWorker, failed_worker};

/// Without a traceback, a program's own words about its end are among its last lines. A crash
/// report of JAX's (a stack of 25 lines after the message) is the longest that was seen.
const LAST_LINES: usize = 40;

/// Some words of the table, found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    pub(crate) line: usize,
    pub(crate) pattern: usize,
}

pub(crate) struct Findings<'a> {
    pub(crate) evidence: &'a Evidence<'a>,
    pub(crate) lines: Vec<Said>,
    /// What the engine or the shim said, line by line.
    pub(crate) engine: Vec<&'a str>,
    /// The chain of exceptions that ended the program.
    pub(crate) chain: Option<Chain>,
    pub(crate) worker: Option<FailedWorker>,
    /// Hits in `lines`, and those that are about the program's end.
    hits: Vec<Hit>,
    failure: Vec<Hit>,
    /// Hits in `engine`.
    engine_hits: Vec<Hit>,
}

impl<'a> Findings<'a> {
    pub(crate) fn of(evidence: &'a Evidence<'a>) -> Self {
        let table = table();
        let lines = tail::clean(evidence.tail);
        let engine: Vec<&str> =
            evidence.runtime_error.into_iter().flat_map(str::lines).take(LAST_LINES).collect();
        let chains = traceback::chains(&lines);
        let hits = hits(table, lines.iter().map(|l| l.text.as_str()), false);
        let chain = choose(table, &chains, &hits);
        let failure = failure(&lines, &chains, chain.as_ref(), &hits);
        let worker = failed_worker(&lines, &chains);
        let engine_hits = self::hits(table, engine.iter().map(|l| tail::cut(l, tail::MAX_LINE)), true);
        Self { evidence, lines, engine, chain, worker, hits, failure, engine_hits }
    }

    /// The signal that ended the task, or the worker that failed first.
    pub(crate) fn signal(&self) -> Option<i32> {
        signal(self.evidence.exit).or_else(|| self.worker.as_ref()?.signal())
    }

    /// Whether a rule holds, and where its words stand.
    pub(crate) fn holds(&self, index: usize, rule: &Rule) -> Option<Option<Hit>> {
        use convoke_model::ExitStatus::{Code, Unknown};
        if !self.condition(rule.when) {
            return None;
        }
        let evidence = self.evidence;
        let bare = |holds: bool| holds.then_some(None);
        match rule.on {
            On::Stopped => bare(evidence.stopped),
            On::OomKilled => bare(evidence.oom_killed),
            On::Lost => bare(evidence.exit == Unknown),
            On::Signal(signal) => bare(self.signal() == Some(signal)),
            On::Code(code) => bare(evidence.exit == Code(code)),
            On::Traceback => bare(self.chain.is_some()),
            On::Worker => bare(self.worker.as_ref().is_some_and(|w| w.exit > 0)),
            On::Engine(_) => first(&self.engine_hits, index),
            On::Failure(_) => first(&self.failure, index),
            On::Output(_) | On::Crash(_) => first(&self.hits, index),
        }
    }

    fn condition(&self, when: When) -> bool {
        let evidence = self.evidence;
        match when {
            When::Always => true,
            When::MemoryFull => nearly_full(evidence.memory_peak, evidence.memory_limit),
            When::ShmFull => nearly_full(evidence.shm_peak, evidence.shm_size),
            When::Killed => signal(evidence.exit) == Some(9),
            When::Code(code) => evidence.exit == convoke_model::ExitStatus::Code(code),
            When::Said(texts) => self.lines.iter().any(|line| texts.iter().any(|t| line.text.contains(t))),
        }
    }

    /// Every line in the output where a rule's words stand.
    pub(crate) fn said(&self, rule: usize) -> impl Iterator<Item = usize> {
        of_rule(&self.hits, rule).map(|hit| hit.line)
    }

    /// Which worker a line is of, or the chain, or by its launcher's word the one that failed first.
    pub(crate) fn worker_of(&self, hit: Option<Hit>) -> Option<Worker> {
        match (hit.map(|hit| hit.line), &self.chain) {
            (Some(line), _) => self.lines[line].worker,
            (None, Some(chain)) => self.lines[chain.start()].worker,
            (None, None) => self.worker.as_ref()?.rank.map(Worker::Rank),
        }
    }
}

fn hits<'t>(table: &Table, lines: impl Iterator<Item = &'t str>, engine: bool) -> Vec<Hit> {
    let of_line = |(line, text)| table.matches(text, engine).map(move |pattern| Hit { line, pattern });
    lines.enumerate().flat_map(of_line).collect()
}

fn of_rule(hits: &[Hit], rule: usize) -> impl Iterator<Item = Hit> {
    let table = table();
    hits.iter().copied().filter(move |hit| table.rule_of(hit.pattern) == rule)
}

fn first(hits: &[Hit], rule: usize) -> Option<Option<Hit>> {
    of_rule(hits, rule).next().map(Some)
}

/// The chain that ended the program: the first of those with a cause of their own; one that the
/// program survived, or that only says that it lost another worker, counts behind the others.
fn choose(table: &Table, chains: &[Chain], hits: &[Hit]) -> Option<Chain> {
    let blame = |chain: &Chain| {
        let lines: Vec<usize> = chain.messages().collect();
        Blame::of(table.cause_of(hits.iter().filter(|h| lines.contains(&h.line)).copied()))
    };
    chains
        .iter()
        .filter(|chain| chain.weight < Weight::Launcher)
        .min_by_key(|chain| (blame(chain), chain.weight, chain.start()))
        .cloned()
}

/// The hits that are about the program's end.
fn failure(lines: &[Said], chains: &[Chain], chain: Option<&Chain>, hits: &[Hit]) -> Vec<Hit> {
    let about: Vec<usize> = if let Some(chain) = chain {
        chain.messages().collect()
    } else {
        let launcher: Vec<usize> = chains.iter().flat_map(Chain::lines).collect();
        (0..lines.len()).rev().filter(|at| !launcher.contains(at)).take(LAST_LINES).collect()
    };
    hits.iter().filter(|hit| about.contains(&hit.line)).copied().collect()
}

#[cfg(test)]
mod tests {
    use convoke_model::ExitStatus;

    use crate::{Evidence, Line, Source, explain};

    const HEADER: &str = "Traceback (most recent call last):";
    const FRAME: &str = "  File \"train.py\", line 1, in <module>";

    fn summary(lines: &[&str]) -> String {
        let tail: Vec<Line<'_>> = lines.iter().map(|text| Line { source: Source::Stderr, text }).collect();
        explain(&Evidence { tail: &tail, ..Evidence::new(ExitStatus::Code(1)) }).unwrap().summary
    }

    #[test]
    fn a_worker_that_only_lost_another_counts_behind_it_even_if_it_spoke_first() {
        let lost =
            [HEADER, FRAME, "RuntimeError: [tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:31962"];
        let own = ["ERROR: giving up", HEADER, FRAME, "ValueError: loss is NaN"];
        assert_eq!(summary(&[&lost[..], &own].concat()), "ValueError: loss is NaN");
        assert!(summary(&lost).starts_with("another rank went away"));
    }

    #[test]
    fn of_torchruns_table_the_root_cause_counts() {
        let recorded = "  traceback : Traceback (most recent call last):";
        let row = |error| [recorded, "    File \"train.py\", line 1, in main", error];
        let table = [
            &["Failures:"][..],
            &row("  KeyError: 'later'"),
            &["Root Cause (first observed failure):"],
            &row("  ValueError: first"),
        ];
        assert_eq!(summary(&table.concat()), "ValueError: first");
    }

    #[test]
    fn a_launchers_long_traceback_does_not_hide_a_workers_last_words() {
        let frames = [FRAME; 60];
        let launcher = [&[HEADER][..], &frames, &["subprocess.CalledProcessError: Command failed"]].concat();
        let words = summary(
            &[&["CUDA error: no kernel image is available for execution on the device"][..], &launcher]
                .concat(),
        );
        assert!(words.contains("not built for this kind of GPU"), "{words}");
    }
}
