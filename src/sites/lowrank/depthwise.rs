//! Depthwise convolutions (one input channel a group): `ΔW = B·A` is tiny, so the delta kernel is formed and applied as
//! one more depthwise convolution, and its gradient is projected back on `A` and `B`.

use std::convert::Infallible;

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};
use crate::ops::depthwise::Planes;
use crate::ops::im2col::ConvShape;
use crate::sync::{each_chunk, each_job};

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

pub(super) fn forward((s, rank): (&ConvShape, usize), x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    let (dw, planes) = (delta(s, rank, a, b), planes(s));
    let each = planes.at_once(s.batch * s.output);
    let Ok(()) = each_chunk(y, each * op, |part, y| {
        let mut work = planes.workspace();
        for (i, y) in y.chunks_exact_mut(op).enumerate() {
            let (n, o) = ((part * each + i) / s.output, (part * each + i) % s.output);
            let from = n * s.input + o / s.group_out();
            work.forward(&x[from * ip..][..ip], &dw[o * taps..][..taps], y);
        }
        Ok::<(), Infallible>(())
    });
    vec![0.0]
}

/// The channels of a group, in every image.
struct Group<'a> {
    number: usize,
    /// Gradient of the kernel, `[output channels of the group, taps]`.
    ddw: &'a mut [f32],
    /// Gradient of the input, a plane an image; none where it is not asked for.
    dx: Vec<&'a mut [f32]>,
}

/// `dΔW[o, tap] = Σ dy[o, q]·x[g, p(q, tap)]`, `dB = dΔW·Aᵀ`, `dA = Bᵀ·dΔW`, `dx` by the same taps transposed.
pub(super) fn backward(
    (s, rank): (&ConvShape, usize),
    x: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    kernel: Option<&[f32]>,
    dx: Option<&mut [f32]>,
) -> Gradients {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    let mut weight = kernel.map_or_else(|| vec![0f32; s.output * taps], <[f32]>::to_vec);
    add_delta(s, rank, a, b, &mut weight);
    let (mut ddw, planes, co) = (vec![0f32; weight.len()], planes(s), s.group_out());
    let by_group = ddw.chunks_exact_mut(co * taps).enumerate();
    let mut groups: Vec<Group> = by_group.map(|(number, ddw)| Group { number, ddw, dx: vec![] }).collect();
    for (i, dx) in dx.into_iter().flat_map(|dx| dx.chunks_exact_mut(ip)).enumerate() {
        groups[i % s.input].dx.push(dx);
    }
    let each = planes.at_once(s.batch * co * groups.len()).div_ceil((s.batch * co).max(1));
    let mut jobs: Vec<Vec<Group>> = vec![];
    while !groups.is_empty() {
        jobs.push(groups.drain(..each.min(groups.len())).collect());
    }
    // A kernel's gradient is summed over the images in order, by one thread.
    let Ok(()) = each_job(jobs, |groups| {
        let mut work = planes.workspace();
        for Group { number, ddw, mut dx } in groups {
            for (n, o) in (0..s.batch).flat_map(|n| (0..co).map(move |o| (n, o))) {
                let (channel, ddw) = (number * co + o, &mut ddw[o * taps..][..taps]);
                let (x, dy) = (&x[(n * s.input + number) * ip..][..ip], &dy[(n * s.output + channel) * op..][..op]);
                work.backward(x, &weight[channel * taps..][..taps], dy, ddw, dx.get_mut(n).map(|dx| &mut **dx));
            }
        }
        Ok::<(), Infallible>(())
    });
    let (mut da, mut db) = (vec![0f32; a.len()], vec![0f32; b.len()]);
    let ddw = mat(&ddw, s.output, taps);
    gemm(1.0, ddw, mat(a, rank, taps).t(), 0.0, mat_mut(&mut db, s.output, rank));
    gemm(1.0, mat(b, s.output, rank).t(), ddw, 0.0, mat_mut(&mut da, rank, taps));
    Gradients { a: da, b: db }
}
