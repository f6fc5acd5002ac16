//! Python tracebacks in a task's lines.
//!
//! The lines of each worker and stream are read apart, since workers talk at the same time. A
//! *block* is one traceback, from its header to the exception's message; a *chain* is the blocks of
//! one exception: those raised while another was handled, and originals quoted from a worker
//! process. A chain begins at any header that nothing links to what is before it.
//!
//! States of [`parse`]: outside · in a block's frames · after its exception. A block whose exception
//! never comes (cut off, or the process died while it printed) is dropped.

mod parse;
mod show;
#[cfg(test)]
mod tests;

pub(crate) use parse::chains;
pub(crate) use show::{excerpt, last_frame};

/// How much a chain says about why the task ended; the least comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Nothing speaks against it.
    Plain,
    /// It was logged, or ignored by the interpreter: the program went on.
    Survived,
    /// Another worker's report of a failure that came after the first, by torchrun's own table.
    Later,
    /// A launcher's: it only says that a worker failed.
    Launcher,
}

/// One traceback. Numbers are indices of the task's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// From its header (or first frame, where there is none) to the last line of its frames.
    pub(crate) frames: Vec<usize>,
    /// The exception's line, and what follows of its message.
    pub(crate) message: Vec<usize>,
    /// Quoted in the message of the block before it, from the process where it was raised.
    pub(crate) quoted: bool,
}

/// The blocks of one exception, in the order of their lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Block>,
    pub(crate) weight: Weight,
}

impl Chain {
    /// The exception that was raised first: the quoted original, or the first of the chain.
    pub(crate) fn first(&self) -> &Block {
        self.blocks.iter().find(|b| b.quoted).unwrap_or(&self.blocks[0])
    }

    /// The exception that ended the program.
    pub(crate) fn last(&self) -> &Block {
        self.blocks.iter().rev().find(|b| !b.quoted).unwrap_or(&self.blocks[0])
    }

    /// Where the chain begins.
    pub(crate) fn start(&self) -> usize {
        self.blocks[0].frames[0]
    }

    /// Every line of every exception's message.
    pub(crate) fn messages(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().flat_map(|b| b.message.iter().copied())
    }

    /// Every line of the chain.
    pub(crate) fn lines(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().flat_map(|b| b.frames.iter().chain(&b.message).copied())
    }
}
