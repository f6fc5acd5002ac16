//! Where a copy out of a task lands: whole or not at all, and never through a link.
//!
//! A task may have planted links by an earlier copy. So what comes is unpacked into a directory of its own, and from
//! there goes to its place with every step looked at below the destination and never followed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use tar::EntryType;

use super::staging::Staging;

/// What came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What is not copied, and why: a path and what it is.
    pub(super) left_out: Vec<String>,
}

/// A copy that has come and has no place yet; dropping it leaves nothing.
pub(super) struct Staged {
    directory: Staging,
    into: PathBuf,
    pub(super) tally: Tally,
}

/// Why a copy did not get into its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandError {
    #[error("cannot copy to {}: {source}", into.display())]
    Io { into: PathBuf, source: io::Error },
    #[error("cannot copy to {}: {what}", at.display())]
    InTheWay { at: PathBuf, what: &'static str },
}

impl Staged {
    /// Unpacks a tar beside its place in `into`, to its end.
    pub(super) fn unpack(tar: impl io::Read, into: &Path) -> Result<Self, LandError> {
        let failed = |source| LandError::Io { into: into.to_owned(), source };
        let directory = Staging::new(into).map_err(failed)?;
        let mut archive = tar::Archive::new(tar);
        archive.set_preserve_mtime(true);
        let mut tally = Tally::default();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let kind = entry.header().entry_type();
            let path = entry.path().map_err(failed)?.display().to_string();
            if let Some(what) = special(kind) {
                tally.left_out.push(format!("{path} is {what}"));
            } else if !entry.unpack_in(directory.path()).map_err(failed)? {
                tally.left_out.push(format!("{path} leads out of what is copied"));
            } else if kind.is_file() {
                tally.files += 1;
                tally.bytes += entry.size();
            }
        }
        Ok(Self { directory, into: into.to_owned(), tally })
    }

    /// Moves it to its place, under `name` if it is not to keep its own; where that is.
    pub(super) fn settle(self, name: Option<&str>) -> Result<(Vec<PathBuf>, Tally), LandError> {
        let failed = |source| LandError::Io { into: self.into.clone(), source };
        let open = |path: &Path| Dir::open_ambient_dir(path, ambient_authority()).map_err(failed);
        let (from, to) = (open(self.directory.path())?, open(&self.into)?);
        let mut places = Vec::new();
        for entry in from.entries().map_err(failed)? {
            let own = entry.map_err(failed)?.file_name();
            let target = name.map_or(own.as_os_str(), OsStr::new);
            let at = self.into.join(target);
            move_to(&from, &own, &to, target, &at)?;
            places.push(at);
        }
        Ok((places, self.tally))
    }
}

/// What has no content to copy.
fn special(kind: EntryType) -> Option<&'static str> {
    match kind {
        EntryType::Fifo => Some("a FIFO"),
        EntryType::Char | EntryType::Block => Some("a device"),
        _ => None,
    }
}

