//! Random input, and comparing with the CPU.

use convoke_trainer::device::Precision;
use convoke_trainer::device::cuda::{Buffer, Gpu, HostWords};
use convoke_trainer::mnist::Digits;
use convoke_trainer::mnist::gpu::{Data, GpuNetwork, Post};
use convoke_trainer::mnist::network::PIXELS;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Numbers that are the same each time.
pub(crate) struct Noise(ChaCha8Rng);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in -1..1.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (f64::from(self.0.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0) as f32).collect()
    }

    pub(crate) fn bytes(&mut self, len: usize, below: u32) -> Vec<u8> {
        (0..len).map(|_| (self.0.next_u32() % below) as u8).collect()
    }

    pub(crate) fn digits(&mut self, len: usize) -> Digits {
        Digits { images: self.bytes(len * PIXELS, 256), labels: self.bytes(len, 10) }
    }
}

/// Fails where `got` is further from `want` than the precision allows, as a part of its norm.
pub(crate) fn assert_close(precision: Precision, what: &str, got: &[f32], want: &[f32]) {
    let tolerance = match precision {
        Precision::Fp32 => 1e-5,
        Precision::Tf32 => 2e-3,
        Precision::Bf16 => 1.5e-2,
    };
    assert_within(tolerance, what, got, want);
}

/// As [`assert_close`], with the part of the norm that is allowed.
pub(crate) fn assert_within(tolerance: f64, what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let size = norm(&mut want.iter().copied());
    assert!(size > 1e-4, "{what}: {size} proves nothing");
    let error = norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / size;
    // A NaN is not close.
    assert!(error <= tolerance, "{what}: off by {error:.2e} of its norm, {tolerance:.0e} is allowed");
}

/// From the device's order, channels innermost, to the CPU's.
pub(crate) fn planes<T: Copy + Default>(values: &[T], pixels: usize, channels: usize) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    for (from, to) in values.chunks_exact(pixels * channels).zip(out.chunks_exact_mut(pixels * channels)) {
        for (i, x) in from.iter().enumerate() {
            to[i % channels * pixels + i / channels] = *x;
        }
    }
    out
}

/// A network with random parameters, in the device's order, and a data set whose batch `place` is next.
pub(crate) struct Bench {
    precision: Precision,
    pub(crate) network: GpuNetwork,
    pub(crate) data: Data,
    pub(crate) post: Post,
    pub(crate) digits: Digits,
    pub(crate) order: Vec<u32>,
    pub(crate) parameters: Vec<f32>,
    pub(crate) noise: Noise,
}

impl Bench {
    /// Of 200 samples; in the batch at `place`.
    pub(crate) fn new(precision: Precision, batch: u32, place: u32) -> Self {
        let gpu = Gpu::open(0).unwrap();
        let mut noise = Noise::new(u64::from(batch));
        let digits = noise.digits(200);
        let order: Vec<u32> = (0..200).map(|i| i * 37 % 200).collect();
        let words = |len| HostWords::zeros(&gpu.context, len).unwrap();
        let post = Post { stop: words(1), posted: words(2), losses: words(400) };
        let mut network = GpuNetwork::new(gpu, precision, batch).unwrap();
        let stream = network.gpu.stream.clone();
        let mut data = Data::upload(&stream, &digits).unwrap();
        data.set_order(&stream, &order).unwrap();
        data.set_place(&stream, place, 200, 0).unwrap();
        let parameters = convoke_trainer::mnist::model::initial(3);
        network.parameters.write_floats(&stream, &parameters).unwrap();
        Self { precision, network, data, post, digits, order, parameters, noise }
    }

    pub(crate) fn write(&mut self, buffer: fn(&mut GpuNetwork) -> &mut Buffer, values: &[f32]) {
        let stream = self.network.gpu.stream.clone();
        buffer(&mut self.network).write_floats(&stream, values).unwrap();
    }

    /// Random operands, rounded as the kernel leaves them that makes them.
    pub(crate) fn operands(&mut self, buffer: fn(&mut GpuNetwork) -> &mut Buffer, len: usize) -> Vec<f32> {
        let values: Vec<_> = self.noise.floats(len).iter().map(|x| self.precision.round(*x)).collect();
        self.write(buffer, &values);
        values
    }

    pub(crate) fn read(&self, buffer: &Buffer, len: usize) -> Vec<f32> {
        let mut values = buffer.read_floats(&self.network.gpu.stream).unwrap();
        values.truncate(len);
        values
    }

    pub(crate) fn bytes(&self, buffer: &Buffer, len: usize) -> Vec<u8> {
        let mut values = buffer.read(&self.network.gpu.stream).unwrap();
        values.truncate(len);
        values
    }

    pub(crate) fn run(&self, launch: &convoke_trainer::device::cuda::Launch<'_>) {
        // SAFETY: made by the network for its own buffers, which live on.
        unsafe { launch.queue(&self.network.gpu.stream) }.unwrap();
        self.network.gpu.wait().unwrap();
    }
}
