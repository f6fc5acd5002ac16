//! How the operands of a model's products are kept.

/// What an operand is rounded to, once it is made; sums, parameters and the optimiser always have 32
/// bits. A CPU rounds as the GPU does, so that both make the same of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Not rounded. On a GPU three TF32 products of split operands, about 22 of the 24 bits.
    Fp32,
    /// 10 bits of fraction.
    #[default]
    Tf32,
    /// 7 bits of fraction; a GPU keeps activations and their gradients so as well.
    Bf16,
}

impl Precision {
    /// Bytes of an operand in a GPU's memory.
    pub fn bytes(self) -> usize {
        if self == Self::Bf16 { 2 } else { 4 }
    }

    /// The nearest number that an operand can be. Between two, TF32 takes the larger and bf16 the even
    /// one, as the GPU's instructions do.
    pub fn round(self, x: f32) -> f32 {
        let bits = x.to_bits();
        match self {
            Self::Fp32 => x,
            Self::Tf32 => f32::from_bits(bits.wrapping_add(0x1000) & !0x1fff),
            Self::Bf16 => f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & !0xffff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Precision::{Bf16, Fp32, Tf32};

    #[test]
    fn operands_are_rounded_to_the_nearest() {
        let step = |bits: i32| 2f32.powi(-bits);
        assert_eq!(Fp32.round(1.0 + step(23)), 1.0 + step(23));
        assert_eq!(Tf32.round(1.0 + step(11) - step(23)), 1.0);
        assert_eq!(Tf32.round(-1.0 - step(11)), -1.0 - step(10), "half way: away from zero");
        assert_eq!(Bf16.round(1.0 + step(8)), 1.0, "half way: to the even one");
        assert_eq!(Bf16.round(-1.0 - 3.0 * step(8)), -1.0 - step(6));
        for precision in [Fp32, Tf32, Bf16] {
            assert_eq!(precision.round(0.0).to_bits(), 0);
            assert_eq!(precision.round(f32::INFINITY), f32::INFINITY);
        }
    }
}
