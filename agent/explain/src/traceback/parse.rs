//! Finds the chains of tracebacks.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::{Block, Chain, Weight};
use crate::Source;
use crate::tail::{Said, Worker};

/// Foreign lines between frames (another process's, on the same stream) before a block is given up.
const MAX_FOREIGN: usize = 20;
/// Lines of a message after its first; NCCL's and PyTorch's have up to 6.
const MAX_MESSAGE: usize = 8;

const HEADER: &str = "Traceback (most recent call last):";

/// `ValueError: bad`, `torch.OutOfMemoryError: …`, `_queue.Empty`, `socket.timeout`; no `loss: 0.3`.
static EXCEPTION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?:(?:[A-Za-z_]\w*\.)*_*[A-Z]\w*|[a-z_]\w*(?:\.[a-z_]\w*)+)(?::$|: |$)"));
/// A log record, which is not part of the message of the exception before it.
static RECORD: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\[?[WEIF][0-9]{4,8} |\b(?:DEBUG|INFO|WARN|WARNING|ERROR)\b"));
/// A log record that a traceback can belong to.
static LOGGED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b(?:WARN|WARNING|ERROR)\b"));
/// What launchers raise when a worker has failed.
static LAUNCHER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:\w+\.)*(?:ChildFailedError|SignalException|ProcessExitedException|CalledProcessError)(?::|$)",
    )
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns are constants and every test uses them")
}

/// Every chain of tracebacks in the lines, by where it begins.
pub(crate) fn chains(lines: &[Said]) -> Vec<Chain> {
    let mut channels: BTreeMap<(Source, Option<Worker>), Vec<usize>> = BTreeMap::new();
    for (at, said) in lines.iter().enumerate() {
        channels.entry((said.source, said.worker)).or_default().push(at);
    }
    let mut chains = Vec::new();
    for channel in channels.into_values() {
        let mut parser = Parser::new(lines);
        for at in channel {
            parser.line(at);
        }
        parser.end_chain();
        chains.append(&mut parser.chains);
    }
    chains.sort_by_key(Chain::start);
    chains
}

/// Where the parser is in a channel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// In the frames of the last block, whose exception stands at this indentation.
    Frames {
        indent: usize,
        foreign: usize,
    },
    /// Its exception was read, and `blank` if an empty line followed.
    After {
        blank: bool,
    },
    /// The next header belongs to the same chain.
    Linked {
        quoted: bool,
    },
}

struct Parser<'a> {
    lines: &'a [Said],
    chains: Vec<Chain>,
    /// The chain being read.
    blocks: Vec<Block>,
    weight: Weight,
    state: State,
    /// The line before, for what introduces a header.
    before: Option<usize>,
    /// A group's lines have a margin of `| `.
    margin: bool,
    /// The part of torchrun's table on the failures after the first.
    later: bool,
}

impl<'a> Parser<'a> {
    fn new(lines: &'a [Said]) -> Self {
        Self {
            lines,
            chains: Vec::new(),
            blocks: Vec::new(),
            weight: Weight::Plain,
            state: State::Outside,
            before: None,
            margin: false,
            later: false,
        }
    }

    fn line(&mut self, at: usize) {
        let text = self.text(at);
        match text {
            "Failures:" => self.later = true,
            "Root Cause (first observed failure):" => self.later = false,
            _ => {}
        }
        if text.ends_with(HEADER) {
            self.header(at, text);
        } else {
            match self.state {
                State::Outside | State::Linked { .. } => self.outside(at, text),
                State::Frames { indent, foreign } => self.frames(at, text, indent, foreign),
                State::After { blank } => self.after(at, text, blank),
            }
        }
        self.before = Some(at);
    }

