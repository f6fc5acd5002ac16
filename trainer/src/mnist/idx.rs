//! MNIST's IDX files, gzipped or not (told by their first bytes, not by their name).
//!
//! A file is read whole and checked against what its header announces; every refusal names the
//! file, what is wrong and what to do.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::network::{CLASSES, PIXELS};

/// Images and their labels.
#[derive(Debug, Clone)]
pub struct Digits {
    /// [`PIXELS`] grey levels per image.
    pub images: Vec<u8>,
    /// 0 to 9.
    pub labels: Vec<u8>,
}

/// Why a data set was refused.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}: no {name} or {name}.gz there: pass the directory of the four MNIST files with --data", .directory.display())]
    Missing { directory: PathBuf, name: String },
    #[error("{}: cannot be read", .file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{}: broken gzip data; fetch the file again", .file.display())]
    BrokenGzip { file: PathBuf, source: std::io::Error },
    #[error(
        "{}: not an IDX file of {what}: begins with {found:#010x}, expected {expected:#010x}: \
         check that images and labels were not mixed up, or fetch the file again", .file.display())]
    WrongMagic { file: PathBuf, what: &'static str, found: u32, expected: u32 },
    #[error("{}: images are {rows}x{columns}, this model takes 28x28: use MNIST, or resize the images", .file.display())]
    WrongSize { file: PathBuf, rows: u32, columns: u32 },
    #[error("{}: truncated: its header announces {expected} bytes, it has {found}: fetch the file again", .file.display())]
    Truncated { file: PathBuf, expected: u64, found: u64 },
    #[error("{}: longer than the {expected} bytes that its header announces: fetch the file again", .file.display())]
    TooLong { file: PathBuf, expected: u64 },
    #[error("{}: holds no samples: fetch the file again", .file.display())]
    Empty { file: PathBuf },
    #[error("{}: label {label} of sample {index} is not a digit: use MNIST's labels (0 to 9)", .file.display())]
    NotADigit { file: PathBuf, index: usize, label: u8 },
    #[error(
        "{}: {labels} labels for the {images} images of {}: both files must come from the same data set",
        .label_file.display(), .image_file.display())]
    CountsDiffer { image_file: PathBuf, images: usize, label_file: PathBuf, labels: usize },
}

impl Digits {
    /// Reads `<set>-images-idx3-ubyte` and `<set>-labels-idx1-ubyte`, each with or without `.gz`;
    /// `set` is `train` or `t10k`.
    pub fn read(directory: &Path, set: &str) -> Result<Self, DataError> {
        let (image_file, images) = read_images(directory, &format!("{set}-images-idx3-ubyte"))?;
        let (label_file, labels) = read_labels(directory, &format!("{set}-labels-idx1-ubyte"))?;
        let count = images.len() / PIXELS;
        if labels.len() != count {
            return Err(DataError::CountsDiffer {
                image_file,
                images: count,
                label_file,
                labels: labels.len(),
            });
        }
        Ok(Self { images, labels })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never: an empty file is refused.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

fn read_images(directory: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let (file, bytes) = open(directory, name)?;
    let [count, rows, columns] = header(&file, &bytes, "images", 0x0803)?;
    if (rows as usize * columns as usize, rows) != (PIXELS, 28) {
        return Err(DataError::WrongSize { file, rows, columns });
    }
    let images = body(&file, bytes, 16, u64::from(count) * PIXELS as u64)?;
    Ok((file, images))
}

fn read_labels(directory: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let (file, bytes) = open(directory, name)?;
    let [count] = header(&file, &bytes, "labels", 0x0801)?;
    let labels = body(&file, bytes, 8, u64::from(count))?;
    match labels.iter().position(|&label| usize::from(label) >= CLASSES) {
        Some(index) => Err(DataError::NotADigit { file, index, label: labels[index] }),
        None => Ok((file, labels)),
    }
}

/// Finds, reads and decompresses.
fn open(directory: &Path, name: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    for file in [directory.join(name), directory.join(format!("{name}.gz"))] {
        match fs::read(&file) {
            Ok(bytes) => return decompress(file, bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::Unreadable { file, source }),
        }
    }
    Err(DataError::Missing { directory: directory.to_owned(), name: name.to_owned() })
}

fn decompress(file: PathBuf, bytes: Vec<u8>) -> Result<(PathBuf, Vec<u8>), DataError> {
    // Far above MNIST's 47 MB, and no archive can fill the memory.
    const MOST: u64 = 1 << 30;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok((file, bytes));
    }
    let mut plain = Vec::new();
    match flate2::read::MultiGzDecoder::new(&bytes[..]).take(MOST).read_to_end(&mut plain) {
        Ok(_) => Ok((file, plain)),
        Err(source) => Err(DataError::BrokenGzip { file, source }),
    }
}

/// Checks the magic number and returns the `N` dimensions.
fn header<const N: usize>(
    file: &Path,
    bytes: &[u8],
    what: &'static str,
    magic: u32,
) -> Result<[u32; N], DataError> {
    let mut words = bytes.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let expected = 4 * (N as u64 + 1);
    let truncated = || DataError::Truncated { file: file.to_owned(), expected, found: bytes.len() as u64 };
    let found = words.next().ok_or_else(truncated)?;
    if found != magic {
        return Err(DataError::WrongMagic { file: file.to_owned(), what, found, expected: magic });
    }
    let mut dimensions = [0; N];
    for d in &mut dimensions {
        *d = words.next().ok_or_else(truncated)?;
    }
    if dimensions[0] == 0 {
        return Err(DataError::Empty { file: file.to_owned() });
    }
    Ok(dimensions)
}

/// The bytes after the header: exactly `length` of them.
fn body(file: &Path, mut bytes: Vec<u8>, header: usize, length: u64) -> Result<Vec<u8>, DataError> {
    let expected = header as u64 + length;
    let found = bytes.len() as u64;
    if found < expected {
        return Err(DataError::Truncated { file: file.to_owned(), expected, found });
    }
    if found > expected {
        return Err(DataError::TooLong { file: file.to_owned(), expected });
    }
    bytes.drain(..header);
    Ok(bytes)
}
