//! MNIST's files: read, and refused.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use convoke_trainer::mnist::Digits;

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn images(count: u32) -> Vec<u8> {
    let pixels = (0..count * 784).map(|i| (i % 251) as u8);
    words(&[0x0803, count, 28, 28]).into_iter().chain(pixels).collect()
}

fn labels(labels: &[u8]) -> Vec<u8> {
    words(&[0x0801, labels.len() as u32]).into_iter().chain(labels.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A directory with three good samples.
fn good() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(IMAGES), images(3)).unwrap();
    fs::write(directory.path().join(LABELS), labels(&[7, 0, 9])).unwrap();
    directory
}

/// Replaces one good file and returns what reading says; it must name `file`.
fn refusal(file: &str, bytes: &[u8]) -> String {
    let directory = good();
    fs::write(directory.path().join(file), bytes).unwrap();
    let error = Digits::read(directory.path(), "train").unwrap_err().to_string();
    assert!(error.contains(file), "{error} does not name {file}");
    error
}

#[test]
fn files_are_read_gzipped_or_not_whatever_their_name() {
    let directory = good();
    let plain = Digits::read(directory.path(), "train").unwrap();
    assert_eq!((plain.len(), &plain.labels[..], plain.images.len()), (3, &[7, 0, 9][..], 3 * 784));
    fs::write(directory.path().join(IMAGES), gzip(&images(3))).unwrap();
    fs::rename(directory.path().join(LABELS), directory.path().join(format!("{LABELS}.gz"))).unwrap();
    let mixed = Digits::read(directory.path(), "train").unwrap();
    assert_eq!((mixed.images, mixed.labels), (plain.images, plain.labels));
}

#[test]
fn the_examples_data_is_whole() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mnist/data");
    assert_eq!(Digits::read(&directory, "train").unwrap().len(), 9000);
    assert_eq!(Digits::read(&directory, "t10k").unwrap().len(), 1000);
}

#[test]
fn a_missing_file_is_named_with_the_flag_that_points_to_it() {
    let directory = good();
    let error = Digits::read(directory.path(), "t10k").unwrap_err().to_string();
    assert!(error.contains("no t10k-images-idx3-ubyte") && error.contains("--data"), "{error}");
}

#[test]
fn truncated_files_are_refused() {
    let whole = images(3);
    let error = refusal(IMAGES, &whole[..whole.len() - 1]);
    assert!(error.contains("truncated") && error.contains("2368 bytes, it has 2367"), "{error}");
    for length in [0, 3, 7, 15] {
        assert!(refusal(IMAGES, &whole[..length]).contains("truncated"));
    }
    assert!(refusal(LABELS, &labels(&[1, 2, 3])[..9]).contains("truncated"));
    assert!(refusal(LABELS, &gzip(&labels(&[1, 2, 3]))[..20]).contains("broken gzip data"));
    assert!(refusal(LABELS, &words(&[0x0801, u32::MAX])).contains("truncated"));
}

#[test]
fn files_that_are_something_else_are_refused() {
    let error = refusal(IMAGES, &labels(&[1, 2, 3]));
    assert!(error.contains("begins with 0x00000801, expected 0x00000803"), "{error}");
    assert!(refusal(LABELS, &images(3)).contains("not an IDX file of labels"));
    assert!(refusal(IMAGES, b"<html><body>Not found").contains("begins with 0x3c68746d"));
    let error = refusal(IMAGES, &words(&[0x0803, 1, 32, 32]));
    assert!(error.contains("images are 32x32"), "{error}");
    assert!(refusal(IMAGES, &words(&[0x0803, 1, 14, 56])).contains("images are 14x56"));
    assert!(refusal(IMAGES, &words(&[0x0803, 1, u32::MAX, u32::MAX])).contains("this model takes 28x28"));
    assert!(refusal(LABELS, &labels(&[])).contains("holds no samples"));
}

#[test]
fn contents_that_do_not_fit_are_refused() {
    let mut longer = images(3);
    longer.push(0);
    assert!(refusal(IMAGES, &longer).contains("longer than the 2368 bytes"));
    let error = refusal(LABELS, &labels(&[1, 10, 3]));
    assert!(error.contains("label 10 of sample 1 is not a digit"), "{error}");
    let error = refusal(LABELS, &labels(&[1, 2]));
    assert!(error.contains("2 labels for the 3 images"), "{error}");
}
