//! Sums over all ranks by NCCL, from device memory to device memory.
//!
//! The communicator is non-blocking: no call of NCCL's waits for another rank, every wait is ours and
//! has a deadline. What was queued on a stream does wait, on the device. So a watchdog, a thread of its
//! own since the trainer's may be stuck in the driver, asks NCCL for errors and the trainer for signs
//! of life; on an error, or after a silence, it aborts the communicator, which ends those kernels, and
//! keeps the reason.
//!
//! States: connecting → connected → aborted, which is final; the handle behind the lock is null then.

mod library;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaStream};

use self::library::{Api, Config, FLOAT32, RawComm, RawId, SUM};
use super::tcp::{Options, is_ring_id};
use super::{CollectiveError, ConnectError, Exchange, UNIQUE_ID_BYTES, UniqueId};
use crate::device::cuda::library::LibraryError;

/// How often waits look again: NCCL's own steps take tens of microseconds.
const POLL: Duration = Duration::from_micros(200);
/// How often the watchdog looks. A lost rank costs so much more time.
const TICK: Duration = Duration::from_millis(50);
/// How long the end of a communicator waits for its watchdog, which may be aborting it: that takes
/// milliseconds, or does not end.
const FAREWELL: Duration = Duration::from_secs(5);

/// A communicator over all ranks, one GPU each.
pub struct Nccl {
    shared: Arc<Shared>,
    context: Arc<CudaContext>,
    watchdog: Option<JoinHandle<()>>,
    /// A collective that is queued, or waits for its turn, within this time is alive.
    timeout: Duration,
    description: String,
}

struct Shared {
    api: Api,
    state: Mutex<State>,
    /// Wakes the watchdog to end.
    ended: Condvar,
    /// Some rank is being waited for.
    armed: AtomicBool,
}

struct State {
    /// Null once aborted.
    comm: RawComm,
    failure: Option<CollectiveError>,
    /// The latest sign of life while armed.
    alive: Instant,
    closing: bool,
}

// SAFETY: NCCL allows calls from any thread, one at a time: the handle is behind a lock.
unsafe impl Send for State {}

/// Makes a unique id, as rank 0 does: needs libnccl, but no GPU.
pub fn unique_id() -> Result<UniqueId, ConnectError> {
    new_id(&Api::open()?)
}

fn new_id(api: &Api) -> Result<UniqueId, ConnectError> {
    let mut id = RawId([0; UNIQUE_ID_BYTES]);
    // SAFETY: writes the 128 bytes.
    let code = unsafe { (api.get_unique_id)(&mut id) };
    api.check(std::ptr::null_mut(), code)
        .map_err(|reason| ConnectError::Nccl { doing: "make a unique id", reason })?;
    Ok(id.0)
}

impl From<LibraryError> for ConnectError {
    fn from(error: LibraryError) -> Self {
        Self::Library(Box::new(error))
    }
}

impl Nccl {
    /// Finds the other ranks; returns when NCCL is ready. Its current device becomes `context`'s.
    pub fn connect(
        options: &Options,
        exchange: &dyn Exchange,
        context: &Arc<CudaContext>,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + options.connect_timeout;
        let api = Api::open()?;
        let id = if options.rank == 0 {
            let id = new_id(&api)?;
            exchange.publish(&options.group, &id)?;
            id
        } else {
            exchange.fetch(&options.group, options.connect_timeout)?
        };
        if is_ring_id(&id) {
            return Err(ConnectError::ForeignId);
        }
        let failed = |reason| ConnectError::Nccl { doing: "connect", reason };
        context.bind_to_thread().map_err(|e| failed(e.to_string()))?;
        let mut comm: RawComm = std::ptr::null_mut();
        let (world, rank) = (options.world_size.cast_signed(), options.rank.cast_signed());
        // SAFETY: the pointers live through the call; the id came from ncclGetUniqueId of rank 0.
        let code = unsafe {
            (api.comm_init_rank_config)(&mut comm, world, RawId(id), rank, &mut Config::nonblocking())
        };
        let begun = api.check(comm, code);
        let description = format!("NCCL {} ({})", api.version(), api.path.display());
        let state = State { comm, failure: None, alive: Instant::now(), closing: false };
        let shared =
            Shared { api, state: Mutex::new(state), ended: Condvar::new(), armed: AtomicBool::new(false) };
        let mut nccl = Self {
            shared: Arc::new(shared),
            context: Arc::clone(context),
            watchdog: None,
            timeout: options.timeout,
            description,
        };
        // From here on Drop aborts what has begun.
        begun.map_err(failed)?;
        nccl.ready(deadline).map_err(|e| match e {
            _ if Instant::now() >= deadline => ConnectError::Absent { after: options.connect_timeout },
            CollectiveError::Nccl { reason } => failed(reason),
            other => failed(other.to_string()),
        })?;
        nccl.watch().map_err(|e| failed(e.to_string()))?;
        Ok(nccl)
    }

