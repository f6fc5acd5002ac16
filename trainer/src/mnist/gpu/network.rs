//! The network's memory on a GPU, and the launches of a step.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use crate::device::Precision;
use crate::device::cuda::{Buffer, CudaError, Gpu, HostWords, Kernels, Launch};
use crate::mnist::Digits;
use crate::mnist::model::PARAMETERS;
use crate::mnist::network::{CLASSES, HIDDEN, POOLED1, POOLED2};

/// Rows of a product's tile, to which the batch is rounded up.
const TILE: u32 = 64;
/// Parts of 64 inputs of the first dense layer.
const CHUNKS: u32 = 49;
/// Of both convolutions, and of the first alone.
pub(super) const CONVOLUTIONS: usize = 18_816;
const FIRST: usize = 320;

/// A data set on the device, and which of its samples are next.
#[derive(Debug)]
pub struct Data {
    images: Buffer,
    labels: Buffer,
    order: Buffer,
    /// `Control` of `shapes.cuh`.
    control: Buffer,
    /// Samples of it.
    len: usize,
}

impl Data {
    /// Uploads `digits`; nothing is in order yet.
    pub fn upload(stream: &Arc<CudaStream>, digits: &Digits) -> Result<Self, CudaError> {
        let len = digits.len();
        let mut data = Self {
            images: Buffer::zeros(stream, digits.images.len(), 1)?,
            labels: Buffer::zeros(stream, len, 1)?,
            order: Buffer::zeros(stream, len, 4)?,
            control: Buffer::zeros(stream, 1, 32)?,
            len,
        };
        data.images.write(stream, &digits.images)?;
        data.labels.write(stream, &digits.labels)?;
        Ok(data)
    }

    /// The samples to go through, at most as many as there are.
    pub fn set_order(&mut self, stream: &Arc<CudaStream>, order: &[u32]) -> Result<(), CudaError> {
        assert!(order.len() <= self.len, "{} of {} samples", order.len(), self.len);
        self.order.write(stream, &words(order))
    }

