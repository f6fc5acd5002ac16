//! The model's tensors: names, shapes and places in one flat buffer, and how they start.
//!
//! Names are those of PyTorch's `state_dict` for the same `nn.Sequential`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::Real;

/// A named tensor of the flat parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    pub name: &'static str,
    pub shape: &'static [usize],
    /// Inputs of one output value; sets the scale of the initial values.
    fan_in: usize,
}

impl Tensor {
    const fn new(name: &'static str, shape: &'static [usize], fan_in: usize) -> Self {
        Self { name, shape, fan_in }
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        let (mut product, mut i) = (1, 0);
        while i < self.shape.len() {
            product *= self.shape[i];
            i += 1;
        }
        product
    }

    /// Never: no shape has a zero.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters, in the order of the flat buffer.
pub const TENSORS: [Tensor; 8] = [
    Tensor::new("0.weight", &[32, 1, 3, 3], 9),
    Tensor::new("0.bias", &[32], 9),
    Tensor::new("3.weight", &[64, 32, 3, 3], 288),
    Tensor::new("3.bias", &[64], 288),
    Tensor::new("7.weight", &[128, 3136], 3136),
    Tensor::new("7.bias", &[128], 3136),
    Tensor::new("9.weight", &[10, 128], 128),
    Tensor::new("9.bias", &[10], 128),
];

/// Length of the flat buffer.
pub const PARAMETERS: usize = {
    let (mut sum, mut i) = (0, 0);
    while i < TENSORS.len() {
        sum += TENSORS[i].len();
        i += 1;
    }
    sum
};

/// Splits a flat buffer of [`PARAMETERS`] values into [`TENSORS`].
pub fn views<T>(mut flat: &[T]) -> [&[T]; 8] {
    TENSORS.each_ref().map(|tensor| {
        let (head, tail) = flat.split_at(tensor.len());
        flat = tail;
        head
    })
}

/// As [`views`], to write.
pub fn views_mut<T>(mut flat: &mut [T]) -> [&mut [T]; 8] {
    TENSORS.each_ref().map(|tensor| {
        let (head, tail) = std::mem::take(&mut flat).split_at_mut(tensor.len());
        flat = tail;
        head
    })
}

/// PyTorch's default start for these layers: weights and biases uniform in `±1/sqrt(fan_in)`
/// (Kaiming uniform with a = sqrt 5). The same seed gives the same values everywhere.
pub fn initial<T: Real>(seed: u64) -> Vec<T> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let tensors = TENSORS.iter().flat_map(|t| std::iter::repeat_n(1.0 / (t.fan_in as f64).sqrt(), t.len()));
    tensors.map(|bound| T::of((2.0 * uniform() - 1.0) * bound)).collect()
}