    /// For people: version and file.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Queues the sum of `count` floats at `address` over all ranks, in place. Once it returns the sum is
    /// on the stream, and may be captured or waited for by events.
    ///
    /// # Safety
    /// The memory must be the device's and live until the stream has come so far.
    pub unsafe fn all_reduce_sum(
        &self,
        stream: &CudaStream,
        address: u64,
        count: usize,
    ) -> Result<(), CollectiveError> {
        let state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let at = address as *mut std::ffi::c_void;
        let (comm, on) = (state.comm, stream.cu_stream().cast());
        // SAFETY: the caller's promise; the communicator is not null without a failure.
        let code = unsafe { (self.shared.api.all_reduce)(at, at, count, FLOAT32, SUM, comm, on) };
        self.shared.api.check(comm, code).map_err(|reason| CollectiveError::Nccl { reason })?;
        drop(state);
        // A non-blocking communicator may not have queued it yet.
        self.ready(Instant::now() + self.timeout)
    }

    /// From now until [`Nccl::rest`] the watchdog expects a sign of life within the timeout: this one is
    /// the first.
    pub fn alive(&self) {
        self.shared.lock().alive = Instant::now();
        self.shared.armed.store(true, Ordering::Release);
    }

    /// Nothing is queued: nobody is waited for.
    pub fn rest(&self) {
        self.shared.armed.store(false, Ordering::Release);
    }

    /// Why the communicator was aborted, if it was.
    pub fn failure(&self) -> Option<CollectiveError> {
        self.shared.lock().failure.clone()
    }

    /// Waits until NCCL has done what it was asked for.
    #[expect(clippy::disallowed_methods, reason = "NCCL has nothing to wait on, only something to ask")]
    fn ready(&self, deadline: Instant) -> Result<(), CollectiveError> {
        loop {
            match self.shared.poll() {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(false) => {
                    return Err(self.shared.abort("the other ranks did not come in time".to_owned()));
                }
                Err(reason) => return Err(self.shared.abort(reason)),
            }
        }
    }

    fn watch(&mut self) -> std::io::Result<()> {
        let (shared, context, timeout) = (Arc::clone(&self.shared), Arc::clone(&self.context), self.timeout);
        let thread = std::thread::Builder::new().name("nccl-watchdog".to_owned());
        self.watchdog = Some(thread.spawn(move || {
            bind(&context);
            shared.watch(timeout);
        })?);
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self) -> Result<bool, String> {
        let state = self.lock();
        match &state.failure {
            Some(failure) => Err(failure.to_string()),
            None => self.asynchronous(&state),
        }
    }

    fn asynchronous(&self, state: &State) -> Result<bool, String> {
        if state.comm.is_null() {
            return Err("there is no communicator".to_owned());
        }
        let mut code = 0;
        // SAFETY: the communicator is not null and, under the lock, not being aborted.
        let asked = unsafe { (self.api.comm_get_async_error)(state.comm, &mut code) };
        self.api.check(state.comm, asked)?;
        self.api.check(state.comm, code)
    }

    /// Ends what NCCL has on the device; the first reason is kept.
    fn abort(&self, reason: String) -> CollectiveError {
        let mut state = self.lock();
        let failure = state.failure.get_or_insert(CollectiveError::Nccl { reason }).clone();
        let comm = std::mem::replace(&mut state.comm, std::ptr::null_mut());
        // Not under the lock: it may wait until no graph holds the communicator's work any more, and whoever
        // has the graph asks here whether to give it up.
        drop(state);
        if !comm.is_null() {
            // SAFETY: the only use of the handle from here on; nobody else has it any more.
            let code = unsafe { (self.api.comm_abort)(comm) };
            if let Err(error) = self.api.check(std::ptr::null_mut(), code) {
                tracing::warn!(error, "aborting NCCL's communicator");
            }
        }
        failure
    }

    fn watch(&self, timeout: Duration) {
        let mut state = self.lock();
        while !state.closing && state.failure.is_none() {
            let silent = self.armed.load(Ordering::Acquire) && state.alive.elapsed() > timeout;
            let reason = match self.asynchronous(&state) {
                Err(reason) => Some(reason),
                Ok(_) if silent => Some(format!("no step was finished within {} s", timeout.as_secs_f64())),
                Ok(_) => None,
            };
            if let Some(reason) = reason {
                drop(state);
                self.abort(reason);
                return;
            }
            state = self.ended.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Nccl {
    /// Aborts, which unlike NCCL's own farewell waits for no rank; what was queued has long been waited
    /// for where it mattered. Graphs that hold its work must be gone.
    #[expect(clippy::disallowed_methods, reason = "a thread cannot be joined with a deadline")]
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.ended.notify_all();
        if let Some(watchdog) = self.watchdog.take() {
            let deadline = Instant::now() + FAREWELL;
            while !watchdog.is_finished() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            if !watchdog.is_finished() {
                // It has what it needs, and ends with the process.
                tracing::warn!(seconds = FAREWELL.as_secs(), "NCCL's communicator is still being aborted");
            }
        }
        bind(&self.context);
        self.shared.abort("closed".to_owned());
    }
}

fn bind(context: &CudaContext) {
    if let Err(error) = context.bind_to_thread() {
        tracing::warn!(%error, "choosing the GPU for NCCL");
    }
}

#[cfg(test)]
mod tests;
