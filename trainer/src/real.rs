//! The number type of a model: `f32` for training, `f64` for checking derivatives.

use std::fmt::{Debug, Display};

/// A floating-point type that a tensor can hold.
pub trait Real: num_traits::Float + num_traits::NumAssign + Debug + Display + Send + Sync + 'static {
    /// Bytes of one value.
    const BYTES: usize;
    /// Its name in a safetensors header.
    const DTYPE: safetensors::Dtype;

    /// The nearest value to `x`.
    fn of(x: f64) -> Self;
    fn to_f64_exact(self) -> f64;
    /// Writes the little-endian bytes into `out`, which is [`Self::BYTES`] long.
    fn put(self, out: &mut [u8]);
    /// Reads little-endian bytes; `bytes` is [`Self::BYTES`] long.
    fn get(bytes: &[u8]) -> Self;

    /// `c = alpha a b + beta c` on raw strided matrices, as BLAS defines it.
    ///
    /// # Safety
    /// Each pointer with its strides must address `m x k`, `k x n` and `m x n` valid elements, and
    /// `c` must not overlap the others.
    #[expect(clippy::too_many_arguments, reason = "the shape of BLAS gemm")]
    unsafe fn gemm(
        m: usize,
        k: usize,
        n: usize,
        alpha: Self,
        a: (*const Self, isize, isize),
        b: (*const Self, isize, isize),
        beta: Self,
        c: (*mut Self, isize, isize),
    );
}

macro_rules! real {
    ($t:ty, $gemm:path, $dtype:ident) => {
        impl Real for $t {
            const BYTES: usize = size_of::<$t>();
            const DTYPE: safetensors::Dtype = safetensors::Dtype::$dtype;

            #[inline]
            fn of(x: f64) -> Self {
                x as $t
            }

            #[inline]
            fn to_f64_exact(self) -> f64 {
                f64::from(self)
            }

            #[inline]
            fn put(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn get(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }

            unsafe fn gemm(
                m: usize,
                k: usize,
                n: usize,
                alpha: Self,
                a: (*const Self, isize, isize),
                b: (*const Self, isize, isize),
                beta: Self,
                c: (*mut Self, isize, isize),
            ) {
                // SAFETY: the caller upholds the same contract.
                unsafe {
                    $gemm(m, k, n, alpha, a.0, a.1, a.2, b.0, b.1, b.2, beta, c.0, c.1, c.2);
                }
            }
        }
    };
}

real!(f32, matrixmultiply::sgemm, F32);
real!(f64, matrixmultiply::dgemm, F64);
