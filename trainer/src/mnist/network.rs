//! Forward and backward pass over a batch. Buffers are made once, for the largest batch.

use std::borrow::Cow;

use super::model::{views, views_mut};
use crate::Real;
use crate::device::cpu::{
    Conv, argmax, conv_backward, conv_forward, cross_entropy, linear_backward, linear_forward, relu,
    relu_backward, relu_pool_backward, relu_pool_forward,
};

/// Pixels of an image.
pub const PIXELS: usize = 28 * 28;
/// Digits.
pub const CLASSES: usize = 10;

const FIRST: Conv<28> = Conv { inputs: 1, outputs: 32 };
const SECOND: Conv<14> = Conv { inputs: 32, outputs: 64 };
/// Values per sample after the first pooling.
pub const POOLED1: usize = FIRST.outputs * 14 * 14;
/// Values per sample after the second.
pub const POOLED2: usize = SECOND.outputs * 7 * 7;
/// Values per sample of the hidden layer.
pub const HIDDEN: usize = 128;

/// What the network sees of each grey level: normalised by MNIST's mean and standard deviation.
pub fn grey<T: Real>() -> [T; 256] {
    std::array::from_fn(|level| T::of((level as f64 / 255.0 - 0.1307) / 0.3081))
}

/// The working memory of one rank.
pub struct Network<T> {
    batch: usize,
    round: Option<fn(T) -> T>,
    /// Per batch.
    input: Vec<T>,
    pooled1: Vec<T>,
    winner1: Vec<u8>,
    pooled2: Vec<T>,
    winner2: Vec<u8>,
    pooled2_grad: Vec<T>,
    hidden: Vec<T>,
    hidden_grad: Vec<T>,
    logits: Vec<T>,
    /// Per sample.
    columns: Vec<T>,
    plane: Vec<T>,
    pooled1_grad: Vec<T>,
}

impl<T: Real> Network<T> {
    /// For batches of up to `batch` samples.
    pub fn new(batch: usize) -> Self {
        let zeros = |n: usize| vec![T::zero(); n];
        Self {
            batch,
            round: None,
            input: zeros(batch * PIXELS),
            pooled1: zeros(batch * POOLED1),
            winner1: vec![0; batch * POOLED1],
            pooled2: zeros(batch * POOLED2),
            winner2: vec![0; batch * POOLED2],
            pooled2_grad: zeros(batch * POOLED2),
            hidden: zeros(batch * HIDDEN),
            hidden_grad: zeros(batch * HIDDEN),
            logits: zeros(batch * CLASSES),
            columns: zeros(FIRST.columns().max(SECOND.columns())),
            plane: zeros((FIRST.outputs * PIXELS).max(SECOND.outputs * 14 * 14)),
            pooled1_grad: zeros(POOLED1),
        }
    }

    /// Rounds every operand of the products in which nearly all of the work is, once it is made, as a
    /// GPU does: activations, their gradients, and the weights of the second convolution and of the first
    /// dense layer.
    #[must_use]
    pub fn rounding(self, round: fn(T) -> T) -> Self {
        Self { round: Some(round), ..self }
    }

