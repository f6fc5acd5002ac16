//! The backward pass, against finite differences.

use convoke_trainer::mnist::model::{TENSORS, initial};
use convoke_trainer::mnist::network::{CLASSES, Network, PIXELS};

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
    assert!((CLASSES as f64).ln() > 0.0);
}
