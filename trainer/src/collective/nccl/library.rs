//! The dozen functions of libnccl that are used. Not through cudarc, which never opens `libnccl.so.2`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;

use super::super::UniqueId;
use crate::device::cuda::library::{LibraryError, NCCL, open};

/// `ncclComm_t`.
pub(super) type RawComm = *mut c_void;

/// `ncclResult_t`: what is neither is an error.
pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclFloat32` and `ncclSum`.
pub(super) const FLOAT32: c_int = 7;
pub(super) const SUM: c_int = 0;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawId(pub(super) UniqueId);

/// `ncclConfig_t` of NCCL 2.18 with the version of 2.17, from which on every one takes it.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// No call waits for other ranks; everything else is NCCL's choice.
    pub(super) fn nonblocking() -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_700,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// An open libnccl.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) path: PathBuf,
    pub(super) get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) get_unique_id: unsafe extern "C" fn(*mut RawId) -> c_int,
    pub(super) comm_init_rank_config:
        unsafe extern "C" fn(*mut RawComm, c_int, RawId, c_int, *mut Config) -> c_int,
    pub(super) comm_get_async_error: unsafe extern "C" fn(RawComm, *mut c_int) -> c_int,
    pub(super) comm_abort: unsafe extern "C" fn(RawComm) -> c_int,
    pub(super) all_reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, RawComm, *mut c_void) -> c_int,
    pub(super) get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    pub(super) get_last_error: unsafe extern "C" fn(RawComm) -> *const c_char,
}

impl Api {
    pub(super) fn open() -> Result<Self, LibraryError> {
        let opened = open(NCCL)?;
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the signature is that of nccl.h since 2.17, and the library is never closed.
                *unsafe { opened.library.get($name) }.map_err(|e| opened.lacks(&e))?
            };
        }
        Ok(Self {
            get_version: symbol!(b"ncclGetVersion\0"),
            get_unique_id: symbol!(b"ncclGetUniqueId\0"),
            comm_init_rank_config: symbol!(b"ncclCommInitRankConfig\0"),
            comm_get_async_error: symbol!(b"ncclCommGetAsyncError\0"),
            comm_abort: symbol!(b"ncclCommAbort\0"),
            all_reduce: symbol!(b"ncclAllReduce\0"),
            get_error_string: symbol!(b"ncclGetErrorString\0"),
            get_last_error: symbol!(b"ncclGetLastError\0"),
            path: opened.path.clone(),
        })
    }

    /// `Ok(false)` is: not done yet.
    pub(super) fn check(&self, comm: RawComm, code: c_int) -> Result<bool, String> {
        match code {
            SUCCESS => Ok(true),
            IN_PROGRESS => Ok(false),
            // SAFETY: both return static or communicator-owned text; a null communicator is allowed.
            _ => Err(unsafe {
                let what = text((self.get_error_string)(code));
                let last = text((self.get_last_error)(comm));
                if last.is_empty() { what } else { format!("{what}: {last}") }
            }),
        }
    }

    pub(super) fn version(&self) -> String {
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { (self.get_version)(&mut version) };
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