    fn operands<'a>(&self, parameters: &'a [T]) -> Cow<'a, [T]> {
        let mut operands = Cow::Borrowed(parameters);
        if self.round.is_some() {
            let [_, _, w3, _, w7, ..] = views_mut(operands.to_mut());
            [w3, w7].into_iter().for_each(|weight| keep(self.round, weight));
        }
        operands
    }

    /// Where the next batch's normalised images go: `samples` rows of [`PIXELS`].
    pub fn input(&mut self, samples: usize) -> &mut [T] {
        assert!(samples <= self.batch, "{samples} samples in a network for {}", self.batch);
        &mut self.input[..samples * PIXELS]
    }

    /// The mean loss over the input's first `labels.len()` samples; writes its gradient.
    pub fn gradient(&mut self, parameters: &[T], labels: &[u8], gradient: &mut [T]) -> T {
        let parameters = &self.operands(parameters)[..];
        self.forward(parameters, labels.len());
        let loss = cross_entropy(&mut self.logits[..labels.len() * CLASSES], labels);
        self.backward(parameters, labels.len(), gradient);
        loss
    }

    /// How many of the input's first `labels.len()` samples are recognised.
    pub fn correct(&mut self, parameters: &[T], labels: &[u8]) -> usize {
        self.forward(&self.operands(parameters), labels.len());
        let rows = self.logits.chunks_exact(CLASSES).zip(labels);
        rows.filter(|(row, label)| argmax(row) == usize::from(**label)).count()
    }

    fn forward(&mut self, parameters: &[T], samples: usize) {
        let [w0, b0, w3, b3, w7, b7, w9, b9] = views(parameters);
        for s in 0..samples {
            let (columns, plane) = (&mut self.columns[..FIRST.columns()], &mut self.plane[..]);
            let pooled = &mut self.pooled1[s * POOLED1..][..POOLED1];
            conv_forward(FIRST, &self.input[s * PIXELS..][..PIXELS], w0, b0, columns, plane);
            relu_pool_forward(28, plane, pooled, &mut self.winner1[s * POOLED1..][..POOLED1]);
            keep(self.round, pooled);

            let columns = &mut self.columns[..SECOND.columns()];
            let plane = &mut self.plane[..SECOND.outputs * 14 * 14];
            conv_forward(SECOND, pooled, w3, b3, columns, plane);
            let winner = &mut self.winner2[s * POOLED2..][..POOLED2];
            let pooled = &mut self.pooled2[s * POOLED2..][..POOLED2];
            relu_pool_forward(14, plane, pooled, winner);
            keep(self.round, pooled);
        }
        let hidden = &mut self.hidden[..samples * HIDDEN];
        linear_forward(samples, &self.pooled2[..samples * POOLED2], w7, b7, hidden);
        relu(hidden);
        linear_forward(samples, hidden, w9, b9, &mut self.logits[..samples * CLASSES]);
    }

    /// Expects the gradient by the logits in `logits`.
    fn backward(&mut self, parameters: &[T], samples: usize, gradient: &mut [T]) {
        let [_, _, w3, _, w7, _, w9, _] = views(parameters);
        let [g0, gb0, g3, gb3, g7, gb7, g9, gb9] = views_mut(gradient);
        let hidden = &self.hidden[..samples * HIDDEN];
        let hidden_grad = &mut self.hidden_grad[..samples * HIDDEN];
        let logits_grad = &self.logits[..samples * CLASSES];
        linear_backward(samples, hidden, w9, logits_grad, g9, gb9, hidden_grad);
        relu_backward(hidden, hidden_grad);
        keep(self.round, hidden_grad);
        let pooled2 = samples * POOLED2;
        let (pooled2, pooled2_grad) = (&self.pooled2[..pooled2], &mut self.pooled2_grad[..pooled2]);
        linear_backward(samples, pooled2, w7, hidden_grad, g7, gb7, pooled2_grad);
        keep(self.round, pooled2_grad);

        for grad in [&mut *g0, &mut *gb0, &mut *g3, &mut *gb3] {
            grad.fill(T::zero());
        }
        for s in 0..samples {
            let (columns, plane) =
                (&mut self.columns[..SECOND.columns()], &mut self.plane[..SECOND.outputs * 14 * 14]);
            let pooled = s * POOLED2..(s + 1) * POOLED2;
            relu_pool_backward(14, &self.pooled2_grad[pooled.clone()], &self.winner2[pooled], plane);
            let pooled = s * POOLED1..(s + 1) * POOLED1;
            let pooled1_grad = &mut self.pooled1_grad[..];
            let input = &self.pooled1[pooled.clone()];
            conv_backward(SECOND, input, w3, plane, columns, g3, gb3, Some(&mut *pooled1_grad));

            let (columns, plane) = (&mut self.columns[..FIRST.columns()], &mut self.plane[..]);
            relu_pool_backward(28, pooled1_grad, &self.winner1[pooled], plane);
            let input = &self.input[s * PIXELS..][..PIXELS];
            conv_backward(FIRST, input, &[], plane, columns, g0, gb0, None);
        }
    }
}

fn keep<T: Real>(round: Option<fn(T) -> T>, values: &mut [T]) {
    if let Some(round) = round {
        values.iter_mut().for_each(|x| *x = round(*x));
    }
}
