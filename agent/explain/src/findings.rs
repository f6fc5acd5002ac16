//! The evidence, read once: cleaned lines, the traceback that counts, what torchrun says of its
//! workers, and which of the rules' words stand where.

use crate::evidence::{Evidence, nearly_full, signal};
use crate::rule::{On, Rule, When};
use crate::rules::Blame;
use crate::table::{Table, table};
use crate::tail::{self, Said, Worker};
use crate::traceback::{self, Chain, Weight};
use crate::worker::{FailedWorker, failed_workers};

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
        let workers = failed_workers(&lines, &chains);
        let mut chain = choose(table, &chains, &hits);
        let mut worker = workers.first().cloned();
        let lost = |chain: &Chain| blame(table, chain, &hits) > Blame::Own;
        if chain.as_ref().is_none_or(lost)
            && let Some(own) =
                workers.iter().find(|w| failed_alone(w, &lines, chains.iter().filter(|c| lost(c))))
        {
            // Whose end took the others along has no traceback.
            (chain, worker) = (None, Some(own.clone()));
        }
        let failure = failure(&lines, &chains, chain.as_ref(), worker.as_ref(), &hits);
        let engine_hits = self::hits(table, engine.iter().map(|l| tail::cut(l, tail::MAX_LINE)), true);
        Self { evidence, lines, engine, chain, worker, hits, failure, engine_hits }
    }

    /// The signal that ended the task, or the worker that failed first.
    pub(crate) fn signal(&self) -> Option<i32> {
        let own = self.evidence.stopped.is_none().then(|| signal(self.evidence.exit)).flatten();
        own.or_else(|| self.worker.as_ref()?.signal())
    }

    /// Of a task that was asked to stop: it had failed by itself. The kernel says so, or its launcher of a worker,
    /// or a traceback from before it was asked, unless it ended by the very signal.
    fn failed_before_its_stop(&self) -> bool {
        let Some(before) = self.evidence.stopped else { return false };
        let before = before.saturating_sub(self.evidence.tail.len().saturating_sub(self.lines.len()));
        let by_the_signal = self.evidence.exit.is_success() || signal(self.evidence.exit) == Some(15);
        let raised = |chain: &Chain| {
            let of_a_worker = self.lines[chain.start()].worker.is_some();
            chain.weight == Weight::Plain && chain.start() < before && (of_a_worker || !by_the_signal)
        };
        self.evidence.oom_killed
            || self.worker.as_ref().is_some_and(FailedWorker::failed_by_itself)
            || self.chain.as_ref().is_some_and(raised)
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
            On::Stopped => bare(evidence.stopped.is_some() && !self.failed_before_its_stop()),
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
            (None, None) => self.worker.as_ref()?.name(),
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
    chains
        .iter()
        .filter(|chain| chain.weight < Weight::Launcher)
        .min_by_key(|chain| (blame(table, chain, hits), chain.weight, chain.start()))
        .cloned()
}

fn blame(table: &Table, chain: &Chain, hits: &[Hit]) -> Blame {
    let lines: Vec<usize> = chain.messages().collect();
    Blame::of(table.cause_of(hits.iter().filter(|h| lines.contains(&h.line)).copied()))
}

/// True of a worker that failed by itself and none of whose tracebacks, `lost`, says that it lost another one. A
/// traceback that names no worker may be of any that did not die by a signal.
fn failed_alone<'c>(
    worker: &FailedWorker,
    lines: &[Said],
    mut lost: impl Iterator<Item = &'c Chain>,
) -> bool {
    let of_it = |chain: &Chain| match lines[chain.start()].worker {
        Some(name) => worker.is(name),
        None => worker.signal().is_none(),
    };
    worker.failed_by_itself() && !lost.any(of_it)
}

