//! Whose the laid-out files are.
//!
//! `docker compose` mounts the submitter's directory itself: the files there are the submitter's, and a
//! `user:` that writes to them has, as a rule, the submitter's number. So files are laid out as that
//! number's, with exactly the submitter's permission bits: neither is anything opened to the world
//! for it (ssh refuses a private key that others may read), nor does the job find a directory of its own that
//! it cannot write to. Without a `user:` the image's own counts. A user that is a name has a number that only
//! the image's files know: then all is root's, with the same bits, and the job is warned.
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

    /// By whom the job runs as, as far as that is a number; nobody named is root.
    pub(super) fn of(user: &str) -> Self {
        let agent = Self::agent();
        if agent.uid != 0 {
            return agent;
        }
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        let Ok(uid) = uid.parse() else { return agent };
        // Docker, too, takes group 0 for a number that the image does not know.
        Self { uid, gid: gid.parse().unwrap_or(0) }
    }

    /// Why `user` may find that it owns nothing; `None` if it owns all, or is root.
    pub(super) fn unlike(self, user: &str) -> Option<String> {
        let name = user.split_once(':').map_or(user, |(name, _)| name);
        match name.parse::<u32>() {
            Ok(0) => None,
            Ok(uid) if uid == self.uid => None,
            Ok(uid) => Some(format!(
                "it runs as user {uid}, and this node's agent, user {}, can give it nothing; run the agent as root, or                  the job with `user: \"{}\"`",
                self.uid, self.uid
            )),
            Err(_) if name.is_empty() || name == "root" => None,
            Err(_) => Some(format!(
                "it runs as user \"{name}\", whose number is in its image alone, and its files are user {}'s; write \
                 the number, as in `user: \"1000:1000\"`",
                self.uid
            )),
        }
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
        assert_eq!(Owner::of("1000:100"), expected(1000, 100));
        assert_eq!(Owner::of("1000"), expected(1000, 0));
        assert_eq!(Owner::of("1000:users"), expected(1000, 0));
        assert_eq!(Owner::of("app"), agent);
        assert_eq!(Owner::of(""), agent);
    }

    #[test]
    fn a_user_that_owns_nothing_is_told_how_it_could() {
        let root = Owner { uid: 0, gid: 0 };
        for user in ["", "root", "0", "0:0", "root:root"] {
            assert_eq!(root.unlike(user), None, "{user}");
        }
        assert_eq!(Owner { uid: 1000, gid: 0 }.unlike("1000:1"), None);
        assert!(root.unlike("app").unwrap().contains("user: \"1000:1000\""));
        let problem = Owner { uid: 500, gid: 500 }.unlike("1000").unwrap();
        assert!(problem.contains("run the agent as root"), "{problem}");
    }
}
