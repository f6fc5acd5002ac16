//! One frame of an engine's log stream: a line with the time at which the engine read it, or a piece of
//! a line.

use bollard::container::LogOutput;
use convoke_model::Timestamp;

use crate::spool::Source;

/// What a container printed, up to a newline or up to the 16 KiB that the engine reads at once; the
/// pieces of one line share their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) source: Source,
    pub(super) at: Timestamp,
    /// Without its newline.
    pub(super) text: &'a [u8],
    /// A newline followed.
    pub(super) whole: bool,
}

impl<'a> Frame<'a> {
    /// Reads a frame of a stream that was asked for with times. One without a readable time, which no
    /// known engine sends, is as old as the frame before it.
    pub(super) fn of(output: &'a LogOutput, before: Timestamp) -> Self {
        let (source, bytes) = match output {
            LogOutput::StdErr { message } => (Source::Stderr, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (Source::Stdout, message)
            }
        };
        let (at, text) = split_time(bytes).unwrap_or((before, bytes));
        let (text, whole) = match text.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (text, false),
        };
        Self { source, at, text, whole }
    }
}

/// `2026-11-24T11:29:08.804656893Z text`.
fn split_time(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    // The longest time that RFC 3339 writes with nanoseconds has 35 characters.
    let space = bytes.iter().take(36).position(|b| *b == b' ')?;
    let time = std::str::from_utf8(&bytes[..space]).ok()?;
    Some((time_of(time)?, &bytes[space + 1..]))
}

/// A time as engines write it; `None` for the zero time, which means "not yet".
pub(in super::super) fn time_of(text: &str) -> Option<Timestamp> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp(since.as_millis().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_time_its_source_and_its_text() {
        let line = LogOutput::StdErr { message: "2026-11-24T11:29:08.804656893Z a b\n".into() };
        let frame = Frame::of(&line, Timestamp(0));
        assert_eq!(frame.source, Source::Stderr);
        assert_eq!((frame.at.0 % 1000, frame.text, frame.whole), (804, &b"a b"[..], true));
        let piece = LogOutput::StdOut { message: "2026-11-24T11:29:08.8Z half".into() };
        assert_eq!(
            (Frame::of(&piece, Timestamp(0)).text, Frame::of(&piece, Timestamp(0)).whole),
            (&b"half"[..], false)
        );
        let empty = LogOutput::StdOut { message: "2026-11-24T11:29:08Z \n".into() };
        assert_eq!(
            (Frame::of(&empty, Timestamp(0)).text, Frame::of(&empty, Timestamp(0)).whole),
            (&b""[..], true)
        );
    }

    #[test]
    fn a_frame_without_a_time_keeps_its_text_and_takes_the_time_before() {
        let odd = LogOutput::StdOut { message: "no time here\n".into() };
        assert_eq!(Frame::of(&odd, Timestamp(7)).at, Timestamp(7));
        assert_eq!(Frame::of(&odd, Timestamp(7)).text, b"no time here");
        assert_eq!(time_of("0001-01-01T00:00:00Z"), None);
    }
}
