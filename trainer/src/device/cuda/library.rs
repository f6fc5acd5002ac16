//! Finding NVIDIA's libraries, and opening them before anybody else does.
//!
//! cudarc opens libraries by bare name. One that is loaded already is found by its soname, wherever it
//! came from: so each is opened here by its full path, for everybody, and never closed.

use std::fs;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Directories to look into first, separated by colons.
pub const VARIABLE: &str = "CONVOKE_CUDA_LIBS";

/// A library, by the sonames that will do, best first.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub what: &'static str,
    pub sonames: &'static [&'static str],
}

pub const DRIVER: Wanted = Wanted { what: "NVIDIA's driver", sonames: &["libcuda.so.1"] };
pub const NVRTC: Wanted =
    Wanted { what: "NVIDIA's runtime compiler", sonames: &["libnvrtc.so.13", "libnvrtc.so.12"] };
pub const NCCL: Wanted = Wanted { what: "NCCL", sonames: &["libnccl.so.2"] };

/// A library that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what} ({soname}) cannot be opened: {reason}; install it, or name its directory in {VARIABLE}")]
pub struct LibraryError {
    what: &'static str,
    soname: &'static str,
    reason: String,
}

/// An opened library, and the file that was taken.
#[derive(Debug)]
pub struct Opened {
    pub library: Library,
    pub path: PathBuf,
}

impl Opened {
    /// The error for a library that is too old, say.
    pub fn lacks(&self, symbol: &libloading::Error) -> LibraryError {
        LibraryError {
            what: "a library of NVIDIA's",
            soname: "too old?",
            reason: format!("{}: {symbol}", self.path.display()),
        }
    }
}

/// Opens `wanted` from [`VARIABLE`]'s directories, where the loader looks, or the usual places.
pub fn open(wanted: Wanted) -> Result<Opened, LibraryError> {
    let mut reason = "not found".to_owned();
    let named = std::env::var_os(VARIABLE).unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| path.is_dir());
    // An empty directory stands for the bare name, which makes the loader look in its own places.
    let places: Vec<_> = named.chain([PathBuf::new()]).chain(usual_places()).collect();
    for place in &places {
        for soname in wanted.sonames {
            let file = place.join(soname);
            if !place.as_os_str().is_empty() && !file.exists() {
                continue;
            }
            open_companions(place, soname);
            match load(&file) {
                Ok(library) => return Ok(Opened { library, path: loaded_path(&file) }),
                // That of a file that is there tells more than that of a bare name.
                Err(e) if file.is_absolute() => reason = e.to_string(),
                Err(_) => {}
            }
        }
    }
    Err(LibraryError { what: wanted.what, soname: wanted.sonames[0], reason })
}

/// NVRTC opens its built-in functions by bare name as well.
fn open_companions(place: &Path, soname: &str) {
    if !soname.starts_with("libnvrtc.") {
        return;
    }
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so.") {
            // Where it is not this one, NVRTC says so when it compiles.
            let _ = load(&entry.path());
        }
    }
}

fn load(file: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: loading runs the library's constructors; NVIDIA's may run at any time and in any thread.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }?;
    // A second handle that is never closed: what cudarc resolves from it stays valid.
    // SAFETY: as above; it is loaded already.
    unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }.map(std::mem::forget)?;
    Ok(library)
}

/// Where the loader took a bare name from.
fn loaded_path(file: &Path) -> PathBuf {
    let stem = file.to_string_lossy();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    // A soname is often a link to a file with a longer version.
    let found = paths.find(|path| {
        Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with(&*stem))
    });
    found.map_or_else(|| file.to_owned(), PathBuf::from)
}

/// Of the driver on container hosts, of CUDA's own packages, and of Python's wheels.
fn usual_places() -> impl Iterator<Item = PathBuf> {
    let driver = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib"].map(PathBuf::from);
    let toolkits = below("/usr/local".as_ref(), "cuda");
    let toolkits = toolkits.flat_map(|cuda| {
        let targets = below(&cuda.join("targets"), "").map(|target| target.join("lib"));
        [cuda.join("lib64")].into_iter().chain(targets)
    });
    let active = std::env::var_os("VIRTUAL_ENV").map(|root| PathBuf::from(root).join("lib"));
    let roots = ["/opt/torch/.venv/lib", "/opt/conda/lib", "/usr/local/lib", "/usr/lib"].map(PathBuf::from);
    let pythons = active.into_iter().chain(roots).flat_map(|root| below(&root, "python3"));
    let wheels = pythons.flat_map(|python| {
        ["site-packages", "dist-packages"]
            .into_iter()
            .flat_map(move |site| below(&python.join(site).join("nvidia"), ""))
    });
    driver.into_iter().chain(toolkits).chain(wheels.map(|wheel| wheel.join("lib")))
}

/// The entries of a directory whose names begin so, newest version first.
fn below(directory: &Path, prefix: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths.into_iter()
}
