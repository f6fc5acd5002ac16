//! The spool's promises, with real files.

use std::fs;
use std::io::Write as _;

use convoke_model::Timestamp;

use super::{End, LineTail, MAX_LINE, Reader, Source, Writer, last, list, seal};

const AT: Timestamp = Timestamp(1_700_000_000_000);

fn spool(limit: u64) -> (tempfile::TempDir, Writer) {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), limit).unwrap();
    (dir, writer)
}

fn texts(batch: &super::Batch) -> Vec<&str> {
    batch.lines.iter().map(|l| l.text.as_str()).collect()
}

#[test]
fn lines_come_back_numbered_with_source_and_time_and_the_end_is_known() {
    let (dir, mut writer) = spool(1 << 20);
    let mut reader = Reader::new(dir.path().to_owned(), 0);
    assert_eq!(reader.read(1000).unwrap(), super::Batch::default());
    writer.push(AT, Source::Stdout, b"one");
    writer.push(AT, Source::Stderr, b"");
    writer.flush();
    let batch = reader.read(1000).unwrap();
    assert_eq!(texts(&batch), ["one", ""]);
    assert_eq!((batch.lines[1].sequence, batch.lines[1].source, batch.lines[1].at), (1, Source::Stderr, AT));
    assert!(!batch.ended);
    writer.push(AT, Source::Stdout, b"  last \xff ");
    writer.finish().unwrap();
    let batch = reader.read(1000).unwrap();
    assert_eq!(texts(&batch), ["  last \u{fffd} "]);
    assert!(batch.ended);
}

#[test]
fn a_reader_resumes_at_any_number_and_small_budgets_lose_nothing() {
    let (dir, mut writer) = spool(1 << 20);
    for n in 0..20_000 {
        writer.push(AT, Source::Stdout, format!("line {n}").as_bytes());
    }
    writer.finish().unwrap();
    let mut reader = Reader::new(dir.path().to_owned(), 12_345);
    let mut expected = 12_345;
    loop {
        let batch = reader.read(700).unwrap();
        for line in &batch.lines {
            assert_eq!((line.sequence, line.text.as_str()), (expected, &*format!("line {expected}")));
            expected += 1;
        }
        if batch.ended {
            break;
        }
        assert!(!batch.lines.is_empty());
    }
    assert_eq!(expected, 20_000);
}

#[test]
fn a_flood_keeps_the_newest_lines_within_the_bound_and_shows_the_gap() {
    let limit = 32 * 2 * super::writer::BUFFER as u64;
    let (dir, mut writer) = spool(limit);
    for n in 0..200_000 {
        writer.push(AT, Source::Stdout, format!("{n:0100}").as_bytes());
    }
    writer.finish().unwrap();
    let on_disk: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk <= limit + super::writer::BUFFER as u64, "{on_disk}");
    let batch = Reader::new(dir.path().to_owned(), 0).read(usize::MAX).unwrap();
    assert!(batch.lines[0].sequence > 0 && batch.ended);
    assert_eq!(batch.lines.last().unwrap().sequence, 199_999);
    assert!(batch.lines.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
}

#[test]
fn a_long_line_is_split_between_characters() {
    let (dir, mut writer) = spool(1 << 20);
    let long = "ü".repeat(MAX_LINE); // 128 KiB, and a character across every odd offset
    writer.push(AT, Source::Stdout, format!("x{long}").as_bytes());
    writer.finish().unwrap();
    let batch = Reader::new(dir.path().to_owned(), 0).read(usize::MAX).unwrap();
    assert!(batch.lines.iter().all(|l| l.text.len() <= MAX_LINE && !l.text.contains('\u{fffd}')));
    assert_eq!(texts(&batch).concat(), format!("x{long}"));
}

#[test]
fn a_torn_tail_is_left_out_and_a_dead_writers_spool_can_be_sealed() {
    let (dir, mut writer) = spool(1 << 20);
    writer.push(AT, Source::Stdout, b"whole");
    writer.flush();
    drop(writer);
    let segment = dir.path().join(super::segment_name(0));
    fs::OpenOptions::new().append(true).open(segment).unwrap().write_all(b"1 1700000 o to").unwrap();
    let mut reader = Reader::new(dir.path().to_owned(), 0);
    assert_eq!(texts(&reader.read(1000).unwrap()), ["whole"]);
    seal(dir.path()).unwrap();
    seal(dir.path()).unwrap();
    assert_eq!(list(dir.path()).unwrap().end, Some(1));
    let batch = reader.read(1000).unwrap();
    assert!(batch.lines.is_empty() && batch.ended);
}

#[test]
fn lines_missing_at_the_very_end_are_marked() {
    let (dir, mut writer) = spool(1 << 20);
    writer.push(AT, Source::Stdout, b"kept");
    writer.finish().unwrap();
    fs::rename(dir.path().join(super::end_name(1)), dir.path().join(super::end_name(8))).unwrap();
    let batch = Reader::new(dir.path().to_owned(), 0).read(1000).unwrap();
    assert_eq!(batch.lines[1].source, Source::Convoke);
    assert!(batch.lines[1].text.starts_with("7 lines"), "{:?}", batch.lines[1]);
    assert_eq!(batch.lines[1].sequence, 7);
}

