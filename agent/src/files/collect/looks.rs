//! When a changed file goes home: pure rules over looks.
//!
//! A file is *settled* while it has the stamp that it had when it was judged: sent home, or found to be as it
//! was. Any other is *waiting* until it has come to rest. Once the tasks have ended, nobody writes any more and
//! all that waits goes.

use std::collections::HashMap;
use std::time::Duration;

use convoke_model::Digest;

use super::scan::{Seen, Stamp};

/// How long a file must stay as it is. A trainer's write of a large file has pauses, which are
/// shorter; what is sent too early is sent again.
const REST: Duration = Duration::from_secs(1);
/// How long a file that is open for writing must stay as it is: an event file that is flushed every
/// other minute comes home during the training, a checkpoint that is being written does not.
const QUIET: Duration = Duration::from_secs(30);
/// A file that keeps changing may take this share (one in so many) of the time: it waits so many
/// times as long as it took to send.
const SHARE: u32 = 10;

/// A file by copy and path.
pub(super) type FileId = (usize, String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) stamp: Stamp,
    /// `None` if it could not be read.
    pub(super) digest: Option<Digest>,
    pub(super) mode: u32,
    /// It was sent home.
    pub(super) returned: bool,
    /// It is done with for now alone: the next agent, which may have other limits, judges it anew.
    pub(super) stays: bool,
}

#[derive(Debug, Default)]
pub(super) struct Looks {
    settled: HashMap<FileId, Settled>,
    /// With the time of the first look at that stamp.
    waiting: HashMap<FileId, (Stamp, Duration)>,
    /// Not to be sent before.
    pauses: HashMap<FileId, Duration>,
}

impl Looks {
    pub(super) fn new(settled: HashMap<FileId, Settled>) -> Self {
        Self { settled, ..Self::default() }
    }

    /// Takes what is there at `now` (on a clock of the caller's); returns what is to be judged.
    /// `is_written` is asked about few.
    pub(super) fn look(
        &mut self,
        now: Duration,
        files: Vec<Seen>,
        ended: bool,
        mut is_written: impl FnMut(&Seen) -> bool,
    ) -> Vec<Seen> {
        let (mut settled, mut waiting, mut due) = (HashMap::new(), HashMap::new(), Vec::new());
        for file in files {
            let id = (file.copy, file.path.clone());
            let known = self.settled.remove(&id);
            let is_settled = known.as_ref().is_some_and(|known| known.stamp == file.stamp);
            settled.extend(known.map(|known| (id.clone(), known)));
            if is_settled {
                continue;
            }
            let before = self.waiting.get(&id).filter(|(stamp, _)| *stamp == file.stamp);
            let since = before.map_or(now, |(_, since)| *since);
            waiting.insert(id.clone(), (file.stamp, since));
            let rest = now.saturating_sub(since);
            let may_go = rest >= REST && self.pauses.get(&id).is_none_or(|pause| *pause <= now);
            if ended || may_go && (rest >= QUIET || !is_written(&file)) {
                due.push(file);
            }
        }
        // What is gone is forgotten, but not what it was when it went home: the coordinator keeps that.
        settled.extend(self.settled.drain().filter(|(_, gone)| gone.returned));
        self.pauses.retain(|_, pause| *pause > now);
        (self.settled, self.waiting) = (settled, waiting);
        due
    }

    /// The file was judged at `now`, which took so long.
    pub(super) fn settle(&mut self, id: FileId, settled: Settled, now: Duration, took: Duration) {
        self.waiting.remove(&id);
        self.pauses.insert(id.clone(), now + took * SHARE);
        self.settled.insert(id, settled);
    }

    pub(super) fn settled(&self, id: &FileId) -> Option<&Settled> {
        self.settled.get(id)
    }

    /// How many files were sent home, and their bytes.
    pub(super) fn returned(&self) -> (usize, u64) {
        let returned = self.settled.values().filter(|settled| settled.returned);
        returned.fold((0, 0), |(files, bytes), settled| (files + 1, bytes + settled.stamp.size))
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (&FileId, &Settled)> {
        self.settled.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ckpt.pt` with that many bytes.
    fn file(size: u64) -> Seen {
        let stamp = serde_json::json!({"size": size, "inode": 1, "modified": size, "changed": 1});
        let stamp = serde_json::from_value(stamp).unwrap();
        Seen { copy: 0, path: "ckpt.pt".into(), stamp, mode: 0o644 }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn settled(file: &Seen) -> Settled {
        Settled { stamp: file.stamp, digest: None, mode: file.mode, returned: true, stays: false }
    }

    /// Whether the file goes at that look.
    fn goes(looks: &mut Looks, at: u64, file: Seen, is_written: bool) -> bool {
        !looks.look(secs(at), vec![file], false, |_| is_written).is_empty()
    }

    #[test]
    fn a_file_goes_once_two_looks_a_second_apart_saw_the_same() {
        let mut looks = Looks::default();
        assert!(!goes(&mut looks, 0, file(1), false), "first seen");
        assert!(!goes(&mut looks, 1, file(2), false), "it grew");
        assert!(looks.look(Duration::from_millis(1999), vec![file(2)], false, |_| false).is_empty());
        assert!(goes(&mut looks, 2, file(2), false));
        assert!(goes(&mut looks, 3, file(2), false), "until it is settled");
    }

    #[test]
    fn a_settled_file_goes_again_only_when_it_has_changed() {
        let mut looks = Looks::default();
        looks.settle((0, "ckpt.pt".into()), settled(&file(1)), secs(0), Duration::ZERO);
        assert!(!goes(&mut looks, 10, file(1), false));
        assert!(!goes(&mut looks, 11, file(2), false));
        assert!(goes(&mut looks, 12, file(2), false));
    }

    #[test]
    fn a_file_that_is_open_for_writing_goes_when_it_was_quiet_for_long() {
        let mut looks = Looks::default();
        assert!(!goes(&mut looks, 0, file(1), true));
        assert!(!goes(&mut looks, 29, file(1), true));
        assert!(goes(&mut looks, 30, file(1), true));
    }

    #[test]
    fn a_file_that_keeps_changing_waits_in_proportion_to_what_it_costs() {
        let mut looks = Looks::default();
        looks.settle((0, "ckpt.pt".into()), settled(&file(1)), secs(0), secs(5));
        assert!(!goes(&mut looks, 10, file(2), false));
        assert!(!goes(&mut looks, 49, file(2), false));
        assert!(goes(&mut looks, 50, file(2), false));
    }

    #[test]
    fn when_the_tasks_have_ended_everything_unsettled_goes_at_once() {
        let mut looks = Looks::default();
        looks.settle((0, "ckpt.pt".into()), settled(&file(1)), secs(0), secs(500));
        let mut other = file(1);
        other.path = "done".into();
        let due = looks.look(secs(1), vec![file(2), other.clone()], true, |_| true);
        assert_eq!(due, [file(2), other]);
        assert!(looks.look(secs(1), vec![file(1)], true, |_| true).is_empty(), "settled ones do not");
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_went_home() {
        let mut looks = Looks::default();
        let unsent = Settled { returned: false, ..settled(&file(1)) };
        looks.settle((0, "ckpt.pt".into()), settled(&file(7)), secs(0), Duration::ZERO);
        looks.settle((1, "as it was".into()), unsent, secs(0), Duration::ZERO);
        looks.look(secs(1), vec![], false, |_| false);
        assert_eq!(looks.returned(), (1, 7), "its bytes are with the coordinator");
        assert_eq!(looks.all().len(), 1);
    }
}
