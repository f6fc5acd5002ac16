//! The file beside the library, as it is at this moment.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::time::Duration;

use crate::nvmlInit_v2;

#[derive(Clone)]
pub struct Gpu {
    pub number: usize,
    words: Vec<(String, String)>,
}

pub struct State {
    pub text: String,
    pub gpus: Vec<Gpu>,
}

#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The file beside this library.
fn state_file() -> PathBuf {
    let mut info = DlInfo {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    // SAFETY: the address is one of this library's, and `info` is written before it is read.
    let file = unsafe {
        dladdr(nvmlInit_v2 as *const c_void, &mut info);
        CStr::from_ptr(info.file)
    };
    PathBuf::from(file.to_string_lossy().into_owned()).with_file_name("state")
}

/// The state as it is now, once calls return.
pub fn state() -> State {
    loop {
        let text = std::fs::read_to_string(state_file()).unwrap_or_default();
        if text.lines().any(|line| line == "hang") {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let gpus = lines(&text, "gpu").map(|line| {
            let number = line[0].parse().expect("a number");
            let pair = |word: &&str| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
            Gpu { number, words: line[1..].iter().filter_map(pair).collect() }
        });
        let gpus = gpus.collect();
        return State { gpus, text };
    }
}

pub fn lines<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(move |words| words.first() == Some(&key)).map(|words| words[1..].to_vec())
}

impl Gpu {
    pub fn word(&self, key: &str) -> Option<&str> {
        self.words.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn number_of(&self, key: &str) -> u64 {
        self.word(key).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Other GPUs and how many links lead to them, as `1:4,2:4`.
    pub fn links(&self) -> Vec<usize> {
        let pairs = self.word("links").unwrap_or_default().split(',').filter_map(|pair| pair.split_once(':'));
        let numbers = pairs.filter_map(|(to, n)| Some((to.parse().ok()?, n.parse().ok()?)));
        numbers.flat_map(|(to, n): (usize, usize)| std::iter::repeat_n(to, n)).collect()
    }
}
