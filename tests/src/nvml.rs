//! A libnvidia-ml for one agent, and the GPUs that it tells of. See `nvml/lib.rs`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The GPUs of one host. Changes take effect at the agent's next look.
#[derive(Debug)]
pub struct FakeNvml {
    directory: PathBuf,
    state: Vec<String>,
}

impl FakeNvml {
    /// A library in `directory`, with this many GPUs of 80 GiB: joined by NVLink in pairs, each four on
    /// one NUMA node.
    pub fn new(directory: &Path, gpus: usize) -> Self {
        fs::create_dir_all(directory).expect("it is writable");
        fs::copy(env!("FAKE_NVML"), directory.join("libnvidia-ml.so.1")).expect("the build made it");
        let gpu = |n: usize| {
            let (uuid, bus, numa, peer) = (Self::uuid(n), 0x10 + n, n / 4, n ^ 1);
            let links = if peer < gpus { format!(" links={peer}:4") } else { String::new() };
            format!("gpu {n} uuid={uuid} bus=00000000:{bus:02X}:00.0 numa={numa}{links} util=0 used=0")
        };
        let fake = Self { directory: directory.to_owned(), state: (0..gpus).map(gpu).collect() };
        fake.write();
        fake
    }

    pub fn uuid(gpu: usize) -> String {
        format!("GPU-00000000-0000-0000-0000-{gpu:012}")
    }

    /// For `--nvml-library`.
    pub fn library(&self) -> PathBuf {
        self.directory.join("libnvidia-ml.so.1")
    }

    /// Sets a word of a GPU's line; an empty value removes it.
    pub fn set(&mut self, gpu: usize, key: &str, value: &str) {
        let start = format!("gpu {gpu} ");
        let line = self.state.iter_mut().find(|line| line.starts_with(&start)).expect("the GPU is there");
        let keep = line.split_whitespace().filter(|word| !word.starts_with(&format!("{key}=")));
        let mut changed = keep.collect::<Vec<_>>().join(" ");
        if !value.is_empty() {
            write!(changed, " {key}={value}").expect("a string takes it");
        }
        *line = changed;
        self.write();
    }

    /// Adds a line, such as `init 18`, `hang`, `process 0 4711 1024` or `xid 1 0 79`.
    pub fn add(&mut self, line: impl Into<String>) {
        self.state.push(line.into());
        self.write();
    }

    /// Takes lines away by how they begin.
    pub fn remove(&mut self, start: &str) {
        self.state.retain(|line| !line.starts_with(start));
        self.write();
    }

    /// Reverses the order in which NVML lists the GPUs.
    pub fn reverse(&mut self) {
        self.state.reverse();
        self.write();
    }

    fn write(&self) {
        // A reader sees the old state or the new one.
        let new = self.directory.join("state.new");
        fs::write(&new, self.state.join("\n")).expect("it is writable");
        fs::rename(&new, self.directory.join("state")).expect("it is writable");
    }
}
