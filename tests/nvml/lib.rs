//! A libnvidia-ml.so without a GPU. What it says stands in the file `state` beside the library itself,
//! which is read at every call; see `FakeNvml` in the tests' crate, which writes it:
//!
//! ```text
//! init 0                     what nvmlInit returns
//! hang                       calls do not return while this line is there
//! gpu 0 uuid=GPU-… bus=00000000:1B:00.0 numa=0 links=1:4 util=97 used=1048576 fail=15 uncorrected=1
//! process 0 4711 1048576     GPU, pid, bytes
//! xid 1 0 79                 the first event: GPU, code
//! ```

mod state;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

use state::{Gpu, State, lines, state};

const OK: c_int = 0;
const INVALID: c_int = 2;
const NOT_SUPPORTED: c_int = 3;
const INSUFFICIENT_SIZE: c_int = 7;
const TIMEOUT: c_int = 10;
const XID: u64 = 8;
/// Handles are numbers of GPUs, from here on.
const FIRST_HANDLE: usize = 0x1000;

/// Events that were delivered.
static DELIVERED: AtomicU64 = AtomicU64::new(0);

type Handle = *mut c_void;

/// Answers for one GPU, or with the error that it was told to give.
fn answer(device: Handle, answer: impl FnOnce(&State, &Gpu) -> c_int) -> c_int {
    let state = state();
    let Some(gpu) = state.gpus.iter().find(|gpu| gpu.number + FIRST_HANDLE == device as usize) else {
        return INVALID;
    };
    match gpu.word("fail").and_then(|code| code.parse().ok()) {
        Some(code) => code,
        None => answer(&state, gpu),
    }
}

fn put(text: &str, to: *mut c_char, room: c_uint) -> c_int {
    if text.len() >= room as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: NVML's callers give `room` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), to, text.len());
        *to.add(text.len()) = 0;
    }
    OK
}

/// Writes a result where the caller wants it.
fn set<T>(to: *mut T, value: T) -> c_int {
    // SAFETY: NVML's callers give a valid place, which may hold anything.
    unsafe { to.write(value) };
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    let state = state();
    let code = lines(&state.text, "init").next().and_then(|words| words[0].parse().ok());
    code.unwrap_or(OK)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, room: c_uint) -> c_int {
    put("580.159.04", to, room)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) -> c_int {
    set(to, 13_000)
}

