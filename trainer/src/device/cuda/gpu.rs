//! The device: its context, streams, kernels and graphs.

use std::sync::Arc;

use cudarc::driver::sys::{
    CUevent_flags, CUfunction_attribute, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, result};

use super::library::{self, DRIVER, NVRTC};
use super::{CudaError, Doing as _, ptx};
use crate::device::Precision;

/// A GPU with the two streams that a step uses.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub context: Arc<CudaContext>,
    /// The steps.
    pub stream: Arc<CudaStream>,
    /// What goes on beside them.
    pub side: Arc<CudaStream>,
    /// For people: name, and which libraries were taken.
    pub description: String,
    capability: (i32, i32),
}

impl Gpu {
    /// The GPU of this local rank: the only visible one, or that of its number.
    pub fn open(local_rank: u32) -> Result<Self, CudaError> {
        let driver = library::open(DRIVER)?;
        let nvrtc = library::open(NVRTC)?;
        let no_gpu = |e: cudarc::driver::DriverError| CudaError::NoGpu(e.to_string());
        result::init().map_err(no_gpu)?;
        let count = u32::try_from(CudaContext::device_count().map_err(no_gpu)?).unwrap_or(0);
        let ordinal = if count == 1 { 0 } else { local_rank };
        if ordinal >= count {
            return Err(CudaError::NoSuchGpu { local_rank, count });
        }
        let context = CudaContext::new(ordinal as usize).map_err(no_gpu)?;
        // SAFETY: nothing is allocated yet, and all work is ordered by explicit events and streams. With
        // tracking, a captured kernel would wait for events from outside the capture.
        unsafe { context.disable_event_tracking() };
        let capability = context.compute_capability().doing("asking for the compute capability")?;
        if capability.0 < 8 {
            return Err(CudaError::TooOld(capability.0, capability.1));
        }
        let name = context.name().doing("asking for the GPU's name")?;
        let description = format!("{name} ({}, {})", driver.path.display(), nvrtc.path.display());
        let stream = context.new_stream().doing("making a stream")?;
        let side = context.new_stream().doing("making a stream")?;
        Ok(Self { context, stream, side, description, capability })
    }

    /// Compiles and loads the kernels.
    pub fn kernels(&self, precision: Precision) -> Result<Kernels, CudaError> {
        let module =
            self.context.load_module(ptx(precision, self.capability)?).doing("loading the kernels")?;
        let kernel = |name| Kernel::load(&self.stream, &module, name);
        Ok(Kernels {
            conv_forward: kernel("conv_forward")?,
            dense_forward: kernel("dense_forward")?,
            head: kernel("head")?,
            dense_backward: kernel("dense_backward")?,
            conv_backward: kernel("conv_backward")?,
            conv_gradient: kernel("conv_gradient")?,
            adam: kernel("adam")?,
        })
    }

    /// Records what `work` queues on [`Gpu::stream`], and on what is ordered after it, as a graph.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).doing("beginning a capture")?;
        let queued = work();
        // Also after an error: a stream that captures is of no other use.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).doing("making a graph");
        queued?;
        let empty = || CudaError::Compile("a graph without kernels".to_owned());
        let graph = graph?.ok_or_else(empty)?;
        graph.upload().doing("uploading a graph")?;
        Ok(Graph(graph))
    }

    /// Waits until all that was queued is done.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.stream.synchronize().doing("waiting for the GPU")
    }

    /// The error of what was queued, if one is known; does not wait.
    pub fn check(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().doing("choosing the GPU")?;
        // SAFETY: the stream is alive.
        match unsafe { cudarc::driver::sys::cuStreamQuery(self.stream.cu_stream()) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            other => other.result().doing("a step on the GPU"),
        }
    }

    /// `later` goes on after all that `earlier` has been given.
    pub fn order(&self, earlier: &CudaStream, later: &CudaStream) -> Result<(), CudaError> {
        earlier.record_event(None).and_then(|event| later.wait(&event)).doing("ordering two streams")
    }
}

/// A recorded step. Used from the thread that captured it.
pub struct Graph(CudaGraph);

impl Graph {
    /// Queues it.
    pub fn launch(&self) -> Result<(), CudaError> {
        self.0.launch().doing("launching a graph")
    }
}

/// What is compiled.
#[derive(Debug)]
pub struct Kernels {
    pub conv_forward: Kernel,
    pub dense_forward: Kernel,
    pub head: Kernel,
    pub dense_backward: Kernel,
    pub conv_backward: Kernel,
    pub conv_gradient: Kernel,
    pub adam: Kernel,
}

/// A kernel, and how a block of it is made: both are said by the source.
#[derive(Debug)]
pub struct Kernel {
    pub name: &'static str,
    function: CudaFunction,
    threads: u32,
    shared_bytes: u32,
}

impl Kernel {
    fn load(
        stream: &Arc<CudaStream>,
        module: &Arc<CudaModule>,
        name: &'static str,
    ) -> Result<Self, CudaError> {
        let function = module.load_function(name).doing("finding a kernel")?;
        let threads = function.max_threads_per_block().doing("asking for a kernel's threads")?.unsigned_abs();
        let shared_bytes = match module.get_global(&format!("{name}_shared"), stream) {
            Ok(bytes) => {
                let bytes = stream.clone_dtoh(&bytes).doing("reading a kernel's constant")?;
                bytes.try_into().map_or(0, u32::from_le_bytes)
            }
            // A kernel that shares nothing says nothing.
            Err(_) => 0,
        };
        let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(limit, shared_bytes.cast_signed()).doing("asking for shared memory")?;
        Ok(Self { name, function, threads, shared_bytes })
    }

    /// A launch of so many blocks; arguments are 8 bytes each, smaller ones in the lower ones.
    pub fn launch(&self, grid: (u32, u32, u32), arguments: Vec<u64>) -> Launch<'_> {
        Launch { kernel: self, grid, arguments }
    }
}

/// A kernel with everything that it needs.
#[derive(Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    grid: (u32, u32, u32),
    arguments: Vec<u64>,
}

impl Launch<'_> {
    /// Queues it.
    ///
    /// # Safety
    /// The arguments must be those of the kernel, their addresses must hold as much as it touches, and
    /// must live until it has run.
    pub unsafe fn queue(&self, stream: &CudaStream) -> Result<(), CudaError> {
        stream.context().bind_to_thread().doing("choosing the GPU")?;
        let Kernel { function, threads, shared_bytes, .. } = self.kernel;
        let mut arguments: Vec<_> =
            self.arguments.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
        let (function, block) = (function.cu_function(), (*threads, 1, 1));
        // SAFETY: the caller's promise; little-endian, so that the lower bytes of an argument come first.
        unsafe {
            result::launch_kernel(
                function,
                self.grid,
                block,
                *shared_bytes,
                stream.cu_stream(),
                &mut arguments,
            )
        }
        .doing("launching a kernel")
    }
}

/// Measures what lies between two points of a stream.
#[derive(Debug)]
pub struct Stopwatch<'a> {
    stream: &'a Arc<CudaStream>,
    begin: CudaEvent,
}

impl<'a> Stopwatch<'a> {
    pub fn start(stream: &'a Arc<CudaStream>) -> Result<Self, CudaError> {
        let begin = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).doing("recording an event")?;
        Ok(Self { stream, begin })
    }

    /// Microseconds since the start; waits for the work in between.
    pub fn stop(self) -> Result<f64, CudaError> {
        let end =
            self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).doing("recording an event")?;
        Ok(f64::from(self.begin.elapsed_ms(&end).doing("waiting for the GPU")?) * 1e3)
    }
}
