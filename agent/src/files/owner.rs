//! Whose the laid-out files are.
//!
//! `docker compose` mounts the submitter's directory itself: the files there are the submitter's, and a
//! `user:` that writes to them has, as a rule, the submitter's number. So files are laid out as that
//! number's, with exactly the submitter's permission bits: neither is anything opened to the world
//! for it (ssh refuses a private key that others may read), nor does the job find a directory of its own that
//! it cannot write to. A `user:` that is a name means a number that only the image knows, and most images
//! run as root: then files are root's, with the same bits, and a name that is not root's is noted.
//!
//! An agent that is not root can give nothing away: all is its own.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, fchown};

/// A user and a group by number. Displayed as a directory's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// The agent itself.
    pub fn agent() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// By a job's `user:`, as far as it is a number.
    pub(super) fn of(user: Option<&str>) -> Self {
        let agent = Self::agent();
        if agent.uid != 0 {
            return agent;
        }
        let (uid, gid) = user.map_or(("", ""), |user| user.split_once(':').unwrap_or((user, "")));
        let Ok(uid) = uid.parse() else { return agent };
        // Docker, too, takes group 0 for a number that the image does not know.
        Self { uid, gid: gid.parse().unwrap_or(0) }
    }

    /// Makes an open file its.
    pub(super) fn take(self, file: impl AsFd) -> rustix::io::Result<()> {
        if self == Self::agent() {
            return Ok(());
        }
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    /// Makes a path its, and never what a link points to.
    pub(super) fn take_path(self, path: &Path) -> rustix::io::Result<()> {
        if self == Self::agent() {
            return Ok(());
        }
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_and_a_name_leaves_the_files_to_the_agent() {
        let agent = Owner::agent();
        let expected = |uid, gid| if agent.uid == 0 { Owner { uid, gid } } else { agent };
        assert_eq!(Owner::of(Some("1000:100")), expected(1000, 100));
        assert_eq!(Owner::of(Some("1000")), expected(1000, 0));
        assert_eq!(Owner::of(Some("1000:users")), expected(1000, 0));
        assert_eq!(Owner::of(Some("app")), agent);
        assert_eq!(Owner::of(None), agent);
    }
}
