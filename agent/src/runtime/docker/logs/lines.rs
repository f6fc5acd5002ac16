//! Frames become lines of a spool, each once, however often the engine is asked for them again.
//!
//! A line bears the time at which the engine read it, so the spool itself tells where each source's
//! lines end: the last time, and how many lines have it. When a log is read again (by a new agent,
//! after the connection broke, or because lines may be missing), what the spool has is skipped. If the
//! spool's newest line is not among what comes before the first new one, the engine has dropped lines
//! meanwhile, and a line of Convoke's says so.

use std::time::Duration;

use convoke_model::Timestamp;

use super::super::exit::INIT_FAILURE;
use super::frame::Frame;
use crate::spool::{self, End, Ends, MAX_LINE, Source, Writer};

const GAP: &str = "lines of output may be missing here: the engine dropped them before they could be read";
/// A stream that is behind by less than this shows lines as they come.
const BEHIND: Duration = Duration::from_millis(50);
/// A pause between two lines that an engine cannot have skipped whole log files in.
const SHORT: Duration = Duration::from_millis(20);

/// Why the log must be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// This reading began after the spool's end: more of the log is needed.
    More,
    /// The engine may have skipped lines, as older ones do that fall behind a rotation of their files.
    Jumped,
}

/// Puts a container's frames into its spool.
#[derive(Debug)]
pub(super) struct Lines {
    spool: Writer,
    ends: Ends,
    stdout: Partial,
    stderr: Partial,
    replay: Option<Replay>,
    pace: Pace,
    init_failure: Option<String>,
}

/// The beginning of a line.
#[derive(Debug, Default)]
struct Partial {
    at: Timestamp,
    bytes: Vec<u8>,
}

/// What the spool has of what is being read.
#[derive(Debug)]
struct Replay {
    stdout: Option<Skip>,
    stderr: Option<Skip>,
    newest: Source,
    /// The newest line was met: what follows it follows it without a gap.
    met: bool,
    /// There is no more to be had than this reading.
    whole: bool,
}

#[derive(Debug)]
struct Skip {
    end: End,
    seen: u64,
}

/// How far behind its container the stream is.
#[derive(Debug, Default)]
struct Pace {
    /// When this reading began: what is older is history, whose pauses mean nothing.
    begun: Timestamp,
    last: Timestamp,
    behind: Duration,
}

impl Lines {
    pub(super) fn new(spool: Writer, ends: Ends) -> Self {
        let (stdout, stderr) = (Partial::default(), Partial::default());
        Self { spool, ends, stdout, stderr, replay: None, pace: Pace::default(), init_failure: None }
    }

