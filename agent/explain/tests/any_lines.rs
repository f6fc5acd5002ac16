//! Whatever a task says, explaining it ends, and what is said stays short.

use std::fs;
use std::path::Path;

use convoke_explain::{Evidence, Line, MAX_EVIDENCE, Source, explain};
use convoke_model::ExitStatus;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// The lines of all excerpts: what the rules look for, to be shuffled.
fn real_lines() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/excerpts");
    let entries = fs::read_dir(folder).expect("the excerpts are in the repository");
    let text = |entry: fs::DirEntry| fs::read_to_string(entry.path()).expect("an excerpt is text");
    let all: String = entries.flatten().map(text).collect();
    all.lines()
        .filter_map(|l| l.strip_prefix("e|").or_else(|| l.strip_prefix("runtime_error: ")))
        .map(str::to_owned)
        .collect()
}

fn line() -> impl Strategy<Value = String> {
    let real = select(real_lines());
    let cut = (real.clone(), any::<prop::sample::Index>()).prop_map(|(line, at)| {
        let chars: Vec<char> = line.chars().collect();
        chars[..at.index(chars.len() + 1)].iter().collect()
    });
    let prefixes =
        select(vec!["[rank0]: ", "[default1]:", "[default1]:[rank3]: ", "\u{1b}[1m", "\t", "  | "]);
    let prefixed = (prefixes, real.clone()).prop_map(|(prefix, line)| format!("{prefix}{line}"));
    prop_oneof![4 => real, 1 => cut, 2 => prefixed, 1 => any::<String>(), 1 => "[\\[\\]{}:| a-z0-9\u{1b}\r]{0,40}"]
}

fn exit() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        (0..160).prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal),
        Just(ExitStatus::Unknown),
    ]
}

proptest! {
    // Each case reads some 80 lines against every rule: unoptimised, 256 of them take 15 seconds.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_lines_give_a_short_explanation_or_none(
        lines in vec((line(), any::<bool>()), 0..80),
        exit in exit(),
        flags in any::<[bool; 3]>(),
        before in 0_usize..80,
        numbers in any::<[Option<u64>; 4]>(),
        error in prop::option::of(vec(line(), 1..20).prop_map(|lines| lines.join("\n"))),
    ) {
        let source = |out: &bool| if *out { Source::Stdout } else { Source::Stderr };
        let tail: Vec<Line<'_>> = lines.iter().map(|(text, out)| Line { source: source(out), text }).collect();
        let evidence = Evidence {
            oom_killed: flags[0],
            stopped: flags[1].then_some(before),
            memory_limit: numbers[0],
            memory_peak: numbers[1],
            shm_size: numbers[2],
            shm_peak: numbers[3],
            tail: &tail,
            runtime_error: error.as_deref().filter(|_| flags[2]),
            ..Evidence::new(exit)
        };
        if let Some(told) = explain(&evidence) {
            prop_assert!(told.evidence.len() <= MAX_EVIDENCE);
            prop_assert!(told.evidence.iter().all(|line| line.len() <= 1024));
            prop_assert!(told.summary.len() < 2048 && told.advice.len() < 2048);
            prop_assert_eq!(told.to_text().matches("  try: ").count() > 0, true);
            prop_assert!(flags[1] || told.cause != "Stopped");
        }
    }
}

#[test]
fn a_huge_tail_is_cut_before_it_is_read() {
    // 100,000 lines of 64 KiB: read whole they would take minutes; the traceback at the end is found.
    let long = format!("{}CUDA out of memory", "x".repeat(64 * 1024));
    let mut tail = vec![Line { source: Source::Stdout, text: &long }; 100_000];
    let last = ["Traceback (most recent call last):", "  File \"a.py\", line 1, in f", "ValueError: x"];
    tail.extend(last.map(|text| Line { source: Source::Stderr, text }));
    let evidence = Evidence { tail: &tail, ..Evidence::new(ExitStatus::Code(1)) };
    assert_eq!(explain(&evidence).unwrap().summary, "ValueError: x");
}
