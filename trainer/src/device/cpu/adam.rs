//! Adam (Kingma & Ba 2015) as PyTorch's default computes it: no weight decay, no AMSGrad.

use crate::Real;

/// Hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// One update in place; `step` counts from 1.
pub fn adam<T: Real>(
    adam: Adam,
    step: u64,
    parameters: &mut [T],
    gradient: &[T],
    first: &mut [T],
    second: &mut [T],
) {
    // Beyond 2^31 steps both corrections have long been exactly 1.
    let step = i32::try_from(step).unwrap_or(i32::MAX);
    let rate = T::of(adam.learning_rate / (1.0 - adam.beta1.powi(step)));
    let root = T::of((1.0 - adam.beta2.powi(step)).sqrt());
    let (b1, b2, epsilon) = (T::of(adam.beta1), T::of(adam.beta2), T::of(adam.epsilon));
    let (c1, c2) = (T::one() - b1, T::one() - b2);
    let moments = first.iter_mut().zip(second);
    for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
        *m = *m * b1 + g * c1;
        *v = *v * b2 + g * g * c2;
        *p -= rate * *m / (v.sqrt() / root + epsilon);
    }
}
