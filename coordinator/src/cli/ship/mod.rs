//! What travels with a submit: the submitter's files and images that no registry has.
//!
//! For each job: its image is built, pinned or exported ([`images`]), its directories are scanned
//! ([`scan`]) unless the nodes see them by themselves ([`shared`]), the coordinator is asked which
//! contents it lacks and gets those ([`upload`]), and the spec then names what the nodes lay out.
//! Nothing is submitted before all of it is stored.

mod blob;
mod build;
mod engine;
mod export;
mod files;
mod images;
mod marked;
mod reference;
mod scan;
mod shared;
mod sources;
mod standing;
mod tally;
mod upload;

use bytesize::ByteSize;
use clap::Args;
use convoke_model::JobSpec;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json as object};

use super::attach::Screen;
use super::failure::Failure;
use super::link::Link;

pub(crate) use files::Sent;
pub(crate) use images::name_builds;
use shared::{Mounted, Travel};
pub(crate) use sources::{is_submitters, travels};
use tally::Tally;
pub(crate) use upload::missing;

/// How files and images travel.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShipArgs {
    /// What becomes of the directories that containers mount by relative paths (single files are always
    /// shipped)
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Files and images")]
    files: Travel,

    /// Refuse to ship more files than this for one job
    #[arg(
        long,
        value_name = "SIZE",
        env = "CONVOKE_MAX_SHIP_SIZE",
        default_value = "20GiB",
        help_heading = "Files and images"
    )]
    max_ship_size: ByteSize,

    /// Build images of services with a `build` section even if they are there
    #[arg(long, help_heading = "Files and images")]
    build: bool,

    /// Pull newer images (and base images of builds) here first, with this machine's credentials
    #[arg(long, help_heading = "Files and images")]
    pull: bool,

    /// Send images to the nodes even if a registry has them
    #[arg(long, conflicts_with = "no_ship_image", help_heading = "Files and images")]
    ship_image: bool,

    /// Send no images: every node has them, or finds them in a registry
    #[arg(long, help_heading = "Files and images")]
    no_ship_image: bool,
}

impl ShipArgs {
    fn limit(&self) -> u64 {
        self.max_ship_size.as_u64()
    }
}

/// Takes along what some jobs need.
pub(crate) struct Shipping<'a> {
    pub(crate) link: &'a Link,
    pub(crate) screen: &'a Screen,
    pub(crate) args: &'a ShipArgs,
}

impl Shipping<'_> {
    /// Makes what `jobs` need available to the nodes and writes into the specs what that is. What each
    /// job's mounts held comes back, for the time when files return.
    pub(crate) async fn ship(&self, jobs: &mut [JobSpec]) -> Result<Vec<Sent>, Failure> {
        // What cannot travel is refused before anything is built or sent.
        let looked = self.look(jobs).await?;
        if jobs.iter().any(travels) {
            // Beside the work: it is about files that nobody has used for months.
            tokio::task::spawn_blocking(super::cache::sweep);
            self.images(jobs).await?;
        }
        let (sent, tally) = self.files(jobs, looked).await?;
        if let Some(tally) = tally {
            self.screen.tell("shipped", &tally.json(), &tally.sentence("shipped"));
        }
        Ok(sent)
    }

    /// What would be shipped; nothing is.
    pub(crate) async fn would_ship(&self, jobs: &[JobSpec]) -> Result<WouldShip, Failure> {
        let images = self.preview_images(jobs).await?;
        let (mounted, files) = self.preview(jobs).await?;
        Ok(WouldShip { images, mounted, files })
    }
}

/// What a submit would take along.
pub(crate) struct WouldShip {
    /// What would be done about images, as sentences.
    images: Vec<String>,
    mounted: Mounted,
    files: Option<Tally>,
}

impl WouldShip {
    pub(crate) fn sentences(&self) -> Vec<String> {
        let files = self.files.iter().map(|tally| tally.sentence("would ship"));
        let mounted = self
            .mounted
            .iter()
            .map(|(shown, writable)| shared::sentence(shown, *writable, "would be mounted"));
        self.images.iter().cloned().chain(mounted).chain(files).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let mounted: Vec<_> = self.mounted.keys().collect();
        object!({ "files": self.files.as_ref().map(Tally::json), "images": self.images, "mounted": mounted })
    }
}

/// A bar of bytes sent.
pub(crate) fn bar(verb: &str, bytes: u64) -> ProgressBar {
    let template = "{prefix} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(bytes).with_style(style).with_prefix(verb.to_owned())
}
