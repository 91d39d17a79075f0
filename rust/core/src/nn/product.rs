//! Products of matrices, by the `gemm` crate, whose interface is made of pointers.
//!
//! The only file of this crate with `unsafe` in it.
#![allow(unsafe_code)]

use gemm::Parallelism;

/// A matrix in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// How many numbers from the first to the last one of a matrix.
fn span(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    match (rows, columns) {
        (0, _) | (_, 0) => 0,
        _ => (rows - 1) * row_stride + (columns - 1) * column_stride + 1,
    }
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` numbers, each `row_stride` after the one before.
    ///
    /// # Panics
    /// If the slice is too short.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(data.len() >= span(rows, columns, row_stride, 1));
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns it has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The columns of this matrix and the rows of `other` that belong together, `size` at a time:
    /// the sum of the products of all pairs is the product.
    pub fn blocks(self, other: Self, size: usize) -> impl Iterator<Item = (Self, Self)> {
        let size = size.max(1);
        (0..self.columns).step_by(size).map(move |start| {
            let count = size.min(self.columns - start);
            let (left, right) = (
                &self.data[start * self.column_stride..],
                &other.data[start * other.row_stride..],
            );
            (
                Self {
                    data: left,
                    columns: count,
                    ..self
                },
                Self {
                    data: right,
                    rows: count,
                    ..other
                },
            )
        })
    }

    /// The same numbers, rows as columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `a b`, or with `add` that and what is there already, to rows that lie `stride` apart.
///
/// The order of the sums depends on the shapes alone.
///
/// # Panics
/// If the shapes do not fit or `out` is too short.
pub fn multiply(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], stride: usize, add: bool) {
    assert_eq!(a.columns, b.rows);
    assert!(stride >= b.columns && out.len() >= span(a.rows, b.columns, stride, 1));
    // No slice is longer than isize::MAX bytes, so that no stride inside one is.
    let signed = |stride: usize| stride.cast_signed();
    // SAFETY: `Matrix::new` and the lines above have checked that all elements of the three
    // matrices are inside their slices; `out` is borrowed for this alone, and its rows do not
    // overlap.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            signed(stride),
            add,
            a.data.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.data.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_matrices() {
        // [[1, 2], [3, 4], [5, 6]] with a number between the rows, times [[1, 0, 2], [0, 1, 3]].
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 3.0];
        let (a, b) = (Matrix::new(&a, 3, 2, 3), Matrix::new(&b, 2, 3, 3));
        let mut out = [7.0; 12];
        multiply(a, b, &mut out, 4, false);
        assert_eq!(
            out,
            [1.0, 2.0, 8.0, 7.0, 3.0, 4.0, 18.0, 7.0, 5.0, 6.0, 28.0, 7.0]
        );
        let mut transposed = [1.0; 9];
        multiply(b.transposed(), a.transposed(), &mut transposed, 3, true);
        assert_eq!(transposed, [2.0, 4.0, 6.0, 3.0, 5.0, 7.0, 9.0, 19.0, 29.0]);
    }

    #[test]
    fn a_product_in_blocks() {
        // [[1, 2, 3], [4, 5, 6]] times the column (1, 10, 100).
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 10.0, 100.0]);
        let (a, b) = (Matrix::new(&a, 2, 3, 3), Matrix::new(&b, 3, 1, 1));
        for size in [1, 2, 3, 4] {
            let mut out = [0.0; 2];
            for (a, b) in a.blocks(b, size) {
                multiply(a, b, &mut out, 1, true);
            }
            assert_eq!(out, [321.0, 654.0]);
        }
    }

    #[test]
    #[should_panic(expected = "out.len()")]
    fn a_slice_that_is_too_short_is_refused() {
        let a = [1.0; 4];
        let a = Matrix::new(&a, 2, 2, 2);
        multiply(a, a, &mut [0.0; 3], 2, false);
    }
}
