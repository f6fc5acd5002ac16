//! ReLU followed by 2x2 max-pooling, fused: the pool of a ReLU is the ReLU of the pool.

use crate::Real;

/// `output` is a quarter of `input`; `winner` keeps which of the four pixels (0..4, row-major) won,
/// the first among equals, and `DEAD` where none was positive.
pub fn relu_pool_forward<T: Real>(side: usize, input: &[T], output: &mut [T], winner: &mut [u8]) {
    let half = side / 2;
    let rows = input.chunks_exact(2 * side);
    let outputs = output.chunks_exact_mut(half).zip(winner.chunks_exact_mut(half));
    for (pair, (out, win)) in rows.zip(outputs) {
        let (top, bottom) = pair.split_at(side);
        let quads = top.chunks_exact(2).zip(bottom.chunks_exact(2));
        for ((a, b), (o, w)) in quads.zip(out.iter_mut().zip(win)) {
            let (upper, left) = if a[1] > a[0] { (a[1], 1) } else { (a[0], 0) };
            let (lower, right) = if b[1] > b[0] { (b[1], 3) } else { (b[0], 2) };
            let (best, place) = if lower > upper { (lower, right) } else { (upper, left) };
            (*o, *w) = if best > T::zero() { (best, place) } else { (T::zero(), DEAD) };
        }
    }
}

/// No pixel of the four was positive: no gradient flows.
const DEAD: u8 = 4;

/// Writes the whole of `input_grad`: each output's gradient goes to its winner.
pub fn relu_pool_backward<T: Real>(side: usize, output_grad: &[T], winner: &[u8], input_grad: &mut [T]) {
    let half = side / 2;
    // Where the winner lies in the two rows it is of; the dead ones put their zero first.
    let place = [0, 1, side, side + 1, 0];
    input_grad.fill(T::zero());
    let rows = input_grad.chunks_exact_mut(2 * side);
    let grads = output_grad.chunks_exact(half).zip(winner.chunks_exact(half));
    for (pair, (grad, win)) in rows.zip(grads) {
        for (x, (&g, &w)) in grad.iter().zip(win).enumerate() {
            pair[2 * x + place[usize::from(w)]] = if w == DEAD { T::zero() } else { g };
        }
    }
}
