//! Depthwise convolutions (one input channel a group): `ΔW = B·A` is tiny, so the delta kernel is formed and applied as
//! one more depthwise convolution, and its gradient is projected back on `A` and `B`.

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};
use crate::ops::depthwise::Planes;
use crate::ops::im2col::ConvShape;

fn delta(s: &ConvShape, rank: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut dw = vec![0f32; s.output * s.taps()];
    add_delta(s, rank, a, b, &mut dw);
    dw
}

/// `w += B·A`.
pub(super) fn add_delta(s: &ConvShape, rank: usize, a: &[f32], b: &[f32], w: &mut [f32]) {
    gemm(1.0, mat(b, s.output, rank), mat(a, rank, s.taps()), 1.0, mat_mut(w, s.output, s.taps()));
}

/// The planes of the convolution; its depth axis is 1, else it is no depthwise site (see [`ConvShape::is_depthwise`]).
fn planes(s: &ConvShape) -> Planes {
    let two = |[_, h, w]: [usize; 3]| [h, w];
    Planes {
        input: two(s.in_size),
        output: two(s.out_size),
        kernel: two(s.kernel),
        stride: two(s.stride),
        dilation: two(s.dilation),
        pad_before: two(s.pad_before),
    }
}

/// `(plane of x, plane of y, output channel)` of every plane.
fn each_plane(s: &ConvShape) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
    let (input, output, co) = (s.input, s.output, s.group_out());
    (0..s.batch).flat_map(move |n| (0..output).map(move |o| (n * input + o / co, n * output + o, o)))
}

pub(super) fn forward((s, rank): (&ConvShape, usize), x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    let (dw, mut work) = (delta(s, rank, a, b), planes(s).workspace());
    for (from, to, o) in each_plane(s) {
        work.forward(&x[from * ip..][..ip], &dw[o * taps..][..taps], &mut y[to * op..][..op]);
    }
    vec![0.0]
}

/// `dΔW[o, tap] = Σ dy[o, q]·x[g, p(q, tap)]`, `dB = dΔW·Aᵀ`, `dA = Bᵀ·dΔW`, `dx` by the same taps transposed.
pub(super) fn backward(
    (s, rank): (&ConvShape, usize),
    x: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    kernel: Option<&[f32]>,
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    let mut weight = kernel.map_or_else(|| vec![0f32; s.output * taps], <[f32]>::to_vec);
    add_delta(s, rank, a, b, &mut weight);
    let (mut ddw, mut work) = (vec![0f32; weight.len()], planes(s).workspace());
    for (from, to, o) in each_plane(s) {
        let (w, ddw) = (&weight[o * taps..][..taps], &mut ddw[o * taps..][..taps]);
        let dx = dx.as_deref_mut().map(|dx| &mut dx[from * ip..][..ip]);
        work.backward(&x[from * ip..][..ip], w, &dy[to * op..][..op], ddw, dx);
    }
    let (mut da, mut db) = (vec![0f32; a.len()], vec![0f32; b.len()]);
    let ddw = mat(&ddw, s.output, taps);
    gemm(1.0, ddw, mat(a, rank, taps).t(), 0.0, mat_mut(&mut db, s.output, rank));
    gemm(1.0, mat(b, s.output, rank).t(), ddw, 0.0, mat_mut(&mut da, rank, taps));
    Gradients { a: da, b: db }
}
