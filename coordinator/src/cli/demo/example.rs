//! The example that the demo trains, carried inside the binary so that the demo works anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../../examples/mnist/", $name)).as_slice())),*]
    };
}

/// 1.6 MB in all.
const FILES: [(&str, &[u8]); 6] = files![
    "compose.yaml",
    "data/README.md",
    "data/train-images-idx3-ubyte.gz",
    "data/train-labels-idx1-ubyte.gz",
    "data/t10k-images-idx3-ubyte.gz",
    "data/t10k-labels-idx1-ubyte.gz",
];

/// Lays the example out in `dir`/mnist; returns its Compose file.
pub(super) fn lay_out(dir: &Path) -> Result<PathBuf, Failure> {
    let root = dir.join("mnist");
    for (name, bytes) in FILES {
        let path = root.join(name);
        let parent = path.parent().unwrap_or(&root);
        fs::create_dir_all(parent).map_err(|e| Failure::file("make", parent, &e))?;
        fs::write(&path, bytes).map_err(|e| Failure::file("write", &path, &e))?;
    }
    Ok(root.join("compose.yaml"))
}
