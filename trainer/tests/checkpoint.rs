//! Checkpoints on disk: what they hold, and which are refused.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::fs;
use std::path::PathBuf;

use convoke_trainer::checkpoint::Draft;
use convoke_trainer::collective::tcp::Ring;
use convoke_trainer::mnist::Trainer;
use convoke_trainer::mnist::run::Device as _;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn trainer(seed: u64) -> Trainer<f32> {
    Trainer::new(Box::new(Ring::alone()), 8, seed)
}

/// A fresh checkpoint in a directory of its own.
fn saved() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = trainer(1).save(directory.path()).unwrap();
    (directory, path)
}

#[test]
fn a_checkpoint_has_the_names_and_shapes_of_pytorchs_state_dict() {
    let (_directory, path) = saved();
    let bytes = fs::read(path.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut found: Vec<_> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    found.sort();
    let expected: [(&str, &[usize]); 8] = [
        ("0.bias", &[32]),
        ("0.weight", &[32, 1, 3, 3]),
        ("3.bias", &[64]),
        ("3.weight", &[64, 32, 3, 3]),
        ("7.bias", &[128]),
        ("7.weight", &[128, 3136]),
        ("9.bias", &[10]),
        ("9.weight", &[10, 128]),
    ];
    assert_eq!(found, expected.map(|(name, shape)| (name.to_owned(), shape.to_vec())));
    let bytes = fs::read(path.join("optimizer.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 16);
}

#[test]
fn what_was_saved_is_what_is_resumed() {
    let (_directory, path) = saved();
    let mut other = trainer(2);
    assert_ne!(other.state.parameters, trainer(1).state.parameters);
    assert_eq!(other.resume(&path).unwrap(), None);
    assert_eq!(other.state.parameters, trainer(1).state.parameters);
    assert_eq!(other.progress, trainer(1).progress);
}

#[test]
fn an_earlier_checkpoint_of_the_same_step_is_replaced_and_nothing_else_is_left() {
    let (directory, path) = saved();
    trainer(2).save(directory.path()).unwrap();
    let mut resumed = trainer(3);
    resumed.resume(&path).unwrap();
    assert_eq!(resumed.state.parameters, trainer(2).state.parameters);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn an_unfinished_checkpoint_never_shows_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let draft = Draft::begin(directory.path(), 9).unwrap();
    draft.file("state.json", b"{}").unwrap();
    assert!(!directory.path().join("step-9").exists());
    drop(draft);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = trainer(1).save(&file).unwrap_err().to_string();
    assert!(error.contains("file/step-0") && error.contains("may this user write there?"), "{error}");
}

/// Breaks one file of a checkpoint and returns what resuming says.
fn refusal(file: &str, break_it: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let (_directory, path) = saved();
    let path_of_file = path.join(file);
    fs::write(&path_of_file, break_it(fs::read(&path_of_file).unwrap())).unwrap();
    let error = trainer(1).resume(&path).unwrap_err().to_string();
    assert!(error.contains(file), "{error} does not name {file}");
    error
}

/// `model.safetensors` again, with its tensors changed.
fn with_tensors(
    bytes: &[u8],
    change: impl Fn(&str, TensorView<'_>) -> Vec<(String, Dtype, Vec<usize>)>,
) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let changed: Vec<_> = tensors.iter().flat_map(|(name, view)| change(name, view)).collect();
    let zeros = vec![0; 8 * 500_000];
    let views = changed.iter().map(|(name, dtype, shape)| {
        let length = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.as_str(), TensorView::new(*dtype, shape.clone(), &zeros[..length]).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn broken_files_are_refused_by_name() {
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    assert!(refusal("model.safetensors", cut).contains("not a whole safetensors file"));
    assert!(refusal("optimizer.safetensors", cut).contains("not a whole safetensors file"));
    assert!(refusal("model.safetensors", |_| Vec::new()).contains("not a whole safetensors file"));
    assert!(refusal("model.safetensors", |_| vec![0xff; 64]).contains("not a whole safetensors file"));
    assert!(refusal("state.json", cut).contains("EOF while parsing"));
    assert!(refusal("state.json", |_| b"{\"version\": 9}".to_vec()).contains("missing field"));
    let nobody = |bytes| {
        String::from_utf8(bytes).unwrap().replace("\"world_size\": 1", "\"world_size\": 0").into_bytes()
    };
    assert!(refusal("state.json", nobody).contains("of nobody"));
}

#[test]
fn another_models_tensors_are_refused_by_name() {
    let reshaped = refusal("model.safetensors", |bytes| {
        with_tensors(&bytes, |name, view| {
            let shape = if name == "7.bias" { vec![127] } else { view.shape().to_vec() };
            vec![(name.to_owned(), view.dtype(), shape)]
        })
    });
    assert!(reshaped.contains("tensor 7.bias has shape [127], expected [128]"), "{reshaped}");
    let missing = refusal("model.safetensors", |bytes| {
        with_tensors(&bytes, |name, view| {
            let kept = (name != "3.weight").then(|| (name.to_owned(), view.dtype(), view.shape().to_vec()));
            kept.into_iter().collect()
        })
    });
    assert!(missing.contains("tensor 3.weight is missing"), "{missing}");
    let unknown = refusal("model.safetensors", |bytes| {
        with_tensors(&bytes, |name, view| {
            let copy = (format!("{name}.copy"), view.dtype(), view.shape().to_vec());
            let extra = (name == "9.bias").then_some(copy);
            extra.into_iter().chain([(name.to_owned(), view.dtype(), view.shape().to_vec())]).collect()
        })
    });
    assert!(unknown.contains("tensor 9.bias.copy is unknown"), "{unknown}");
    let double = refusal("model.safetensors", |bytes| {
        with_tensors(&bytes, |name, view| vec![(name.to_owned(), Dtype::F64, view.shape().to_vec())])
    });
    assert!(double.contains("is F64, expected F32"), "{double}");
}

#[test]
fn a_checkpoint_that_is_not_there_is_refused_by_name() {
    let error = trainer(1).resume(&PathBuf::from("/nowhere/step-3")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/step-3/state.json") && error.contains("resume from another"), "{error}");
}