    /// Batch and step to go on from; `samples` are in order.
    pub fn set_place(
        &mut self,
        stream: &Arc<CudaStream>,
        batch: u32,
        samples: u32,
        step: u64,
    ) -> Result<(), CudaError> {
        let control = [batch, samples, step as u32, (step >> 32) as u32, 0, 0, 0, 0];
        self.control.write(stream, &words(&control))
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What the device tells and is told while it works.
#[derive(Debug)]
pub struct Post {
    /// The host: not 0 asks to stop.
    pub stop: HostWords,
    /// The device: stopped, batches of the epoch done.
    pub posted: HostWords,
    /// The device: the loss of each batch of the epoch.
    pub losses: HostWords,
}

/// Parameters, optimiser, and the working memory of a step.
#[derive(Debug)]
pub struct GpuNetwork {
    pub gpu: Gpu,
    pub kernels: Kernels,
    batch: u32,
    /// The batch rounded up to whole tiles.
    rows: u32,
    pub grey: Buffer,
    pub parameters: Buffer,
    pub first: Buffer,
    pub second: Buffer,
    /// The gradient, the loss, the wish to stop.
    pub gradient: Buffer,
    pub pooled1: Buffer,
    pub winner1: Buffer,
    pub pooled2: Buffer,
    pub winner2: Buffer,
    pub partial: Buffer,
    pub hidden: Buffer,
    pub hidden_grad: Buffer,
    pub logits_grad: Buffer,
    pub losses: Buffer,
    pub pooled2_grad: Buffer,
    pub partial0: Buffer,
    pub partial3: Buffer,
    pub correct: Buffer,
}

impl GpuNetwork {
    /// For batches of up to `batch` samples.
    pub fn new(gpu: Gpu, precision: Precision, batch: u32) -> Result<Self, CudaError> {
        let stream = &gpu.stream;
        let rows = batch.next_multiple_of(TILE);
        let all = rows as usize;
        let floats = |len| Buffer::zeros(stream, len, 4);
        let bytes = |len| Buffer::zeros(stream, len, 1);
        let operands = |len| precision.operands(stream, len);
        let mut network = Self {
            kernels: gpu.kernels(precision)?,
            batch,
            rows,
            grey: floats(256)?,
            parameters: floats(PARAMETERS)?,
            first: floats(PARAMETERS)?,
            second: floats(PARAMETERS)?,
            gradient: floats(PARAMETERS + 2)?,
            pooled1: operands(all * POOLED1)?,
            winner1: bytes(all * POOLED1)?,
            pooled2: operands(all * POOLED2)?,
            winner2: bytes(all * POOLED2)?,
            partial: floats((splits(rows).0 * rows) as usize * HIDDEN)?,
            hidden: floats(all * HIDDEN)?,
            hidden_grad: operands(all * HIDDEN)?,
            logits_grad: floats(all * CLASSES)?,
            losses: floats(all)?,
            pooled2_grad: operands(all * POOLED2)?,
            partial0: floats(groups(batch).0 as usize * FIRST)?,
            partial3: floats(groups(batch).1 as usize * (CONVOLUTIONS - FIRST))?,
            correct: floats(1)?,
            gpu,
        };
        network.grey.write_floats(&network.gpu.stream, &crate::mnist::network::grey())?;
        Ok(network)
    }

    /// The forward pass over the next batch, and its loss. `count` adds up the digits recognised.
    pub fn forward(&self, data: &Data, count: bool) -> [Launch<'_>; 3] {
        let Self { kernels, batch, rows, .. } = self;
        let (splits, chunks) = splits(*rows);
        let [control, order] = [&data.control, &data.order].map(Buffer::address);
        let correct = if count { self.correct.address() } else { 0 };
        [
            kernels.conv_forward.launch(
                ((*batch).min(264), 2, 1),
                vec![
                    control,
                    order,
                    data.images.address(),
                    self.grey.address(),
                    self.parameters.address(),
                    self.pooled1.address(),
                    self.winner1.address(),
                    self.pooled2.address(),
                    self.winner2.address(),
                    u64::from(*batch),
                ],
            ),
            kernels.dense_forward.launch(
                (splits, 2, rows / TILE),
                vec![
                    self.pooled2.address(),
                    self.parameters.address(),
                    self.partial.address(),
                    u64::from(*rows),
                    u64::from(chunks),
                ],
            ),
            kernels.head.launch(
                (*rows, 1, 1),
                vec![
                    control,
                    order,
                    data.labels.address(),
                    self.parameters.address(),
                    self.partial.address(),
                    u64::from(splits),
                    self.hidden.address(),
                    self.hidden_grad.address(),
                    self.logits_grad.address(),
                    self.losses.address(),
                    correct,
                    u64::from(*batch),
                ],
            ),
        ]
    }

    /// Everything of the dense layers' gradient, with loss and wish to stop.
    pub fn dense_backward(&self, data: &Data, post: &Post) -> Launch<'_> {
        let grid = CHUNKS + (CLASSES as u32 + 2) + CHUNKS * (self.rows / TILE);
        self.kernels.dense_backward.launch(
            (grid, 1, 1),
            vec![
                data.control.address(),
                post.stop.address(),
                self.parameters.address(),
                self.pooled2.address(),
                self.hidden.address(),
                self.hidden_grad.address(),
                self.logits_grad.address(),
                self.losses.address(),
                self.gradient.address(),
                self.pooled2_grad.address(),
                u64::from(self.rows),
            ],
        )
    }

    /// The convolutions' gradient, in parts.
    pub fn conv_backward(&self, data: &Data) -> Launch<'_> {
        let (groups0, groups3) = groups(self.batch);
        self.kernels.conv_backward.launch(
            (3 * groups3 + 2 * groups0, 1, 1),
            vec![
                data.control.address(),
                data.order.address(),
                data.images.address(),
                self.grey.address(),
                self.parameters.address(),
                self.pooled1.address(),
                self.winner1.address(),
                self.winner2.address(),
                self.pooled2_grad.address(),
                self.partial0.address(),
                self.partial3.address(),
                u64::from(self.batch),
                u64::from(groups0),
                u64::from(groups3),
            ],
        )
    }

    /// The parts added up into the gradient.
    pub fn conv_gradient(&self) -> Launch<'_> {
        let (groups0, groups3) = groups(self.batch);
        self.kernels.conv_gradient.launch(
            ((CONVOLUTIONS as u32).div_ceil(256), 1, 1),
            vec![
                self.gradient.address(),
                self.partial0.address(),
                self.partial3.address(),
                u64::from(groups0),
                u64::from(groups3),
            ],
        )
    }

    /// The update, by the mean over `ranks`; the step is counted and told. A `whole` gradient has the
    /// convolutions' parts in it.
    pub fn adam(&self, data: &Data, post: &Post, ranks: u32, whole: bool) -> Launch<'_> {
        let (groups0, groups3) = if whole { (0, 0) } else { groups(self.batch) };
        let share = 1.0 / f64::from(ranks);
        self.kernels.adam.launch(
            ((PARAMETERS as u32).div_ceil(256), 1, 1),
            vec![
                data.control.address(),
                self.parameters.address(),
                self.first.address(),
                self.second.address(),
                self.gradient.address(),
                self.partial0.address(),
                self.partial3.address(),
                u64::from(groups0),
                u64::from(groups3),
                u64::from((share as f32).to_bits()),
                post.posted.address(),
                post.losses.address(),
            ],
        )
    }
}

/// Parts of the first dense layer's inputs, and chunks in each: many for a small batch, which has
/// few other blocks; few for a large one, as each costs memory traffic.
fn splits(rows: u32) -> (u32, u32) {
    if rows <= 2 * TILE { (CHUNKS, 1) } else { (CHUNKS / 7, 7) }
}

/// Groups of samples that the gradients of the first and of the second convolution are added up in:
/// enough to fill a large GPU, and by the batch alone, so that sums have the same bits on any.
fn groups(batch: u32) -> (u32, u32) {
    (batch.min(64), (batch / 2).clamp(1, 32))
}
