//! Whether this node sees the directory that somebody else sees: by a marker, a file of one name whose content
//! nobody can guess.
//!
//! A file system whose server is away may keep a thread for ever, so that such threads are few: while all of
//! them wait, questions have no answer.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::Marker;
use convoke_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::warn;

use crate::beneath::Beneath;
use crate::blocking::blocking;

/// Looks at a time.
const LOOKS: usize = 16;
/// How long a look may take: less than the coordinator waits.
const LOOK: Duration = Duration::from_secs(3);

/// Where answers go.
pub type Answers = mpsc::Sender<v1::MarkersSeen>;

/// Looks for markers; clones share their threads.
#[derive(Debug, Clone)]
pub struct Sight(Arc<Semaphore>);

impl Default for Sight {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKS)))
    }
}

impl Sight {
    /// Begins to look, and returns at once.
    pub fn answer(&self, asked: v1::LookForMarkers, answers: Answers) {
        let looks = self.clone();
        tokio::spawn(async move {
            let v1::LookForMarkers { question, markers } = asked;
            let sights = markers.into_iter().map(|marker| looks.look(marker));
            let sights = futures::future::join_all(sights).await.into_iter().map(Into::into).collect();
            // The connection that asked may be over.
            let _ = answers.send(v1::MarkersSeen { question, sights }).await;
        });
    }

    async fn look(&self, marker: v1::Marker) -> v1::MarkerSight {
        let Ok(marker) = Marker::try_from(marker) else { return v1::MarkerSight::Other };
        let directory = marker.directory.clone();
        let looking = async {
            let place = self.0.clone().acquire_owned().await.map_err(|e| e.to_string())?;
            blocking(move || {
                let _place = place;
                is_there(&marker)
            })
            .await
        };
        match timeout(LOOK, looking).await {
            Ok(Ok(Ok(()))) => v1::MarkerSight::Seen,
            Ok(Ok(Err(_))) => v1::MarkerSight::Other,
            Ok(Err(_)) | Err(_) => {
                warn!("{directory} cannot be looked at: is the server of a shared file system away?");
                v1::MarkerSight::Unspecified
            }
        }
    }
}

/// Fails if the marker is not where it says, with what is there instead. Blocking.
pub(super) fn is_there(marker: &Marker) -> io::Result<()> {
    let file = Beneath::new(PathBuf::from(&marker.directory)).join(&marker.file).open()?;
    let mut content = Vec::new();
    file.take(marker.id.len() as u64 + 1).read_to_end(&mut content)?;
    if content == marker.id.as_bytes() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the marker is another directory's"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn marker(directory: &Path) -> Marker {
        let directory = directory.to_str().unwrap().to_owned();
        Marker { directory, file: ".convoke-shared".to_owned(), id: "a1b2".to_owned() }
    }

    #[test]
    fn only_a_file_that_holds_the_id_and_no_more_is_the_marker() {
        let directory = tempfile::tempdir().unwrap();
        let (marker, path) = (marker(directory.path()), directory.path().join(".convoke-shared"));
        assert_eq!(is_there(&marker).unwrap_err().kind(), io::ErrorKind::NotFound);
        for other in ["", "a1b", "a1b2\n", "a1b3"] {
            fs::write(&path, other).unwrap();
            assert_eq!(is_there(&marker).unwrap_err().kind(), io::ErrorKind::InvalidData, "{other:?}");
        }
        fs::write(&path, "a1b2").unwrap();
        is_there(&marker).unwrap();
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        is_there(&marker).unwrap_err();
    }

    #[tokio::test]
    async fn each_marker_of_a_question_is_answered_in_its_place() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(here.path().join(".convoke-shared"), "a1b2").unwrap();
        let relative = v1::Marker { directory: "data".to_owned(), ..marker(here.path()).into() };
        let markers = vec![marker(there.path()).into(), marker(here.path()).into(), relative];
        let (answers, mut answered) = mpsc::channel(1);
        Sight::default().answer(v1::LookForMarkers { question: 7, markers }, answers);
        let seen = answered.recv().await.unwrap();
        let sights: Vec<_> = seen.sights().collect();
        use v1::MarkerSight::{Other, Seen};
        assert_eq!((seen.question, sights), (7, vec![Other, Seen, Other]));
    }

    #[tokio::test]
    async fn while_every_thread_waits_for_a_server_there_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let sight = Sight::default();
        let _hanging = sight.0.clone().acquire_many_owned(u32::try_from(LOOKS).unwrap()).await.unwrap();
        assert_eq!(sight.look(marker(directory.path()).into()).await, v1::MarkerSight::Unspecified);
    }
}
