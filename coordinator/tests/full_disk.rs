//! A disk that really fills up while blobs are sent: a small tmpfs in a mount namespace of the
//! coordinator's own. Where no such namespace can be made (it needs root, or user namespaces), the test
//! is reported as ignored, under a name that says why.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use bytes::Bytes;
use convoke_model::{JobName, JobSpec};
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use convoke_proto::v1::file_service_client::FileServiceClient;
use convoke_proto::v1::job_service_client::JobServiceClient;
use libtest_mimic::{Arguments, Failed, Trial};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

const NAME: &str =
    "a_disk_that_fills_up_during_an_upload_is_named_and_leaves_nothing_and_the_coordinator_goes_on";
const DEADLINE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let trial = match isolated().args(["mount", "-t", "tmpfs", "none", "/mnt"]).output() {
        Ok(tried) if tried.status.success() => Trial::test(NAME, story),
        Ok(tried) => not_run(String::from_utf8_lossy(&tried.stderr).trim()),
        Err(error) => not_run(&format!("unshare: {error}")),
    };
    libtest_mimic::run(&args, vec![trial]).exit_code()
}

fn not_run(why: &str) -> Trial {
    let why = why.replace('\n', "; ");
    Trial::test(format!("{NAME} (not run: {why})"), || Ok(())).with_ignored_flag(true)
}

/// A command in a mount namespace of its own.
fn isolated() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "private"]);
    command
}

/// A coordinator whose data directory is a disk of 48 MiB.
struct Coordinator {
    process: Child,
    dir: tempfile::TempDir,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Coordinator {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let script = "mount -t tmpfs -o size=48m none \"$1\" && shift && exec \"$@\"";
        let process = isolated()
            .args(["sh", "-c", script, "sh"])
            .arg(&data)
            .args([env!("CARGO_BIN_EXE_convoke"), "serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .arg("--address-file")
            .arg(dir.path().join("address"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, dir }
    }

    /// A path of the small disk, as this process reaches it.
    fn disk(&self, below: &str) -> PathBuf {
        let data = self.dir.path().join("data");
        let data = data.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.process.id().to_string()).join("root").join(data).join(below)
    }

    /// Blobs, whole or half, that lie on the disk.
    fn blobs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.disk("blobs")];
        while let Some(dir) = dirs.pop() {
            // A directory of an upload that has just ended is gone.
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        found.sort_unstable();
        found
    }

    async fn connect(&self) -> Channel {
        let file = self.dir.path().join("address");
        let address = eventually("the address", async || {
            std::fs::read_to_string(&file).ok().filter(|address| !address.is_empty())
        })
        .await;
        Channel::from_shared(format!("http://{}", address.trim())).unwrap().connect().await.unwrap()
    }
}

async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

async fn submit(channel: &Channel, name: &str) -> Result<(), Status> {
    let spec = JobSpec::processes(JobName::new(name).unwrap(), vec!["train".to_owned()]);
    let request = v1::SubmitJobRequest {
        idempotency_key: name.to_owned(),
        spec: Some(spec.into()),
        replace: false,
        wait_for_nodes: true,
    };
    JobServiceClient::new(channel.clone()).submit_job(request).await.map(drop)
}

/// Sends a blob of so many mebibytes; `half_way` is called when half of it is on the disk.
async fn send(
    coordinator: &Coordinator,
    channel: &Channel,
    mib: usize,
    half_way: impl FnOnce(),
) -> Result<(), Status> {
    let content = vec![u8::try_from(mib).unwrap(); mib * MIB];
    let header = v1::BlobHeader {
        sha256: Sha256::digest(&content).to_vec().into(),
        size: content.len() as u64,
        offset: 0,
    };
    let (parts, sent) = mpsc::channel(4);
    let mut files = FileServiceClient::new(channel.clone());
    let upload = tokio::spawn(async move { files.upload_blobs(ReceiverStream::new(sent)).await });
    let part = |part| v1::BlobPart { part: Some(part) };
    let _ = parts.send(part(Part::Header(header))).await;
    let (first, second) = content.split_at(content.len() / 2);
    for piece in first.chunks(MIB) {
        // It may have been refused already.
        let _ = parts.send(part(Part::Data(Bytes::copy_from_slice(piece)))).await;
    }
    eventually("half of the blob", async || {
        let sizes = coordinator.blobs().into_iter().filter_map(|path| std::fs::metadata(path).ok());
        let here = sizes.map(|found| found.len()).max().unwrap_or_default() >= first.len() as u64;
        (here || upload.is_finished()).then_some(())
    })
    .await;
    half_way();
    for piece in second.chunks(MIB) {
        let _ = parts.send(part(Part::Data(Bytes::copy_from_slice(piece)))).await;
    }
    drop(parts);
    tokio::time::timeout(DEADLINE, upload).await.unwrap().unwrap().map(drop)
}

fn reason(answer: Result<(), Status>) -> String {
    convoke_proto::reason(&answer.unwrap_err()).unwrap()
}

/// Takes every byte of the disk.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut filler = std::fs::File::create(path).unwrap();
    let block = vec![0; 4096];
    let full = loop {
        if let Err(error) = filler.write_all(&block) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

fn story() -> Result<(), Failed> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let coordinator = Coordinator::start();
        let channel = coordinator.connect().await;
        send(&coordinator, &channel, 2, || {}).await.unwrap();
        let kept = coordinator.blobs();
        assert_eq!(kept.len(), 1);

        // Somebody else takes the space that the blob was promised.
        let filler = coordinator.disk("filler");
        assert_eq!(reason(send(&coordinator, &channel, 16, || fill(&filler)).await), "DISK_FULL");
        assert_eq!(coordinator.blobs(), kept);
        std::fs::remove_file(&filler).unwrap();
        send(&coordinator, &channel, 3, || {}).await.unwrap();

        // Blobs stop before the disk is full, so that the ledger goes on.
        for mib in [8, 9, 10] {
            let _ = send(&coordinator, &channel, mib, || {}).await;
        }
        for mib in (1..=6).rev() {
            let _ = send(&coordinator, &channel, mib, || {}).await;
        }
        let whole = coordinator.blobs();
        assert_eq!(reason(send(&coordinator, &channel, 12, || {}).await), "DISK_FULL");
        assert_eq!(coordinator.blobs(), whole);
        for n in 0..20 {
            submit(&channel, &format!("b{n}")).await.unwrap();
        }
    });
    Ok(())
}
