//! Fully connected layer over a batch, and ReLU.

use super::gemm::{Matrix, gemm};
use crate::Real;

/// `output[s][o] = bias[o] + sum over i of weight[o][i] input[s][i]`.
pub fn linear_forward<T: Real>(batch: usize, input: &[T], weight: &[T], bias: &[T], output: &mut [T]) {
    let (inputs, outputs) = (input.len() / batch, bias.len());
    for row in output.chunks_exact_mut(outputs) {
        row.copy_from_slice(bias);
    }
    let weight = Matrix::new(weight, outputs, inputs);
    gemm(Matrix::new(input, batch, inputs), weight.t(), T::one(), output);
}

/// Writes all three gradients.
pub fn linear_backward<T: Real>(
    batch: usize,
    input: &[T],
    weight: &[T],
    output_grad: &[T],
    weight_grad: &mut [T],
    bias_grad: &mut [T],
    input_grad: &mut [T],
) {
    let (inputs, outputs) = (input.len() / batch, bias_grad.len());
    let output_grad_matrix = Matrix::new(output_grad, batch, outputs);
    gemm(output_grad_matrix.t(), Matrix::new(input, batch, inputs), T::zero(), weight_grad);
    gemm(output_grad_matrix, Matrix::new(weight, outputs, inputs), T::zero(), input_grad);
    bias_grad.fill(T::zero());
    for row in output_grad.chunks_exact(outputs) {
        for (b, &g) in bias_grad.iter_mut().zip(row) {
            *b += g;
        }
    }
}

pub fn relu<T: Real>(values: &mut [T]) {
    for x in values {
        *x = x.max(T::zero());
    }
}

/// Stops the gradient wherever the ReLU's output was not positive.
pub fn relu_backward<T: Real>(output: &[T], grad: &mut [T]) {
    for (g, &y) in grad.iter_mut().zip(output) {
        if y <= T::zero() {
            *g = T::zero();
        }
    }
}
