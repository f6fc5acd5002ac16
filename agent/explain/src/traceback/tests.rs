use super::*;
use crate::tail::clean;
use crate::{Line, Source};

const HEADER: &str = "Traceback (most recent call last):";

fn said(text: &str) -> Vec<crate::tail::Said> {
    let lines: Vec<Line<'_>> = text.lines().map(|text| Line { source: Source::Stderr, text }).collect();
    clean(&lines)
}

/// Each chain as its exceptions' lines.
fn exceptions(text: &str) -> Vec<Vec<String>> {
    let lines = said(text);
    let texts = |chain: Chain| chain.blocks.iter().map(|b| lines[b.message[0]].text.clone()).collect();
    chains(&lines).into_iter().map(texts).collect()
}

fn weights(text: &str) -> Vec<Weight> {
    chains(&said(text)).iter().map(|chain| chain.weight).collect()
}

fn traceback(exception: &str) -> String {
    format!("{HEADER}\n  File \"train.py\", line 1, in <module>\n    main()\n{exception}\n")
}

#[test]
fn workers_that_talk_at_the_same_time_are_read_apart() {
    let both = "[rank0]: Traceback (most recent call last):\n\
                [rank1]: Traceback (most recent call last):\n\
                [rank1]:   File \"a.py\", line 1, in f\n\
                [rank0]:   File \"b.py\", line 2, in g\n\
                [rank1]: KeyError: 1\n\
                [rank0]: ValueError: 0\n";
    assert_eq!(exceptions(both), [["ValueError: 0"], ["KeyError: 1"]]);
}

#[test]
fn lines_of_other_processes_between_frames_do_not_end_a_traceback() {
    let mixed = format!(
        "{HEADER}\nstep 7\n  File \"a.py\", line 1, in f\nloss: 0.3\n    f()\nepoch 2 done\nValueError: x\n"
    );
    assert_eq!(exceptions(&mixed), [["ValueError: x"]]);
    let noise = "step\n".repeat(21);
    assert_eq!(
        exceptions(&format!("{HEADER}\n  File \"a.py\", line 1, in f\n{noise}ValueError: x\n")),
        [[""; 0]; 0]
    );
}

#[test]
fn a_traceback_that_is_cut_off_at_either_end_is_no_wrong_one() {
    assert_eq!(exceptions("    f()\n  File \"a.py\", line 3, in f\n    g()\nOSError: x\n"), [["OSError: x"]]);
    assert_eq!(exceptions(&format!("{HEADER}\n  File \"a.py\", line 1, in f\n    f()\n")), [[""; 0]; 0]);
    let restarted = format!("{HEADER}\n  File \"a.py\", line 1, in f\n{}", traceback("KeyError: 2"));
    assert_eq!(exceptions(&restarted), [["KeyError: 2"]]);
}

#[test]
fn a_header_after_words_without_a_newline_is_one() {
    for before in [" ", "50%|#####     | 5/10 [00:01<00:01, 4.2it/s]"] {
        assert_eq!(
            exceptions(&format!("{before}{}", traceback("KeyError: 1"))),
            [["KeyError: 1"]],
            "{before:?}"
        );
    }
    let indented =
        "    Traceback (most recent call last):\n      File \"a.py\", line 1, in f\n    KeyError: 1\n";
    assert_eq!(exceptions(indented), [["    KeyError: 1"]]);
}

#[test]
fn a_chain_has_the_exception_that_was_raised_first_and_the_one_that_ended_the_program() {
    let handling = "\nDuring handling of the above exception, another exception occurred:\n\n";
    let cause = "\nThe above exception was the direct cause of the following exception:\n\n";
    let text = traceback("KeyError: 1")
        + handling
        + &traceback("OSError: 2")
        + cause
        + &traceback("RuntimeError: 3");
    assert_eq!(exceptions(&text), [["KeyError: 1", "OSError: 2", "RuntimeError: 3"]]);
    let chain = &chains(&said(&text))[0];
    assert_eq!((chain.first(), chain.last()), (&chain.blocks[0], &chain.blocks[2]));
    // Two that nothing links are two.
    assert_eq!(exceptions(&(traceback("KeyError: 1") + &traceback("OSError: 2"))).len(), 2);
}

#[test]
fn what_is_said_before_a_traceback_weighs_it() {
    assert_eq!(weights(&traceback("ValueError: x")), [Weight::Plain]);
    assert_eq!(weights(&format!("INFO step 7\n{}", traceback("ValueError: x"))), [Weight::Plain]);
    for before in
        ["Exception ignored in: <function f>", "2026-01-02 ERROR train: trying again", "WARNING:root:x"]
    {
        assert_eq!(
            weights(&format!("{before}\n{}", traceback("ValueError: x"))),
            [Weight::Survived],
            "{before}"
        );
    }
    let launcher = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:";
    assert_eq!(weights(&traceback(launcher)), [Weight::Launcher]);
    assert_eq!(
        weights(&traceback("subprocess.CalledProcessError: Command '['x']' failed")),
        [Weight::Launcher]
    );
}

#[test]
fn a_message_ends_where_something_else_begins() {
    let text =
        traceback("RuntimeError: NCCL error") + "Last error:\nconnect failed\nINFO: cleaning up\nmore\n";
    let message: Vec<usize> = chains(&said(&text))[0].messages().collect();
    assert_eq!(message, [3, 4, 5]);
    let long = traceback("RuntimeError: x") + &"and more\n".repeat(50);
    assert_eq!(chains(&said(&long))[0].messages().count(), 9);
}

#[test]
fn of_a_long_traceback_the_users_own_frame_is_shown() {
    let library =
        "  File \"/usr/lib/python3/dist-packages/torch/x.py\", line 9, in x\n    y()\n    ^^^\n".repeat(9);
    let own = "  File \"train.py\", line 41, in main\n    loss.backward()\n";
    let text = format!("{HEADER}\n{library}{own}{library}ValueError: x\n");
    let lines = said(&text);
    let chains = chains(&lines);
    let shown = excerpt(&lines, chains[0].first(), 12);
    assert_eq!(shown.len(), 12);
    assert_eq!(shown[..4], [HEADER, "  …", "  File \"train.py\", line 41, in main", "    loss.backward()"]);
    assert_eq!(shown[10..], ["  …", "ValueError: x"]);
    let frame = last_frame(&lines, chains[0].first()).unwrap();
    assert_eq!((frame.file, frame.line), ("train.py", "41"));
}
