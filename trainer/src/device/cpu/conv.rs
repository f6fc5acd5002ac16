//! 3x3 convolution with padding 1 and stride 1, one sample at a time: its im2col matrix then stays
//! in the L2 cache (226 kB for the larger layer).

use super::gemm::{Matrix, gemm};
use crate::Real;

/// Taps of the kernel.
const TAPS: usize = 9;

/// A layer's shape: images are `SIDE` x `SIDE`. A const, so that copying a row is a few moves.
#[derive(Clone, Copy, Debug)]
pub struct Conv<const SIDE: usize> {
    pub inputs: usize,
    pub outputs: usize,
}

impl<const SIDE: usize> Conv<SIDE> {
    const AREA: usize = SIDE * SIDE;

    /// Values of the im2col matrix: `inputs * 9` rows of one value per pixel.
    pub const fn columns(&self) -> usize {
        self.inputs * TAPS * Self::AREA
    }
}

/// `output[o][y][x] = bias[o] + sum over i, ky, kx of weight[o][i][ky][kx] input[i][y+ky-1][x+kx-1]`.
/// `columns` is scratch of [`Conv::columns`] values.
pub fn conv_forward<T: Real, const SIDE: usize>(
    conv: Conv<SIDE>,
    input: &[T],
    weight: &[T],
    bias: &[T],
    columns: &mut [T],
    output: &mut [T],
) {
    let area = SIDE * SIDE;
    im2col::<T, SIDE>(input, columns);
    for (plane, &b) in output.chunks_exact_mut(area).zip(bias) {
        plane.fill(b);
    }
    let taps = conv.inputs * TAPS;
    gemm(Matrix::new(weight, conv.outputs, taps), Matrix::new(columns, taps, area), T::one(), output);
}

/// Adds this sample's gradients to `weight_grad` and `bias_grad`, and writes `input_grad` unless the
/// layer is the first. `columns` is scratch of [`Conv::columns`] values.
#[expect(clippy::too_many_arguments, reason = "a kernel takes its buffers one by one")]
pub fn conv_backward<T: Real, const SIDE: usize>(
    conv: Conv<SIDE>,
    input: &[T],
    weight: &[T],
    output_grad: &[T],
    columns: &mut [T],
    weight_grad: &mut [T],
    bias_grad: &mut [T],
    input_grad: Option<&mut [T]>,
) {
    let (area, taps) = (SIDE * SIDE, conv.inputs * TAPS);
    let output_grad_matrix = Matrix::new(output_grad, conv.outputs, area);
    im2col::<T, SIDE>(input, columns);
    gemm(output_grad_matrix, Matrix::new(columns, taps, area).t(), T::one(), weight_grad);
    for (plane, b) in output_grad.chunks_exact(area).zip(bias_grad) {
        *b += plane.iter().fold(T::zero(), |sum, &x| sum + x);
    }
    if let Some(input_grad) = input_grad {
        gemm(Matrix::new(weight, conv.outputs, taps).t(), output_grad_matrix, T::zero(), columns);
        col2im::<T, SIDE>(columns, input_grad);
    }
}

/// Where tap offset `k` (0..3) reads: source start, destination start and length along one axis.
const fn span(k: usize, side: usize) -> (usize, usize, usize) {
    match k {
        0 => (0, 1, side - 1),
        1 => (0, 0, side),
        _ => (1, 0, side - 1),
    }
}

fn im2col<T: Real, const SIDE: usize>(input: &[T], columns: &mut [T]) {
    let area = SIDE * SIDE;
    for (plane, taps) in input.chunks_exact(area).zip(columns.chunks_exact_mut(TAPS * area)) {
        for (tap, out) in taps.chunks_exact_mut(area).enumerate() {
            let (from_y, to_y, height) = span(tap / 3, SIDE);
            out[..to_y * SIDE].fill(T::zero());
            out[(to_y + height) * SIDE..].fill(T::zero());
            let source = plane[from_y * SIDE..].chunks_exact(SIDE);
            let target = out[to_y * SIDE..].chunks_exact_mut(SIDE).take(height);
            for (row, line) in source.zip(target) {
                match tap % 3 {
                    0 => {
                        line[0] = T::zero();
                        line[1..SIDE].copy_from_slice(&row[..SIDE - 1]);
                    }
                    1 => line[..SIDE].copy_from_slice(&row[..SIDE]),
                    _ => {
                        line[..SIDE - 1].copy_from_slice(&row[1..SIDE]);
                        line[SIDE - 1] = T::zero();
                    }
                }
            }
        }
    }
}

/// The adjoint of [`im2col`]: each pixel receives the sum of the places it was copied to.
fn col2im<T: Real, const SIDE: usize>(columns: &[T], input_grad: &mut [T]) {
    let area = SIDE * SIDE;
    input_grad.fill(T::zero());
    for (plane, taps) in input_grad.chunks_exact_mut(area).zip(columns.chunks_exact(TAPS * area)) {
        for (tap, from) in taps.chunks_exact(area).enumerate() {
            let (to_y, from_y, height) = span(tap / 3, SIDE);
            let source = from[from_y * SIDE..].chunks_exact(SIDE).take(height);
            let target = plane[to_y * SIDE..].chunks_exact_mut(SIDE);
            for (row, line) in source.zip(target) {
                match tap % 3 {
                    0 => add(&mut line[..SIDE - 1], &row[1..SIDE]),
                    1 => add(&mut line[..SIDE], &row[..SIDE]),
                    _ => add(&mut line[1..SIDE], &row[..SIDE - 1]),
                }
            }
        }
    }
}

#[inline]
fn add<T: Real>(to: &mut [T], from: &[T]) {
    for (a, &b) in to.iter_mut().zip(from) {
        *a += b;
    }
}
