//! Softmax cross entropy, averaged over the batch.

use crate::Real;

/// The mean loss; overwrites `logits` (`labels.len()` rows) with its gradient.
pub fn cross_entropy<T: Real>(logits: &mut [T], labels: &[u8]) -> T {
    let classes = logits.len() / labels.len();
    let scale = T::one() / T::of(labels.len() as f64);
    let mut loss = T::zero();
    for (row, &label) in logits.chunks_exact_mut(classes).zip(labels) {
        let top = row.iter().fold(T::neg_infinity(), |m, &x| m.max(x));
        let target = row[usize::from(label)] - top;
        let mut sum = T::zero();
        for x in row.iter_mut() {
            *x = (*x - top).exp();
            sum += *x;
        }
        loss += sum.ln() - target;
        for x in row.iter_mut() {
            *x = *x / sum * scale;
        }
        row[usize::from(label)] -= scale;
    }
    loss * scale
}

/// The first place of the greatest value; a NaN is never it.
pub fn argmax<T: Real>(row: &[T]) -> usize {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] {
            best = i;
        }
    }
    best
}
