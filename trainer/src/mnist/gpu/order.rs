//! PyTorch's order of the parameters, and the device's, in which channels lie innermost: each row of
//! such a weight is a small matrix, transposed.

use crate::mnist::model::{PARAMETERS, TENSORS};

/// Weights whose rows differ: index in [`TENSORS`], and the shape of a row in PyTorch's order.
const TRANSPOSED: [(usize, usize, usize); 2] = [(2, 32, 9), (4, 64, 49)];

pub(super) fn to_device(parameters: &[f32]) -> Vec<f32> {
    let mut flat = parameters.to_vec();
    TRANSPOSED.iter().for_each(|&(tensor, rows, columns)| transpose(&mut flat, tensor, rows, columns));
    flat
}

pub(super) fn from_device(mut flat: Vec<f32>) -> Vec<f32> {
    TRANSPOSED.iter().for_each(|&(tensor, rows, columns)| transpose(&mut flat, tensor, columns, rows));
    flat.truncate(PARAMETERS);
    flat
}

fn transpose(flat: &mut [f32], tensor: usize, rows: usize, columns: usize) {
    let begin: usize = TENSORS[..tensor].iter().map(super::super::model::Tensor::len).sum();
    let mut row = vec![0.0; rows * columns];
    for matrix in flat[begin..][..TENSORS[tensor].len()].chunks_exact_mut(rows * columns) {
        for (i, x) in matrix.iter().enumerate() {
            row[i % columns * rows + i / columns] = *x;
        }
        matrix.copy_from_slice(&row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_order_has_channels_innermost_and_leads_back() {
        let flat: Vec<f32> = (0..PARAMETERS).map(|i| i as f32).collect();
        let device = to_device(&flat);
        // 3.weight[5][7][2][1], and 7.weight[3][c * 49 + p] with c = 60, p = 48.
        assert_eq!(device[320 + (5 * 9 + 7) * 32 + 7], flat[320 + (5 * 32 + 7) * 9 + 7]);
        assert_eq!(device[18_816 + 3 * 3136 + 48 * 64 + 60], flat[18_816 + 3 * 3136 + 60 * 49 + 48]);
        assert_eq!(from_device(device), flat);
    }
}
