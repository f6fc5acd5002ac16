//! Matrix product over checked views.

use crate::Real;

/// A view of a dense matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major view; panics if `data` is not `rows * columns` long.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a {rows}x{columns} matrix");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `c = a b + beta c`, with `c` row-major.
pub fn gemm<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>, beta: T, c: &mut [T]) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(c.len(), a.rows * b.columns, "output size");
    let strides = |m: &Matrix<'_, T>| (m.data.as_ptr(), m.row_stride as isize, m.column_stride as isize);
    // SAFETY: a `Matrix` is only made over exactly rows * columns elements, and transposing swaps
    // sizes with strides; c's length was checked and, being `&mut`, it overlaps neither input.
    unsafe {
        T::gemm(
            a.rows,
            a.columns,
            b.columns,
            T::one(),
            strides(&a),
            strides(&b),
            beta,
            (c.as_mut_ptr(), b.columns as isize, 1),
        );
    }
}
