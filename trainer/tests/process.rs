//! The binary, as a user or an agent runs it.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A trainer that knows of no job.
fn trainer(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoke-trainer"));
    command.env_clear().arg("--data").arg(data);
    command
}

/// A data set of 40 training and 10 test digits.
fn data() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (set, count) in [("train", 40u32), ("t10k", 10)] {
        let header = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        let mut images = header(&[0x0803, count, 28, 28]);
        images.extend((0..count * 784).map(|i| (i * 7 % 256) as u8));
        let mut labels = header(&[0x0801, count]);
        labels.extend((0..count).map(|i| (i % 10) as u8));
        fs::write(directory.path().join(format!("{set}-images-idx3-ubyte")), images).unwrap();
        fs::write(directory.path().join(format!("{set}-labels-idx1-ubyte")), labels).unwrap();
    }
    directory
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn alone_it_trains_reports_tests_and_saves() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let metrics = out.path().join("metrics.jsonl");
    let mut command = trainer(data.path());
    command.args(["--epochs", "2", "--batch", "16", "--checkpoint-every", "4"]);
    command.env("CONVOKE_CHECKPOINT_DIR", out.path()).env("CONVOKE_METRICS", &metrics);
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", text(&stderr));
    let stdout = text(&stdout);
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].starts_with("Epoch 1/2, Loss: "), "{stdout}");
    assert!(lines[1].starts_with("Epoch 2/2, Loss: "), "{stdout}");
    assert!(lines[2].starts_with("Test accuracy: ") && lines[2].ends_with("of 10 digits)"), "{stdout}");
    assert_eq!(lines.len(), 3);
    assert!(out.path().join("step-4/model.safetensors").exists());
    assert!(out.path().join("step-6/state.json").exists());

    let metrics = fs::read_to_string(metrics).unwrap();
    let metrics: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(metrics.len(), 7);
    for (i, record) in metrics[..6].iter().enumerate() {
        assert_eq!(record["step"], i + 1);
        assert_eq!(record["total_steps"], 6.0);
        assert_eq!(record["epoch"], if i < 3 { 1.0 } else { 2.0 });
        assert!(record["loss"].as_f64().unwrap() > 0.0);
        assert!(record["samples_per_second"].as_f64().unwrap() > 0.0);
    }
    assert!(metrics[6]["test_accuracy"].as_f64().is_some());
}

#[test]
fn sigterm_ends_it_after_a_step_with_a_checkpoint_to_go_on_from() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let mut command = trainer(data.path());
    command.args(["--epochs", "100000", "--batch", "8", "--checkpoint-every", "1000000"]);
    command.arg("--checkpoint-dir").arg(out.path());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Through a pipe a line arrives as soon as it is written.
    assert!(lines.next().unwrap().unwrap().starts_with("Epoch 1/"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let saved: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(saved.len(), 1, "{saved:?}");

    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(saved[0].join("state.json")).unwrap()).unwrap();
    let epochs = (state["epoch"].as_u64().unwrap() + 1).to_string();
    let mut again = trainer(data.path());
    again.args(["--batch", "8", "--epochs", &epochs]).arg("--resume-from").arg(&saved[0]);
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = format!("Resumed from step {} (epoch {epochs})", state["step"]);
    assert!(text(&output.stdout).contains(&expected), "{}", text(&output.stdout));
}

#[test]
fn a_failure_is_made_to_order_in_its_generation_only() {
    let data = data();
    let run = |generation: &str, order: &[&str]| {
        let mut command = trainer(data.path());
        command.args(["--epochs", "1", "--batch", "8"]).args(order).env("CONVOKE_GENERATION", generation);
        command.output().unwrap().status.code()
    };
    assert_eq!(run("1", &["--fail-at-step", "2"]), Some(3));
    assert_eq!(run("1", &["--fail-at-step", "0", "--exit-code", "9"]), Some(9));
    assert_eq!(run("2", &["--fail-at-step", "2"]), Some(0));
    assert_eq!(run("2", &["--fail-at-step", "2", "--fail-generation", "0"]), Some(3));
    assert_eq!(run("1", &["--fail-at-step", "2", "--fail-rank", "1"]), Some(0));
}

#[test]
fn bad_input_ends_it_with_code_1_and_one_clear_line() {
    let data = data();
    let complaint = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = text(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr
    };
    let missing = complaint(&mut trainer(Path::new("/nowhere")));
    assert!(missing.starts_with("error: /nowhere: no train-images-idx3-ubyte"), "{missing}");
    let resume = complaint(trainer(data.path()).args(["--resume-from", "/nowhere/step-1"]));
    assert!(resume.contains("/nowhere/step-1/state.json: cannot be read"), "{resume}");
    let world = complaint(trainer(data.path()).env("WORLD_SIZE", "2"));
    assert!(world.contains("CONVOKE_SOCKET is not set"), "{world}");
    fs::write(data.path().join("t10k-labels-idx1-ubyte"), "junk").unwrap();
    let labels = complaint(&mut trainer(data.path()));
    assert!(labels.contains("t10k-labels-idx1-ubyte") && labels.contains("not an IDX file"), "{labels}");
}

#[test]
fn a_bad_command_line_is_code_2() {
    for bad in [&["--epochs", "0"][..], &["--batch", "0"], &["--checkpoint-every", "0"], &["--what"]] {
        let output = trainer(Path::new("data")).args(bad).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
}