/// A driver that was told to fail at init also fails for those that are inside.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> c_int {
    match nvmlInit_v2() {
        OK => set(to, state().gpus.len() as c_uint),
        code => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut Handle) -> c_int {
    match state().gpus.get(index as usize) {
        Some(gpu) => set(to, (gpu.number + FIRST_HANDLE) as Handle),
        None => INVALID,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: Handle, to: *mut c_char, room: c_uint) -> c_int {
    let state = state();
    let gpu = state.gpus.iter().find(|gpu| gpu.number + FIRST_HANDLE == device as usize);
    gpu.map_or(INVALID, |gpu| put(gpu.word("uuid").unwrap_or_default(), to, room))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: Handle, to: *mut c_char, room: c_uint) -> c_int {
    answer(device, |_, _| put("Fake H100", to, room))
}

#[repr(C)]
pub struct Pci {
    legacy: [u8; 16],
    numbers: [c_uint; 5],
    bus: [u8; 32],
}

fn pci(gpu: &Gpu) -> Pci {
    let mut pci = Pci { legacy: [0; 16], numbers: [0; 5], bus: [0; 32] };
    let bus = gpu.word("bus").unwrap_or_default().as_bytes();
    pci.bus[..bus.len()].copy_from_slice(bus);
    pci
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: Handle, to: *mut Pci) -> c_int {
    answer(device, |_, gpu| set(to, pci(gpu)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Handle,
    major: *mut c_int,
    minor: *mut c_int,
) -> c_int {
    answer(device, |_, _| set(major, 9) + set(minor, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) -> c_int {
    answer(device, |_, gpu| set(current, gpu.number_of("mig") as c_uint) + set(pending, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) -> c_int {
    answer(device, |_, _| set(current, 1) + set(pending, 1))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: Handle,
    words: c_uint,
    to: *mut u64,
    _scope: c_uint,
) -> c_int {
    answer(device, |_, gpu| match gpu.word("numa").and_then(|node| node.parse::<u32>().ok()) {
        Some(node) if words > 0 => set(to, 1 << node),
        _ => NOT_SUPPORTED,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkState(device: Handle, link: c_uint, active: *mut c_uint) -> c_int {
    answer(device, |_, gpu| match gpu.links().get(link as usize) {
        Some(_) => set(active, 1),
        None => INVALID,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: Handle, link: c_uint, to: *mut Pci) -> c_int {
    answer(device, |state, gpu| {
        let other = gpu.links().get(link as usize).copied();
        let other = other.and_then(|number| state.gpus.iter().find(|gpu| gpu.number == number));
        other.map_or(INVALID, |other| set(to, pci(other)))
    })
}

#[repr(C)]
pub struct Memory {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, to: *mut Memory) -> c_int {
    answer(device, |_, gpu| {
        let (total, used) = (80 << 30, gpu.number_of("used"));
        set(to, Memory { version: 2, total, reserved: 0, free: total - used, used })
    })
}

#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: Handle, to: *mut Utilization) -> c_int {
    answer(device, |_, gpu| set(to, Utilization { gpu: gpu.number_of("util") as c_uint, memory: 12 }))
}

/// Numbers that never change.
macro_rules! constants {
    ($($name:ident($($argument:ident: $kind:ty),*) = $value:literal;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(device: Handle, $($argument: $kind,)* to: *mut c_uint) -> c_int {
            answer(device, |_, _| set(to, $value))
        }
    )*};
}

constants! {
    nvmlDeviceGetTemperature(_sensor: c_uint) = 41;
    nvmlDeviceGetPowerUsage() = 350_000;
    nvmlDeviceGetEnforcedPowerLimit() = 700_000;
    nvmlDeviceGetClockInfo(_clock: c_uint) = 1_980;
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: Handle,
    kind: c_uint,
    _counter: c_uint,
    to: *mut u64,
) -> c_int {
    const UNCORRECTED: c_uint = 1;
    answer(device, |_, gpu| set(to, if kind == UNCORRECTED { gpu.number_of("uncorrected") } else { 0 }))
}

#[repr(C)]
pub struct Running {
    pid: c_uint,
    memory: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    to: *mut Running,
) -> c_int {
    answer(device, |state, gpu| {
        let number = gpu.number.to_string();
        let found: Vec<Running> = lines(&state.text, "process")
            .filter(|words| words[0] == number)
            .map(|words| Running {
                pid: words[1].parse().expect("a number"),
                memory: words[2].parse().expect("a number"),
                gpu_instance: u32::MAX,
                compute_instance: u32::MAX,
            })
            .collect();
        // SAFETY: the caller says there how many it has room for.
        let room = unsafe { *count } as usize;
        set(count, found.len() as c_uint);
        if found.len() > room {
            return INSUFFICIENT_SIZE;
        }
        for (n, process) in found.into_iter().enumerate() {
            // SAFETY: there is room for as many.
            unsafe { to.add(n).write(process) };
        }
        OK
    })
}

#[repr(C)]
pub struct Field {
    id: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency: i64,
    kind: c_uint,
    code: c_int,
    value: u64,
}

/// Counters of traffic grow with every question; other fields are not supported.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(device: Handle, count: c_int, fields: *mut Field) -> c_int {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    const ALL_LINKS: c_uint = c_uint::MAX;
    answer(device, |_, _| {
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        for n in 0..count as usize {
            // SAFETY: the caller gives `count` fields.
            let field = unsafe { &mut *fields.add(n) };
            let counts = matches!((field.id, field.scope), (138 | 139, ALL_LINKS) | (197 | 198, 0));
            (field.kind, field.value) = (3, asked << 20);
            field.code = if counts { OK } else { NOT_SUPPORTED };
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(to: *mut Handle) -> c_int {
    set(to, 0x2000 as Handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_set: Handle) -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(_device: Handle, _types: u64, _set: Handle) -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSupportedEventTypes(_device: Handle, to: *mut u64) -> c_int {
    set(to, XID)
}

#[repr(C)]
pub struct Event {
    device: Handle,
    kind: u64,
    data: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(_set: Handle, to: *mut Event, _ms: c_uint) -> c_int {
    let state = state();
    let next = DELIVERED.load(Ordering::Relaxed) + 1;
    let event = lines(&state.text, "xid").find(|words| words[0].parse() == Ok(next));
    let Some(words) = event else { return TIMEOUT };
    DELIVERED.store(next, Ordering::Relaxed);
    let gpu: usize = words[1].parse().expect("a number");
    let data = words[2].parse().expect("a number");
    let device = (gpu + FIRST_HANDLE) as Handle;
    set(to, Event { device, kind: XID, data, gpu_instance: u32::MAX, compute_instance: u32::MAX })
}