/// Over a file or a link, or into a directory of the same name; `at` is the place in full.
fn move_to(from: &Dir, own: &OsStr, to: &Dir, name: &OsStr, at: &Path) -> Result<(), LandError> {
    let failed = |source| LandError::Io { into: at.to_owned(), source };
    let in_the_way = |what| Err(LandError::InTheWay { at: at.to_owned(), what });
    let there = match to.symlink_metadata(name) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let comes = from.symlink_metadata(own).map_err(failed)?;
    match there {
        Some(there) if comes.is_dir() && there.is_symlink() => in_the_way(
            "it is a link here, which is not followed, and a directory in the task; delete the link first",
        ),
        Some(there) if comes.is_dir() && !there.is_dir() => {
            in_the_way("it is a file here and a directory in the task; delete the file first")
        }
        Some(there) if !comes.is_dir() && there.is_dir() => {
            in_the_way("it is a directory here and none in the task; choose another name")
        }
        Some(there) if there.is_dir() => {
            // The handles stay within their parents, whatever is put there meanwhile.
            let (from, to) = (from.open_dir(own).map_err(failed)?, to.open_dir(name).map_err(failed)?);
            for entry in from.entries().map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                move_to(&from, &name, &to, &name, &at.join(&name))?;
            }
            Ok(())
        }
        _ => from.rename(own, to, name).map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cli::testing::names;

    /// A tar of files (with a content), of links (`-> target`), of FIFOs (`|`) and of directories (`/` at their end).
    fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o750);
            // Written directly: the builder itself refuses the paths that an attacker would send.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let mut data = "";
            if let Some(target) = content.strip_prefix("-> ") {
                header.set_entry_type(EntryType::Symlink);
                header.set_link_name(target).unwrap();
            } else if *content == "|" {
                header.set_entry_type(EntryType::Fifo);
            } else if path.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
            } else {
                data = content;
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            archive.append(&header, data.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn copy(entries: &[(&str, &str)], into: &Path, name: Option<&str>) -> Result<Tally, LandError> {
        Ok(Staged::unpack(&*tar_of(entries), into)?.settle(name)?.1)
    }

    #[test]
    fn a_copy_keeps_its_name_or_gets_one_and_merges_with_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let tally = copy(&[("log", "abc")], dir.path(), None).unwrap();
        assert_eq!((tally.files, tally.bytes), (1, 3));
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "abc");
        copy(&[("log/a", "1"), ("log/sub/a", "1")], dir.path(), Some("new")).unwrap();
        copy(&[("log/b", "2"), ("log/sub/a", "2")], dir.path(), Some("new")).unwrap();
        assert_eq!(names(&dir.path().join("new")), ["a", "b", "sub"]);
        assert_eq!(fs::read_to_string(dir.path().join("new/sub/a")).unwrap(), "2");
        assert_eq!(names(dir.path()), ["log", "new"]);
    }

    #[test]
    fn a_link_that_an_earlier_copy_planted_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, into) = (dir.path().join("victim"), dir.path().join("into"));
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(&into).unwrap();
        for planted in [victim.to_str().unwrap(), "../../victim", "../neighbour"] {
            fs::create_dir_all(into.join("neighbour")).unwrap();
            copy(&[("a/", ""), ("a/x", &format!("-> {planted}"))], &into, None).unwrap();
            assert!(into.join("a/x").is_symlink(), "the first copy brings the link itself");
            let attack = copy(&[("a/", ""), ("a/x/", ""), ("a/x/authorized_keys", "pwned")], &into, None);
            let told = attack.unwrap_err().to_string();
            assert!(told.contains("a/x") && told.contains("link"), "{told}");
            assert!(names(&victim).is_empty() && names(&into.join("neighbour")).is_empty());
            assert_eq!(names(&into), ["a", "neighbour"], "nothing else is left");
        }
    }

    #[test]
    fn a_file_takes_the_place_of_a_link_and_not_of_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "mine").unwrap();
        symlink("mine", dir.path().join("log")).unwrap();
        copy(&[("log", "theirs")], dir.path(), None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("mine")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "theirs");
        assert!(!dir.path().join("log").is_symlink());
    }

    #[test]
    fn a_link_within_one_copy_is_not_followed_either() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, into) = (dir.path().join("victim"), dir.path().join("into"));
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(&into).unwrap();
        let link = format!("-> {}", victim.display());
        assert!(copy(&[("x", &link), ("x/evil", "pwned")], &into, None).is_err());
        assert!(names(&victim).is_empty() && names(&into).is_empty());
    }

    #[test]
    fn what_leads_out_and_what_has_no_content_is_left_out_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let tally = copy(&[("../evil", "x"), ("d/pipe", "|"), ("d/file", "x")], &inner, None).unwrap();
        assert_eq!(names(dir.path()), ["inner"]);
        assert_eq!(names(&inner.join("d")), ["file"]);
        assert_eq!(tally.left_out, ["../evil leads out of what is copied", "d/pipe is a FIFO"]);
    }

    #[test]
    fn directories_and_files_do_not_replace_each_other_and_half_a_copy_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "mine").unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        assert!(copy(&[("file/x", "x")], dir.path(), None).is_err());
        assert!(copy(&[("directory", "x")], dir.path(), None).is_err());
        let whole = tar_of(&[("big", &"x".repeat(4096))]);
        assert!(Staged::unpack(&whole[..1024], dir.path()).is_err());
        assert_eq!(names(dir.path()), ["directory", "file"]);
    }
}
