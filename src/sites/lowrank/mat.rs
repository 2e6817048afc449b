//! Matrix views over the slices of a low-rank product, whose lengths follow from its [`Geometry`](super::Geometry).
//!
//! The views panic on a length that contradicts the geometry: a fault of this module, met inside a guarded plan run.

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::linalg::{self, MatMut, MatRef};

/// `data` as a row-major `[rows, cols]` matrix.
pub(super) fn mat(data: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), data).expect("a slice of the geometry's length")
}

/// Mutable [`mat`].
pub(super) fn mat_mut(data: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), data).expect("a slice of the geometry's length")
}

/// `c ← alpha·a·b + beta·c`.
pub(super) fn gemm(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    let mut product = || linalg::gemm(alpha, MatRef::of(&a)?, MatRef::of(&b)?, beta, MatMut::of(&mut c)?);
    product().expect("shapes that follow from one geometry");
}

/// Rows and columns of a matrix, from `at` on with rows `stride` apart.
pub(super) fn part(data: &[f32], at: usize, rows: usize, cols: usize, stride: usize) -> MatRef<'_> {
    MatRef::new(&data[at..], rows, cols, stride, 1).expect("a part of a matrix of the geometry")
}

/// Mutable [`part`].
pub(super) fn part_mut(data: &mut [f32], at: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'_> {
    MatMut::new(&mut data[at..], rows, cols, stride, 1).expect("a part of a matrix of the geometry")
}

/// `c ← a·b + beta·c`.
pub(super) fn product(a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    linalg::gemm(1.0, a, b, beta, c).expect("shapes that follow from one geometry");
}
