//! What is shown of a traceback: its first and last lines, and the user's own code before the
//! libraries'.

use super::Block;
use crate::tail::Said;

/// A place in a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: &'a str,
}

/// The innermost frame in code that is not a library's; the innermost of all where there is none.
pub(crate) fn last_frame<'a>(lines: &'a [Said], block: &Block) -> Option<Frame<'a>> {
    let frames = || block.frames.iter().rev().filter_map(|&at| frame(&lines[at].text));
    frames().find(|f| !is_library(f.file)).or_else(|| frames().next())
}

/// Reads `File "train.py", line 8, in main`.
fn frame(text: &str) -> Option<Frame<'_>> {
    let rest = text.trim_start_matches([' ', '|']).strip_prefix("File \"")?;
    let (file, rest) = rest.split_once("\", line ")?;
    let line = rest.split(',').next()?.trim();
    Some(Frame { file, line })
}

fn is_library(file: &str) -> bool {
    ["site-packages/", "dist-packages/", "/lib/python", "<frozen ", "<string>"]
        .iter()
        .any(|part| file.contains(part))
}

/// The block's very lines, at most `most`: its header, its exception, and of its frames first the
/// user's own, then the innermost. A row of dots stands for what is left out.
pub(crate) fn excerpt(lines: &[Said], block: &Block, most: usize) -> Vec<String> {
    let message = &block.message[..block.message.len().min(most / 2)];
    // One line for the dots of each gap: frames are kept in two runs at most.
    let room = most.saturating_sub(message.len() + 3);
    let mut shown = vec![lines[block.frames[0]].text.clone()];
    shown.extend(body(lines, &block.frames[1..], room));
    shown.extend(message.iter().map(|&at| lines[at].text.clone()));
    shown.truncate(most);
    shown
}

fn body(lines: &[Said], frames: &[usize], room: usize) -> Vec<String> {
    if frames.len() <= room + 2 {
        return frames.iter().map(|&at| lines[at].text.clone()).collect();
    }
    let marks = |at: &&usize| {
        lines[**at].text.contains(['^', '~']) && !lines[**at].text.contains(char::is_alphanumeric)
    };
    let frames: Vec<usize> = frames.iter().filter(|at| !marks(at)).copied().collect();
    let room = room.min(frames.len());
    let start = own_frame(lines, &frames).min(frames.len() - room);
    let end = start + room;
    let mut shown = Vec::with_capacity(room + 2);
    if start > 0 {
        shown.push("  …".to_owned());
    }
    shown.extend(frames[start..end].iter().map(|&at| lines[at].text.clone()));
    if end < frames.len() {
        shown.push("  …".to_owned());
    }
    shown
}

/// Where the lines of the last frame in the user's own code begin, or of the last frame.
fn own_frame(lines: &[Said], frames: &[usize]) -> usize {
    let places = || frames.iter().enumerate().filter_map(|(i, &at)| Some((i, frame(&lines[at].text)?)));
    let own = places().rfind(|(_, f)| !is_library(f.file));
    own.or_else(|| places().next_back()).map_or(0, |(i, _)| i)
}