    fn text(&self, at: usize) -> &'a str {
        let text = self.lines[at].text.as_str();
        if !self.margin {
            return text;
        }
        let inner = text.trim_start().trim_start_matches(['|', '+']);
        inner.strip_prefix(' ').unwrap_or(inner)
    }

    fn header(&mut self, at: usize, text: &str) {
        let intro = text.strip_suffix(HEADER).unwrap_or_default();
        let quoted = intro.trim() == "Original" || self.state == State::Linked { quoted: true };
        if !quoted && !matches!(self.state, State::Linked { .. }) {
            self.end_chain();
            self.weight = self.introduced(intro);
        }
        self.margin |= intro.trim() == "+ Exception Group";
        // torchrun's table indents what follows by two; one space is left of a message without newline.
        let indent = match intro.trim() {
            "traceback :" => 2,
            "" if intro.len() > 1 => intro.len(),
            _ => 0,
        };
        self.open(at, quoted, indent);
    }

    fn open(&mut self, at: usize, quoted: bool, indent: usize) {
        self.drop_unfinished();
        self.blocks.push(Block { frames: vec![at], message: Vec::new(), quoted });
        self.state = State::Frames { indent, foreign: 0 };
    }

    /// What the text before a header says about the chain.
    fn introduced(&self, intro: &str) -> Weight {
        let before = self.before.map_or("", |at| self.lines[at].text.as_str());
        if before.starts_with("Exception ignored in") || LOGGED.is_match(before) || LOGGED.is_match(intro) {
            Weight::Survived
        } else if intro.trim() == "traceback :" && self.later {
            Weight::Later
        } else {
            Weight::Plain
        }
    }

    /// Frames without a header: of a syntax error in the script itself, or of a traceback whose
    /// beginning is not in the tail.
    fn outside(&mut self, at: usize, text: &str) {
        let placed = text.ends_with(|c: char| c.is_ascii_digit()) || text.contains(", in ");
        if text.starts_with("  File \"") && placed {
            self.end_chain();
            self.open(at, false, 0);
        }
    }

    fn frames(&mut self, at: usize, text: &str, indent: usize, foreign: usize) {
        let block = self.blocks.last_mut().expect("a block was opened before its frames");
        let inner = text.get(indent..).filter(|_| text.len() - text.trim_start().len() >= indent);
        if inner.is_some_and(|t| t.starts_with([' ', '\t'])) {
            block.frames.push(at);
        } else if block.frames.len() > 1 && inner.is_some_and(|t| EXCEPTION.is_match(t)) {
            block.message.push(at);
            self.state = State::After { blank: false };
        } else if foreign < MAX_FOREIGN {
            self.state = State::Frames { indent, foreign: foreign + 1 };
        } else {
            self.end_chain();
        }
    }

    fn after(&mut self, at: usize, text: &str, blank: bool) {
        let text = text.trim();
        if text.starts_with("During handling of the above exception")
            || text.starts_with("The above exception was the direct cause")
        {
            self.state = State::Linked { quoted: false };
        } else if text.starts_with("-- Process ") && text.ends_with("terminated with the following error:") {
            self.state = State::Linked { quoted: true };
        } else if text.is_empty() || text == "\"\"\"" {
            self.state = State::After { blank: true };
        } else if blank || RECORD.is_match(text) || text.starts_with("=====") {
            self.end_chain();
            self.outside(at, self.text(at));
        } else if let Some(block) = self.blocks.last_mut().filter(|b| b.message.len() <= MAX_MESSAGE) {
            block.message.push(at);
        }
    }

    fn drop_unfinished(&mut self) {
        self.blocks.pop_if(|block| block.message.is_empty());
    }

    fn end_chain(&mut self) {
        self.drop_unfinished();
        let blocks = std::mem::take(&mut self.blocks);
        if !blocks.is_empty() {
            let mut chain = Chain { blocks, weight: self.weight };
            if LAUNCHER.is_match(self.text(chain.last().message[0])) {
                chain.weight = Weight::Launcher;
            }
            self.chains.push(chain);
        }
        (self.state, self.weight, self.margin) = (State::Outside, Weight::Plain, false);
    }
}
