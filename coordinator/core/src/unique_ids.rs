//! The broker of unique ids: write-once per (job, generation, group), gone with its generation.

use convoke_model::{Generation, GroupName, JobId};

use crate::draft::Draft;
use crate::{Change, Denied, MAX_UNIQUE_ID_GROUPS, UniqueId};

impl Draft<'_> {
    pub(crate) fn publish(
        &mut self,
        job: JobId,
        generation: Generation,
        group: GroupName,
        bytes: &[u8],
    ) -> Result<(), Denied> {
        let known = &self.check_current(&job, generation)?.unique_ids;
        let id = UniqueId(bytes.try_into().map_err(|_| Denied::BadUniqueId(bytes.len()))?);
        match known.get(&group) {
            Some(known) if *known == id => return Ok(()),
            Some(_) => return Err(Denied::UniqueIdSet(group)),
            None if known.len() >= MAX_UNIQUE_ID_GROUPS => return Err(Denied::TooManyGroups),
            None => {}
        }
        self.make(Change::UniqueId { job, generation, group, id });
        Ok(())
    }
}