/// The hits that are about the program's end.
fn failure(
    lines: &[Said],
    chains: &[Chain],
    chain: Option<&Chain>,
    worker: Option<&FailedWorker>,
    hits: &[Hit],
) -> Vec<Hit> {
    let about: Vec<usize> = if let Some(chain) = chain {
        chain.messages().collect()
    } else {
        let raised: Vec<usize> = chains.iter().flat_map(Chain::lines).collect();
        let others =
            |at: &usize| lines[*at].worker.zip(worker).is_some_and(|(name, worker)| !worker.is(name));
        (0..lines.len()).rev().filter(|at| !raised.contains(at) && !others(at)).take(LAST_LINES).collect()
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

    fn stopped(exit: ExitStatus, before: usize, lines: &[&str]) -> crate::Explanation {
        let tail: Vec<Line<'_>> = lines.iter().map(|text| Line { source: Source::Stderr, text }).collect();
        let evidence =
            Evidence { tail: &tail, stopped: Some(before), ranks: Some((2, 2)), ..Evidence::new(exit) };
        explain(&evidence).unwrap()
    }

    #[test]
    fn what_failed_before_it_was_stopped_did_so_by_itself() {
        use ExitStatus::{Code, Signal};
        let raised = [HEADER, FRAME, "ValueError: loss is NaN"];
        assert_eq!(stopped(Code(1), 3, &raised).cause, "PythonException");
        assert_eq!(stopped(Signal(9), 3, &raised).cause, "PythonException", "it hung in its end");
        assert_eq!(stopped(Code(1), 0, &raised).cause, "Stopped", "it raised because it was stopped");
        assert_eq!(stopped(Signal(15), 3, &raised).cause, "Stopped", "it had gone on after that");
        let of_a_worker = raised.map(|line| format!("[default1]:{line}"));
        let told = stopped(Signal(15), 3, &of_a_worker.each_ref().map(String::as_str));
        assert_eq!((told.cause, told.rank), ("PythonException", Some(3)));
    }

    #[test]
    fn a_launchers_first_word_on_a_worker_is_enough_where_it_came_to_no_more() {
        let word =
            |exit| format!("ERROR:api:failed (exitcode: {exit}) local_rank: 1 (pid: 9) of binary: python3");
        let told = stopped(ExitStatus::Signal(9), 1, &[&word(-11)]);
        assert_eq!((told.cause, told.rank), ("Segfault", Some(3)));
        assert_eq!(stopped(ExitStatus::Code(1), 1, &[&word(-15)]).cause, "Stopped");
        let signalled = [HEADER, FRAME, "torch.api.SignalException: Process 7 got signal: 15"];
        assert_eq!(stopped(ExitStatus::Code(1), 0, &signalled).cause, "Stopped");
    }

    #[test]
    fn numbers_that_are_no_exit_are_no_signals_either() {
        for number in ["-2147483648", "-2147483649", "99999999999"] {
            let word =
                format!("ERROR:api:failed (exitcode: {number}) local_rank: 1 (pid: 9) of binary: python3");
            let signalled = format!("torch.api.SignalException: Process 7 got signal: {number}");
            for lines in [[&word[..]; 3], [HEADER, FRAME, &signalled]] {
                let tail = lines.map(|text| Line { source: Source::Stderr, text });
                let told = explain(&Evidence { tail: &tail, ..Evidence::new(ExitStatus::Code(1)) });
                assert!(told.is_none_or(|told| !told.summary.contains("signal")), "{number}");
            }
        }
    }

    #[test]
    fn of_workers_that_failed_at_once_the_one_that_lost_no_other_counts() {
        let lost =
            [HEADER, FRAME, "RuntimeError: [tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:31962"];
        let lost = lost.map(|line| format!("[default0]:{line}"));
        let row = |rank, exit| {
            [
                format!("  rank      : {} (local_rank: {rank})", rank + 2),
                format!("  exitcode  : {exit} (pid: 8)"),
            ]
        };
        let (root, others) = ("Root Cause (first observed failure):".to_owned(), "Failures:".to_owned());
        let table = [&lost[..], &[others], &row(1, -11), &[root], &row(0, 1)].concat();
        let lines: Vec<&str> = table.iter().map(String::as_str).collect();
        let told = stopped(ExitStatus::Code(1), lines.len(), &lines);
        assert_eq!((told.cause, told.rank), ("Segfault", Some(3)));
        let told = stopped(ExitStatus::Code(1), 3, &lines[..3]);
        assert_eq!((told.cause, told.rank), ("PeerLost", Some(2)));
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
