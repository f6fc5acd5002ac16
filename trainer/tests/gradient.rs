//! The backward pass, against finite differences.

use convoke_trainer::device::Precision;
use convoke_trainer::mnist::model::{TENSORS, initial, views};
use convoke_trainer::mnist::network::{Network, PIXELS};

/// Values in -1..1 that look random and are the same each time.
fn noise(n: usize) -> Vec<f64> {
    let mut state = 12345u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn the_gradient_of_every_tensor_agrees_with_finite_differences() {
    let labels = [3u8, 7];
    let mut parameters: Vec<f64> = initial(7);
    let mut network = Network::<f64>::new(labels.len());
    network.input(labels.len()).copy_from_slice(&noise(labels.len() * PIXELS));
    let mut gradient = vec![0.0; parameters.len()];
    network.gradient(&parameters, &labels, &mut gradient);

    let mut unused = vec![0.0; parameters.len()];
    let mut start = 0;
    for tensor in &TENSORS {
        // A few places over the whole tensor, first and last among them.
        let count = tensor.len().min(12);
        for i in 0..count {
            let at = start + i * (tensor.len() - 1) / (count - 1).max(1);
            let h = 1e-5;
            let value = parameters[at];
            parameters[at] = value + h;
            let above = network.gradient(&parameters, &labels, &mut unused);
            parameters[at] = value - h;
            let below = network.gradient(&parameters, &labels, &mut unused);
            parameters[at] = value;
            let (numeric, analytic) = ((above - below) / (2.0 * h), gradient[at]);
            assert!(
                (numeric - analytic).abs() <= 1e-7 + 1e-5 * numeric.abs(),
                "{} at {}: backward {analytic}, finite difference {numeric}",
                tensor.name,
                at - start
            );
        }
        let norm = gradient[start..start + tensor.len()].iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "{} has no gradient: this test would pass on zeros", tensor.name);
        start += tensor.len();
    }
    assert_eq!(start, parameters.len());
}

/// What the GPU's kernels are compared with: it is to differ from the exact gradient by the rounding, and
/// by no more.
#[test]
fn rounded_operands_move_the_gradient_by_their_rounding() {
    let labels: Vec<u8> = (0..16).map(|i| i % 10).collect();
    let parameters: Vec<f32> = initial(7);
    let input: Vec<f32> = noise(labels.len() * PIXELS).iter().map(|x| *x as f32).collect();
    let gradient = |mut network: Network<f32>| {
        network.input(labels.len()).copy_from_slice(&input);
        let mut gradient = vec![0.0; parameters.len()];
        network.gradient(&parameters, &labels, &mut gradient);
        gradient
    };
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let exact = gradient(Network::new(labels.len()));
    let tf32 = gradient(Network::new(labels.len()).rounding(|x| Precision::Tf32.round(x)));
    let bf16 = gradient(Network::new(labels.len()).rounding(|x| Precision::Bf16.round(x)));
    for (i, tensor) in TENSORS.iter().enumerate() {
        let off = |rounded: &[f32]| {
            let (rounded, exact) = (views(rounded)[i], views(&exact)[i]);
            norm(&mut rounded.iter().zip(exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied())
        };
        let (tf32, bf16) = (off(&tf32), off(&bf16));
        // A hidden unit or a window's winner that falls the other way is some percent in so small a batch.
        assert!(1e-6 < tf32 && tf32 < 0.06, "{}: {tf32}", tensor.name);
        assert!(1e-4 < bf16 && bf16 < 0.2, "{}: {bf16}", tensor.name);
    }
}
