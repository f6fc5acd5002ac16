//! Memory: the device's, and words of the host's that both see.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr as _, result, sys};

use super::{CudaError, Doing as _};
use crate::device::Precision;

/// Numbers in the device's memory.
#[derive(Debug)]
pub struct Buffer {
    bytes: CudaSlice<u8>,
    address: u64,
    element: usize,
}

impl Buffer {
    /// `len` zeros of `element` bytes each.
    pub fn zeros(stream: &Arc<CudaStream>, len: usize, element: usize) -> Result<Self, CudaError> {
        let bytes = stream.alloc_zeros::<u8>(len * element).doing("taking memory of the GPU")?;
        let address = bytes.device_ptr(stream).0;
        Ok(Self { bytes, address, element })
    }

    /// As a kernel's argument.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Copies `bytes` to its beginning, in the order of the stream; `bytes` may be dropped at once.
    pub fn write(&mut self, stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<(), CudaError> {
        let mut to = self.bytes.slice_mut(..bytes.len());
        stream.memcpy_htod(bytes, &mut to).doing("copying to the GPU")
    }

    /// Copies everything to the host and waits for it.
    pub fn read(&self, stream: &Arc<CudaStream>) -> Result<Vec<u8>, CudaError> {
        let bytes = stream.clone_dtoh(&self.bytes).doing("copying from the GPU")?;
        stream.synchronize().doing("waiting for the GPU")?;
        Ok(bytes)
    }

    /// Copies all of `from` to this many bytes behind its beginning, in the order of the stream.
    pub fn copy_from(&mut self, stream: &CudaStream, offset: usize, from: &Self) -> Result<(), CudaError> {
        let doing = "copying within the GPU";
        let bytes = from.bytes.len();
        assert!(offset + bytes <= self.bytes.len(), "{bytes} bytes at {offset} of {}", self.bytes.len());
        stream.context().bind_to_thread().doing(doing)?;
        let to = self.address + offset as u64;
        // SAFETY: both places are that long. Freeing a buffer is ordered behind the work of the stream that it was made
        // on; who uses it on another one waits before it is dropped.
        unsafe { result::memcpy_dtod_async(to, from.address, bytes, stream.cu_stream()) }.doing(doing)
    }

    /// Copies everything to `words`, in the order of the stream: they are there once it has come so far.
    pub fn read_into(&self, stream: &CudaStream, words: &HostWords) -> Result<(), CudaError> {
        let doing = "copying from the GPU";
        assert_eq!(self.bytes.len(), words.len * 4, "bytes");
        stream.context().bind_to_thread().doing(doing)?;
        let to = words.words.as_ptr().cast();
        // SAFETY: both places are that long. Who reads the words, or drops either, waits for the stream first, and the
        // words are atomics.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, self.address, self.bytes.len(), stream.cu_stream()) }
            .result()
            .doing(doing)
    }

    /// Writes numbers as this buffer keeps them: as floats, or rounded to bf16.
    pub fn write_floats(&mut self, stream: &Arc<CudaStream>, values: &[f32]) -> Result<(), CudaError> {
        let bytes: Vec<u8> = match self.element {
            2 => {
                let high = |x: f32| (Precision::Bf16.round(x).to_bits() >> 16) as u16;
                values.iter().flat_map(|x| high(*x).to_le_bytes()).collect()
            }
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        self.write(stream, &bytes)
    }

    /// Reads numbers that are kept as floats or bf16.
    pub fn read_floats(&self, stream: &Arc<CudaStream>) -> Result<Vec<f32>, CudaError> {
        let bytes = self.read(stream)?;
        Ok(match self.element {
            2 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
                .collect(),
            _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        })
    }
}

impl Precision {
    /// A buffer of `len` operands.
    pub fn operands(self, stream: &Arc<CudaStream>, len: usize) -> Result<Buffer, CudaError> {
        Buffer::zeros(stream, len, self.bytes())
    }
}

/// Words in the host's memory that the device reads and writes over the bus, while both work.
#[derive(Debug)]
pub struct HostWords {
    words: std::ptr::NonNull<AtomicU32>,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the words are atomics, and the allocation belongs to this value alone.
unsafe impl Send for HostWords {}
// SAFETY: as above.
unsafe impl Sync for HostWords {}

impl HostWords {
    /// `len` zeros.
    pub fn zeros(context: &Arc<CudaContext>, len: usize) -> Result<Self, CudaError> {
        let doing = "taking pinned memory";
        context.bind_to_thread().doing(doing)?;
        // SAFETY: a context is bound; the result is checked for null below.
        let words = unsafe { result::malloc_host(len * 4, sys::CU_MEMHOSTALLOC_DEVICEMAP) }.doing(doing)?;
        // SAFETY: the allocation has len * 4 bytes.
        unsafe { std::ptr::write_bytes(words.cast::<u8>(), 0, len * 4) };
        let words = std::ptr::NonNull::new(words.cast()).expect("cuMemHostAlloc succeeded");
        Ok(Self { words, len, context: Arc::clone(context) })
    }

    /// As a kernel's argument: addresses are the same on both sides (unified addressing).
    pub fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }
}

impl std::ops::Deref for HostWords {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: `len` words were allocated and zeroed, and live as long as this value.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl Drop for HostWords {
    fn drop(&mut self) {
        let freed = self.context.bind_to_thread();
        // SAFETY: allocated by malloc_host. Who queued work that uses it has waited for that.
        let freed = freed.and_then(|()| unsafe { result::free_host(self.words.as_ptr().cast()) });
        if let Err(error) = freed {
            tracing::warn!(%error, "cannot free pinned memory");
        }
    }
}