    /// The time of the newest line.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.ends.newest()
    }

    /// The log is read from an earlier place on; `whole` says that it is all the engine has.
    pub(super) fn read_again(&mut self, whole: bool, now: Timestamp) {
        (self.stdout, self.stderr) = (Partial::default(), Partial::default());
        self.pace = Pace { begun: now, ..Pace::default() };
        let skip = |end| Some(Skip { end, seen: 0 });
        let newest = if self.ends.stdout.map(|e| e.at) >= self.ends.stderr.map(|e| e.at) {
            Source::Stdout
        } else {
            Source::Stderr
        };
        self.replay = self.newest().map(|_| Replay {
            stdout: self.ends.stdout.and_then(skip),
            stderr: self.ends.stderr.and_then(skip),
            newest,
            met: false,
            whole,
        });
    }

    /// Takes a frame that arrived `now`.
    pub(super) fn take(&mut self, frame: &Frame<'_>, now: Timestamp) -> Result<(), Again> {
        self.pace.step(frame.at, now)?;
        let partial = self.partial(frame.source);
        if partial.bytes.is_empty() {
            partial.at = frame.at;
        }
        partial.bytes.extend_from_slice(frame.text);
        if frame.whole {
            let Partial { at, bytes } = std::mem::take(partial);
            return self.offer(frame.source, at, &bytes);
        }
        while self.partial(frame.source).bytes.len() > MAX_LINE {
            let partial = self.partial(frame.source);
            let rest = partial.bytes.split_off(spool::cut(&partial.bytes, MAX_LINE));
            let (at, piece) = (partial.at, std::mem::replace(&mut partial.bytes, rest));
            self.offer(frame.source, at, &piece)?;
        }
        Ok(())
    }

    /// The time of the last frame.
    pub(super) fn last(&self) -> Timestamp {
        self.pace.last
    }

    /// Hands what was taken to the disk.
    pub(super) fn flush(&mut self) {
        self.spool.flush();
    }

    /// A word of Convoke's about the output.
    pub(super) fn remark(&mut self, at: Timestamp, text: &str) {
        self.spool.push(at, Source::Convoke, text.as_bytes());
    }

    /// The line with which the container's init said that it could not start the command.
    pub(super) fn init_failure(&self) -> Option<String> {
        self.init_failure.clone()
    }

    /// The container will print no more; its last line may lack its newline.
    pub(super) fn finish(mut self) -> std::io::Result<()> {
        for source in [Source::Stdout, Source::Stderr] {
            let Partial { at, bytes } = std::mem::take(self.partial(source));
            if !bytes.is_empty() && self.offer(source, at, &bytes).is_err() {
                self.spool.push(at, source, &bytes);
            }
        }
        self.spool.finish()
    }

    fn partial(&mut self, source: Source) -> &mut Partial {
        if source == Source::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    fn offer(&mut self, source: Source, at: Timestamp, text: &[u8]) -> Result<(), Again> {
        for piece in spool::pieces(text) {
            if source == Source::Stderr && piece.starts_with(INIT_FAILURE) {
                self.init_failure.get_or_insert_with(|| piece.clone());
            }
            if let Some(replay) = &mut self.replay {
                if replay.skips(source, at) {
                    continue;
                }
                if !replay.met {
                    if !replay.whole {
                        return Err(Again::More);
                    }
                    replay.met = true;
                    self.spool.push(at, Source::Convoke, GAP.as_bytes());
                }
            }
            self.spool.push(at, source, piece.as_bytes());
            self.ends.count(source, at);
        }
        Ok(())
    }
}

impl Replay {
    /// True for a line that the spool has.
    fn skips(&mut self, source: Source, at: Timestamp) -> bool {
        let slot = if source == Source::Stderr { &mut self.stderr } else { &mut self.stdout };
        let Some(skip) = slot else { return false };
        if at < skip.end.at {
            return true;
        }
        if at > skip.end.at {
            *slot = None;
            return false;
        }
        skip.seen += 1;
        if skip.seen == skip.end.lines {
            // From here on every line is new, also if the host's clock was set back.
            *slot = None;
            self.met |= source == self.newest;
        }
        true
    }
}