#[test]
fn a_tail_resumes_by_line_number_and_takes_an_unfinished_line_only_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut tail = LineTail::new(path.clone(), 1);
    assert_eq!(tail.read(1000, false).unwrap(), super::Batch::default());
    fs::write(&path, "a\nb\nc").unwrap();
    assert_eq!(texts(&tail.read(1000, false).unwrap()), ["b"]);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"c\nd").unwrap();
    let batch = tail.read(1000, false).unwrap();
    assert_eq!((texts(&batch), batch.lines[0].sequence), (vec!["cc"], 2));
    let batch = tail.read(1000, true).unwrap();
    assert_eq!((texts(&batch), batch.ended), (vec!["d"], true));
    assert_eq!(tail.next_sequence(), 4);
}

#[test]
fn a_tails_line_without_end_does_not_fill_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    fs::write(&path, [vec![b'x'; 10 * MAX_LINE], b"\nshort\n".to_vec()].concat()).unwrap();
    let mut tail = LineTail::new(path, 0);
    let first = tail.read(1, false).unwrap();
    assert_eq!((first.lines.len(), first.lines[0].text.len()), (1, MAX_LINE));
    let rest = tail.read(1000, true).unwrap();
    assert_eq!((texts(&rest), rest.ended), (vec!["short"], true));
}

#[test]
fn a_dead_writers_spool_goes_on_after_its_last_whole_line() {
    let (dir, mut writer) = spool(1 << 20);
    let later = Timestamp(AT.0 + 1);
    writer.push(AT, Source::Stderr, b"one");
    writer.push(AT, Source::Stdout, b"two");
    writer.push(later, Source::Stdout, b"three");
    writer.push(later, Source::Convoke, b"a remark");
    writer.push(later, Source::Stdout, b"four");
    writer.flush();
    drop(writer);
    let segment = dir.path().join(super::segment_name(0));
    fs::OpenOptions::new().append(true).open(segment).unwrap().write_all(b"5 1700000 o to").unwrap();
    let (mut writer, ends) = Writer::resume(dir.path(), 1 << 20).unwrap().unwrap();
    assert_eq!(ends.stdout, Some(End { at: later, lines: 2 }));
    assert_eq!(ends.stderr, Some(End { at: AT, lines: 1 }));
    writer.push(later, Source::Stdout, b"five");
    writer.finish().unwrap();
    let batch = Reader::new(dir.path().to_owned(), 0).read(1000).unwrap();
    assert_eq!(texts(&batch), ["one", "two", "three", "a remark", "four", "five"]);
    assert!(batch.ended && batch.lines.iter().enumerate().all(|(n, line)| line.sequence == n as u64));
    assert!(Writer::resume(dir.path(), 1 << 20).unwrap().is_none(), "it is sealed");
}

#[test]
fn a_spool_of_several_segments_goes_on_in_its_last_and_keeps_to_its_bound() {
    let limit = 32 * 2 * super::writer::BUFFER as u64;
    let (dir, mut writer) = spool(limit);
    for n in 0..60_000 {
        writer.push(AT, Source::Stdout, format!("{n:0100}").as_bytes());
    }
    writer.flush();
    drop(writer);
    let (mut writer, ends) = Writer::resume(dir.path(), limit).unwrap().unwrap();
    assert!(ends.stdout.unwrap().lines > 1000, "the lines of one instant are counted");
    for n in 60_000..200_000 {
        writer.push(AT, Source::Stdout, format!("{n:0100}").as_bytes());
    }
    writer.finish().unwrap();
    let on_disk: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk <= limit + super::writer::BUFFER as u64, "{on_disk}");
    let batch = Reader::new(dir.path().to_owned(), 0).read(usize::MAX).unwrap();
    assert_eq!(batch.lines.last().unwrap().text, format!("{:0100}", 199_999));
    assert!(batch.lines.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
}

#[test]
fn the_last_lines_are_those_before_the_end_however_long_the_spool() {
    let limit = 32 * 2 * super::writer::BUFFER as u64;
    for sealed in [true, false] {
        let (dir, mut writer) = spool(limit);
        assert!(last(dir.path(), 3, 100).unwrap().is_empty());
        for n in 0..60_000 {
            writer.push(AT, Source::Stdout, format!("{n:0200}").as_bytes());
        }
        if sealed {
            writer.finish().unwrap();
        } else {
            writer.flush();
        }
        let lines = last(dir.path(), 3, 199).unwrap();
        let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
        assert_eq!(sequences, [59_997, 59_998, 59_999], "sealed: {sealed}");
        assert!(lines.iter().all(|line| line.text.len() == 199));
    }
}
