use super::super::reader::{Position, SeriesReader};
use super::super::record::StreamKind;
use super::*;

fn stream(rank: u32) -> StreamId {
    StreamId { generation: 1, rank, kind: StreamKind::Output }
}

fn line(rank: u32, sequence: u64) -> Record {
    let entry = Entry::Stdout(format!("line {sequence}"));
    Record { stream: stream(rank), node: "n".into(), sequence, at: sequence, entry }
}

fn end(rank: u32, sequence: u64) -> Record {
    Record { entry: Entry::End, ..line(rank, sequence) }
}

fn lines(rank: u32, range: std::ops::Range<u64>) -> Vec<Record> {
    range.map(|n| line(rank, n)).collect()
}

fn open(dir: &Path) -> Series {
    Series::open(dir, "log", Limits::of_total(1 << 20)).unwrap()
}

fn stored(series: &Series) -> Vec<(u32, u64, Entry)> {
    let mut reader = SeriesReader::at(series.shared().clone(), Position::default());
    let mut all = Vec::new();
    loop {
        let chunk = reader.next(64).unwrap();
        if chunk.is_empty() {
            return all;
        }
        all.extend(chunk.into_iter().map(|(_, r)| (r.stream.rank, r.sequence, r.entry)));
    }
}

fn sequences(series: &Series, rank: u32) -> Vec<u64> {
    stored(series).into_iter().filter(|(r, _, _)| *r == rank).map(|(_, n, _)| n).collect()
}

#[test]
fn lines_that_come_again_are_stored_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(lines(0, 0..3), Gaps::Marked).unwrap();
    series.append(lines(0, 1..5), Gaps::Marked).unwrap();
    drop(series);
    let mut series = open(dir.path());
    assert_eq!(series.cursor(stream(0)).next, 5);
    series.append(lines(0, 0..6), Gaps::Marked).unwrap();
    assert_eq!(sequences(&series, 0), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn missing_lines_are_marked_with_their_numbers_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(lines(0, 0..2), Gaps::Marked).unwrap();
    series.append(lines(0, 7..8), Gaps::Marked).unwrap();
    series.append(lines(0, 2..8), Gaps::Marked).unwrap();
    let entries: Vec<_> = stored(&series).into_iter().map(|(_, n, e)| (n, e)).collect();
    assert_eq!(entries[2], (2, Entry::Gap(7)));
    assert_eq!(entries[3].0, 7);
    assert_eq!(entries.len(), 4, "late lines of a gap do not come out of order");
}

#[test]
fn an_end_is_kept_over_a_restart_and_nothing_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(vec![line(0, 0), end(0, 1)], Gaps::Marked).unwrap();
    drop(series);
    let mut series = open(dir.path());
    assert_eq!(series.cursor(stream(0)), Cursor { next: 1, ended: true });
    series.append(vec![line(0, 1), end(0, 2)], Gaps::Marked).unwrap();
    assert_eq!(stored(&series).len(), 2);
}

#[test]
fn a_torn_tail_is_cut_off_and_the_lines_before_it_stay() {
    for garbage in [b"{\"g\":1,\"r\":0".as_slice(), &[0; 300], b"\xff\xfe\n"] {
        let dir = tempfile::tempdir().unwrap();
        let mut series = open(dir.path());
        series.append(lines(0, 0..3), Gaps::Marked).unwrap();
        let path = series.shared().path_of(1);
        drop(series);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(garbage).unwrap();
        drop(file);
        let mut series = open(dir.path());
        assert_eq!(series.cursor(stream(0)).next, 3);
        series.append(lines(0, 3..4), Gaps::Marked).unwrap();
        assert_eq!(sequences(&series, 0), [0, 1, 2, 3]);
    }
}

#[test]
fn damage_in_the_middle_costs_only_the_damaged_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(lines(0, 0..3), Gaps::Marked).unwrap();
    let path = series.shared().path_of(1);
    drop(series);
    let text = std::fs::read_to_string(&path).unwrap().replace("line 1\"}", "line 1\"#");
    std::fs::write(&path, text).unwrap();
    let series = open(dir.path());
    assert_eq!(series.cursor(stream(0)).next, 3);
    assert_eq!(sequences(&series, 0), [0, 2]);
}

#[test]
fn a_segment_whose_header_was_never_written_is_removed_and_the_one_before_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(lines(0, 0..3), Gaps::Marked).unwrap();
    let torn = series.shared().path_of(2);
    drop(series);
    std::fs::write(&torn, "{\"streams\":[").unwrap();
    let mut series = open(dir.path());
    assert!(!torn.exists());
    series.append(lines(0, 3..4), Gaps::Marked).unwrap();
    assert_eq!(sequences(&series, 0), [0, 1, 2, 3]);
}

#[test]
fn old_segments_go_but_the_cursor_of_a_silent_rank_stays() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { total: 4096, segment: 1024 };
    let mut series = Series::open(dir.path(), "log", limits).unwrap();
    series.append(vec![line(7, 0), end(7, 1)], Gaps::Marked).unwrap();
    for n in 0..200 {
        series.append(lines(0, n..n + 1), Gaps::Marked).unwrap();
    }
    assert!(series.shared().published().bytes() <= 4096 + 1024);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, series.shared().published().segments.len(), "dropped segments are deleted");
    drop(series);
    let series = Series::open(dir.path(), "log", limits).unwrap();
    assert_eq!(series.cursor(stream(7)), Cursor { next: 1, ended: true });
    assert_eq!(series.cursor(stream(0)).next, 200);
    assert!(sequences(&series, 7).is_empty());
    assert_eq!(sequences(&series, 0).last(), Some(&199));
}

#[test]
fn a_failed_write_leaves_nothing_behind_and_the_lines_can_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut series = open(dir.path());
    series.append(lines(0, 0..2), Gaps::Marked).unwrap();
    let path = series.shared().path_of(1);
    // What a write that failed half way leaves.
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"{\"g\":1,\"r\":0,\"k\":\"o\",\"h\":\"n\",\"n\":2").unwrap();
    drop(file);
    series.append(lines(0, 2..3), Gaps::Marked).unwrap();
    assert_eq!(sequences(&series, 0), [0, 1, 2]);
    let moved = dir.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    series.append(lines(0, 3..4), Gaps::Marked).unwrap_err();
    assert_eq!(series.cursor(stream(0)).next, 3, "what is not on disk is not acknowledged");
    std::fs::rename(&moved, &path).unwrap();
    series.append(lines(0, 3..4), Gaps::Marked).unwrap();
    assert_eq!(sequences(&series, 0), [0, 1, 2, 3]);
}
