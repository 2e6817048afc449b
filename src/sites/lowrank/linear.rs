//! `y += (x·A)·B` on rows, or on `[outer, channels, inner]` when the channel axis is not the last.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};

#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub outer: usize,
    pub input: usize,
    pub output: usize,
    pub inner: usize,
    pub rank: usize,
}

impl Dims {
    /// Number of independent products, and rows of each.
    fn batches(self) -> (usize, usize) {
        if self.inner == 1 { (1, self.outer) } else { (self.outer, self.inner) }
    }
    /// Block `i` of `data`, seen as `[rows, channels]`.
    fn rows<'a>(self, data: &'a [f32], i: usize, channels: usize) -> ArrayView2<'a, f32> {
        let (_, rows) = self.batches();
        let block = &data[i * rows * channels..(i + 1) * rows * channels];
        if self.inner == 1 { mat(block, rows, channels) } else { mat(block, channels, rows).reversed_axes() }
    }
    fn rows_mut<'a>(self, data: &'a mut [f32], i: usize, channels: usize) -> ArrayViewMut2<'a, f32> {
        let (_, rows) = self.batches();
        let block = &mut data[i * rows * channels..(i + 1) * rows * channels];
        if self.inner == 1 { mat_mut(block, rows, channels) } else { mat_mut(block, channels, rows).reversed_axes() }
    }
}

pub(super) fn forward(d: Dims, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (batches, rows) = d.batches();
    let mut t = vec![0f32; batches * rows * d.rank];
    let (a, b) = (mat(a, d.input, d.rank), mat(b, d.rank, d.output));
    for i in 0..batches {
        let mut ti = mat_mut(&mut t[i * rows * d.rank..(i + 1) * rows * d.rank], rows, d.rank);
        gemm(1.0, d.rows(x, i, d.input), a, 0.0, ti.view_mut());
        gemm(1.0, ti.view(), b, 1.0, d.rows_mut(y, i, d.output));
    }
    t
}

/// `dt = dy·Bᵀ`, `dB = tᵀ·dy`, `dA = xᵀ·dt`, `dx += dt·Aᵀ`.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    d: Dims,
    need_a: bool,
    x: &[f32],
    t: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let (batches, rows) = d.batches();
    let (a, b) = (mat(a, d.input, d.rank), mat(b, d.rank, d.output));
    let mut da = vec![0f32; d.input * d.rank];
    let mut db = vec![0f32; d.rank * d.output];
    let mut dt = vec![0f32; rows * d.rank];
    for i in 0..batches {
        let dyi = d.rows(dy, i, d.output);
        let ti = mat(&t[i * rows * d.rank..(i + 1) * rows * d.rank], rows, d.rank);
        gemm(1.0, dyi, b.t(), 0.0, mat_mut(&mut dt, rows, d.rank));
        gemm(1.0, ti.t(), dyi, 1.0, mat_mut(&mut db, d.rank, d.output));
        if need_a {
            gemm(1.0, d.rows(x, i, d.input).t(), mat(&dt, rows, d.rank), 1.0, mat_mut(&mut da, d.input, d.rank));
        }
        if let Some(dx) = &mut dx {
            gemm(1.0, mat(&dt, rows, d.rank), a.t(), 1.0, d.rows_mut(dx, i, d.input));
        }
    }
    Gradients { a: da, b: db }
}