impl Pace {
    fn step(&mut self, at: Timestamp, now: Timestamp) -> Result<(), Again> {
        let pause = at.since(self.last);
        // A stream that is behind and catches up within a step was silent just then, or was skipped on.
        let jumped = self.last >= self.begun
            && self.last != Timestamp::default()
            && self.behind > BEHIND
            && pause > SHORT
            && pause < self.behind + BEHIND;
        if jumped {
            return Err(Again::Jumped);
        }
        (self.last, self.behind) = (at, now.since(at));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Reader;

    const START: u64 = 1_700_000_000_000;

    struct Log {
        dir: tempfile::TempDir,
        lines: Lines,
    }

    fn log() -> Log {
        let dir = tempfile::tempdir().unwrap();
        let lines = Lines::new(Writer::create(dir.path(), 1 << 20).unwrap(), Ends::default());
        Log { dir, lines }
    }

    impl Log {
        fn takes(&mut self, frames: &[(u64, char, &str)]) -> Result<(), Again> {
            for (ms, source, text) in frames {
                let at = Timestamp(START + ms);
                let source = if *source == 'e' { Source::Stderr } else { Source::Stdout };
                let whole = text.ends_with('\n');
                let text = text.trim_end_matches('\n').as_bytes();
                self.lines.take(&Frame { source, at, text, whole }, at)?;
            }
            self.lines.flush();
            Ok(())
        }

        /// What the next agent makes of it.
        fn resumed(self) -> Self {
            drop(self.lines);
            let (spool, ends) = Writer::resume(self.dir.path(), 1 << 20).unwrap().unwrap();
            Self { dir: self.dir, lines: Lines::new(spool, ends) }
        }

        fn again(&mut self, whole: bool) {
            self.lines.read_again(whole, Timestamp(START + 1_000_000));
        }

        fn texts(&self) -> Vec<String> {
            let batch = Reader::new(self.dir.path().to_owned(), 0).read(usize::MAX).unwrap();
            batch.lines.into_iter().map(|line| line.text).collect()
        }
    }

    const FIRST: [(u64, char, &str); 5] =
        [(1, 'o', "a\n"), (1, 'e', "b\n"), (2, 'o', "c\n"), (2, 'o', "c\n"), (2, 'e', "d\n")];

    #[test]
    fn what_is_read_again_after_a_restart_is_neither_repeated_nor_left_out() {
        let mut log = log();
        log.takes(&FIRST).unwrap();
        let mut log = log.resumed();
        log.again(false);
        log.takes(&FIRST).unwrap();
        // One more line of the very millisecond at which the first reading ended.
        log.takes(&[(2, 'o', "c\n"), (3, 'e', "e\n")]).unwrap();
        assert_eq!(log.texts(), ["a", "b", "c", "c", "d", "c", "e"]);
    }

    #[test]
    fn a_reading_that_begins_after_the_spools_end_asks_for_more_and_then_marks_the_gap() {
        let mut log = log();
        log.takes(&FIRST).unwrap();
        log.again(false);
        assert_eq!(log.takes(&[(9, 'o', "z\n")]), Err(Again::More));
        log.again(true);
        log.takes(&[(9, 'o', "z\n"), (9, 'o', "y\n")]).unwrap();
        assert_eq!(log.texts(), ["a", "b", "c", "c", "d", GAP, "z", "y"]);
    }

    #[test]
    fn a_line_in_pieces_is_one_line_and_interleaved_sources_stay_apart() {
        let mut log = log();
        log.takes(&[(1, 'o', "be"), (1, 'e', "x"), (1, 'o', "gin\n"), (2, 'e', "y\n")]).unwrap();
        assert_eq!(log.texts(), ["begin", "xy"]);
    }

    #[test]
    fn a_very_long_line_is_cut_as_the_shim_cuts_it_and_read_again_without_repeats() {
        let mut log = log();
        let piece = "ü".repeat(8 * 1024);
        let frames: Vec<(u64, char, &str)> = (0..6).map(|_| (1, 'o', &*piece)).collect();
        log.takes(&frames).unwrap();
        assert_eq!(log.texts().len(), 1, "the rest is not a whole line yet");
        let mut log = log.resumed();
        log.again(false);
        log.takes(&frames).unwrap();
        log.takes(&[(1, 'o', "end\n")]).unwrap();
        assert!(log.texts().iter().all(|line| line.len() <= MAX_LINE));
        assert_eq!(log.texts().concat(), format!("{}end", piece.repeat(6)));
    }

    #[test]
    fn a_last_line_without_its_newline_is_kept() {
        let mut log = log();
        log.takes(&[(1, 'o', "whole\n"), (2, 'o', "rest")]).unwrap();
        log.lines.finish().unwrap();
        let batch = Reader::new(log.dir.path().to_owned(), 0).read(usize::MAX).unwrap();
        assert_eq!(batch.lines[1].text, "rest");
        assert!(batch.ended);
    }

    #[test]
    fn a_stream_that_is_behind_and_leaps_is_read_again() {
        let mut pace = Pace { begun: Timestamp(START), ..Pace::default() };
        let mut step = |at, now| pace.step(Timestamp(START + at), Timestamp(START + now));
        step(0, 0).unwrap();
        step(5000, 5001).unwrap(); // Silent, then prompt.
        step(5100, 5400).unwrap(); // Falls behind.
        step(5101, 5400).unwrap();
        assert_eq!(step(5350, 5401), Err(Again::Jumped));
    }

    #[test]
    fn the_pauses_of_history_mean_nothing() {
        let mut pace = Pace { begun: Timestamp(START), ..Pace::default() };
        pace.step(Timestamp(START - 9000), Timestamp(START)).unwrap();
        pace.step(Timestamp(START - 5000), Timestamp(START)).unwrap();
        pace.step(Timestamp(START + 10), Timestamp(START + 11)).unwrap();
    }
}
