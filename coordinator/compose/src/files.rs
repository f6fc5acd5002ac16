//! The only way to the file system, and where a project's files are looked for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where files are read from: the disk, or a map (tests, and files that came by another way).
pub trait Files {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The file system.
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
}

/// Files in memory by their absolute path.
impl Files for BTreeMap<PathBuf, String> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.get(path).map(|text| text.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The files that Compose takes when none is named: in `dir` or the nearest directory above.
pub(crate) struct Found {
    pub(crate) files: Vec<PathBuf>,
    /// Further candidates that were passed over.
    pub(crate) ignored: Vec<PathBuf>,
}

pub(crate) fn discover(files: &dyn Files, dir: &Path) -> Option<Found> {
    let exists = |path: &PathBuf| files.read(path).is_ok();
    for dir in dir.ancestors() {
        let mut here = NAMES.iter().map(|n| dir.join(n)).filter(exists);
        let Some(first) = here.next() else { continue };
        let ignored = here.collect();
        let with = OVERRIDES.iter().map(|n| dir.join(n)).find(exists);
        return Some(Found { files: std::iter::once(first).chain(with).collect(), ignored });
    }
    None
}

/// `path` seen from `dir`, without `.` and with `..` taken back where that is possible by name.
pub(crate) fn absolute(dir: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// A path that starts at the submitter's home (`~` or `~/x`) written out; others as they are.
pub(crate) fn from_home(vars: &BTreeMap<String, String>, path: &str) -> String {
    match (path.strip_prefix('~'), vars.get("HOME")) {
        (Some(below), Some(home)) if below.is_empty() || below.starts_with('/') => format!("{home}{below}"),
        _ => path.to_owned(),
    }
}

/// An absolute path as seen from `dir`: `./x` below it, `../x` beside it.
pub(crate) fn relative(dir: &Path, path: &Path) -> String {
    let shared = dir.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = dir.components().count() - shared;
    let mut out = if up == 0 { ".".to_owned() } else { vec![".."; up].join("/") };
    for part in path.components().skip(shared) {
        out.push('/');
        out += &part.as_os_str().to_string_lossy();
    }
    out
}

/// How a file is named in messages: from the directory the user stands in, where it is below.
pub(crate) fn display(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

/// A read error in words for people.
pub(crate) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rewritten_by_name_only() {
        let dir = Path::new("/home/u/project");
        assert_eq!(absolute(dir, Path::new("../x/./y")), Path::new("/home/u/x/y"));
        assert_eq!(absolute(dir, Path::new("/data")), Path::new("/data"));
        assert_eq!(relative(dir, Path::new("/home/u/project/data")), "./data");
        assert_eq!(relative(dir, Path::new("/home/u/x/y")), "../x/y");
        assert_eq!(relative(dir, dir), ".");
        let vars = BTreeMap::from([("HOME".to_owned(), "/home/u".to_owned())]);
        for (path, whole) in [("~/x", "/home/u/x"), ("~", "/home/u"), ("~v/x", "~v/x"), ("./~", "./~")] {
            assert_eq!(from_home(&vars, path), whole);
        }
    }
}
