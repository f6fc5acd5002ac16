//! What jobs wrote comes back: each file whole, in the submitter's directory, as it is finished.
//!
//! The coordinator's stream of artifacts names files ([`Artifacts`]); each has a place ([`Places`]).
//! What lies there already is not fetched ([`fetch`]); what the user changed is not replaced
//! ([`mod@write`], [`known`]). One file that cannot be written keeps none of the others back.

mod fetch;
mod known;
mod place;
mod source;
mod story;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use convoke_model::{Artifact, JobSpec};
use convoke_proto::v1;
use convoke_tree::Manifest;

use super::attach::Screen;
use super::failure::{Failure, exit};
use super::link::Link;
use super::ship::{self, Sent};
use super::text;
use fetch::Expected;
use known::Known;
use write::Writer;

pub(crate) use known::submitted;
pub(crate) use place::{Place, Places};
pub(crate) use source::Artifacts;
pub(crate) use story::{Back, json, on_nodes};
pub(crate) use write::Outcome;

/// A bar for less would only flicker.
const WORTH_A_BAR: u64 = 16 << 20;

/// A file and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) artifact: Artifact,
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
}

/// Receives one job's files.
pub(crate) struct Receiver {
    link: Arc<Link>,
    screen: Screen,
    places: Places,
    writer: Arc<Mutex<Writer>>,
}

impl Receiver {
    /// `sent` is what the job's mounts held when it was submitted; `earlier` are jobs whose files it may have been
    /// started with.
    pub(crate) fn new(
        link: &Arc<Link>,
        screen: &Screen,
        job: &v1::Job,
        (places, sent): (Places, Sent),
        earlier: &[String],
    ) -> Self {
        let writer = Writer::new(text::job_name(job), Known::open(&job.id, sent, earlier));
        let writer = Arc::new(Mutex::new(writer));
        Self { link: link.clone(), screen: screen.clone(), places, writer }
    }

    /// Brings files to their places.
    pub(crate) async fn take(&mut self, artifacts: Vec<v1::Artifact>) -> Result<Vec<Came>, Failure> {
        let expected = self.expected(artifacts)?;
        let writer = self.writer.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            expected.into_iter().partition::<Vec<_>, _>(|one| writer.has(&one.artifact, &one.place))
        });
        let (here, absent) =
            looked.await.map_err(|e| Failure::new(exit::FAILED, "CRASHED", e.to_string()))?;
        let bytes = absent.iter().map(|one| one.artifact.size).sum();
        let bar = match bytes {
            0..WORTH_A_BAR => indicatif::ProgressBar::hidden(),
            bytes => self.screen.bar(ship::bar("bringing back", bytes)),
        };
        let fetched = fetch::fetch(&self.link, &self.writer, absent, &bar).await;
        bar.finish_and_clear();
        let here = here.into_iter().map(|one| (one, Outcome::Same));
        let came = |(Expected { artifact, place }, outcome)| Came { artifact, place, outcome };
        Ok(here.chain(fetched?).map(came).collect())
    }

    /// The newest of each path, where it goes. What has no place is not this job's to write.
    fn expected(&self, artifacts: Vec<v1::Artifact>) -> Result<Vec<Expected>, Failure> {
        let mut newest: Vec<Expected> = Vec::new();
        let mut at = HashMap::new();
        for artifact in artifacts {
            let artifact = Artifact::try_from(artifact)
                .map_err(|e| Failure::new(exit::FAILED, "COORDINATOR", format!("an artifact: {e}")))?;
            let Some(place) = self.places.place(&artifact) else { continue };
            let index = *at.entry(place.absolute()).or_insert(newest.len());
            let one = Expected { artifact, place };
            match newest.get_mut(index) {
                Some(older) => *older = one,
                None => newest.push(one),
            }
        }
        Ok(newest)
    }
}

/// What a job's mounts held at submit, from the coordinator: as far as it still knows.
pub(crate) async fn sent(link: &Link, spec: &JobSpec) -> Sent {
    let mut sent = Sent::new();
    for mount in &spec.container.volumes {
        let Some(content) = &mount.content else { continue };
        // Without it, every local file counts as the user's own work.
        if let Ok(bytes) = fetch::small(link, content.digest).await
            && let Ok(manifest) = Manifest::decode(&bytes)
        {
            sent.insert(mount.source.clone(), Arc::new(manifest));
        }
    }
    sent
}
