use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::AtomicUsize;

use super::library::SUCCESS;
use super::*;

/// What the library that is played has come to: an abort has begun; no graph is left.
static BEGUN: Flag = Flag::new();
static GRAPH_GONE: Flag = Flag::new();
static ABORTS: AtomicUsize = AtomicUsize::new(0);

struct Flag(Mutex<bool>, Condvar);

impl Flag {
    const fn new() -> Self {
        Self(Mutex::new(false), Condvar::new())
    }

    fn set(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |set| !*set).unwrap());
    }
}

/// As NCCL's: returns once no graph holds the communicator's work.
extern "C" fn abort(_: RawComm) -> c_int {
    ABORTS.fetch_add(1, Ordering::Relaxed);
    BEGUN.set();
    GRAPH_GONE.wait();
    SUCCESS
}

extern "C" fn integer(_: *mut c_int) -> c_int {
    SUCCESS
}

extern "C" fn id(_: *mut RawId) -> c_int {
    SUCCESS
}

extern "C" fn init(_: *mut RawComm, _: c_int, _: RawId, _: c_int, _: *mut Config) -> c_int {
    SUCCESS
}

extern "C" fn error(_: RawComm, _: *mut c_int) -> c_int {
    SUCCESS
}

extern "C" fn reduce(
    _: *const c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    _: c_int,
    _: RawComm,
    _: *mut c_void,
) -> c_int {
    SUCCESS
}

extern "C" fn text(_: c_int) -> *const c_char {
    std::ptr::null()
}

extern "C" fn last(_: RawComm) -> *const c_char {
    std::ptr::null()
}

#[test]
fn who_holds_the_graph_that_an_abort_waits_for_learns_of_it_meanwhile() {
    let api = Api {
        path: "libnccl.so.2".into(),
        get_version: integer,
        get_unique_id: id,
        comm_init_rank_config: init,
        comm_get_async_error: error,
        comm_abort: abort,
        all_reduce: reduce,
        get_error_string: text,
        get_last_error: last,
    };
    let comm = std::ptr::dangling_mut::<c_void>();
    let state = State { comm, failure: None, alive: Instant::now(), closing: false };
    let (state, ended, armed) = (Mutex::new(state), Condvar::new(), AtomicBool::new(true));
    let shared = Arc::new(Shared { api, state, ended, armed });
    let watchdog = {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || shared.watch(Duration::ZERO))
    };
    BEGUN.wait();
    let failure = shared.state.try_lock().expect("an abort that waits holds no lock").failure.clone();
    assert!(matches!(failure, Some(CollectiveError::Nccl { reason }) if reason.contains("no step")));
    GRAPH_GONE.set();
    watchdog.join().unwrap();
    shared.abort("closed".to_owned());
    assert_eq!(ABORTS.load(Ordering::Relaxed), 1, "a communicator is aborted once");
}
