//! Depthwise convolutions (one input channel a group): `ΔW = B·A` is tiny, so the delta kernel is formed and applied as
//! one more depthwise convolution, and its gradient is projected back on `A` and `B`.

use std::convert::Infallible;

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};
use crate::ops::depthwise::{Block, BlockMut, Ends, Planes, kernels};
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
pub(super) fn planes(s: &ConvShape) -> Planes {
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

/// Values of a block's rows, before and behind the convolution, on one core.
pub(super) fn scratch(s: &ConvShape) -> usize {
    let rows = |axis: usize| s.kernel[axis] * s.dilation[axis] + 3;
    let widest = s.in_size[2].max(s.out_size[2] * s.stride[2]) + rows(2);
    2 * Planes::BLOCK * widest * (rows(1) + 1)
}

pub(super) fn forward((s, rank): (&ConvShape, usize), x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    let (dw, planes) = (delta(s, rank, a, b), planes(s));
    let (pass, each) = (planes.forward(), planes.at_once(s.batch * s.output));
    let Ok(()) = each_chunk(y, each * op, |part, y| {
        let mut room = pass.room();
        for (block, y) in y.chunks_mut(Planes::BLOCK * op).enumerate() {
            let (first, count) = (part * each + block * Planes::BLOCK, y.len() / op);
            let plane = |i: usize| ((first + i) / s.output, (first + i) % s.output);
            let x = Block::new(x, count, |i| (plane(i).0 * s.input + plane(i).1 / s.group_out()) * ip);
            let w = kernels(taps, count, |i| &dw[plane(i).1 * taps..][..taps]);
            pass.run(&mut room, x, &w, Ends::ADDED, BlockMut::new(y, op));
        }
        Ok::<(), Infallible>(())
    });
    vec![0.0]
}

/// Some groups, in every image.
struct Groups<'a> {
    first: usize,
    /// Gradient of the kernels, `[output channels of the groups, taps]`.
    ddw: &'a mut [f32],
    /// Gradient of the inputs, an image each; none where it is not asked for.
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
    let blocks = ddw.chunks_mut(Planes::BLOCK * co * taps).enumerate();
    let mut blocks: Vec<Groups> = blocks.map(|(i, ddw)| Groups { first: i * Planes::BLOCK, ddw, dx: vec![] }).collect();
    for image in dx.into_iter().flat_map(|dx| dx.chunks_exact_mut(s.input * ip)) {
        image.chunks_mut(Planes::BLOCK * ip).zip(&mut blocks).for_each(|(dx, block)| block.dx.push(dx));
    }
    let each = planes.at_once(s.batch * s.output).div_ceil((s.batch * co * Planes::BLOCK).max(1)).max(1);
    let mut jobs: Vec<Vec<Groups>> = vec![];
    while !blocks.is_empty() {
        jobs.push(blocks.drain(..each.min(blocks.len())).collect());
    }
    let (of_kernel, of_input) = (planes.kernel_gradient(), planes.input_gradient());
    // A kernel's gradient is summed over the images in order, by one thread.
    let Ok(()) = each_job(jobs, |blocks| {
        let (mut kernel_room, mut input_room) = (of_kernel.room(), of_input.room());
        for Groups { first, ddw, mut dx } in blocks {
            let count = ddw.len() / (co * taps);
            for j in 0..co {
                let channel = |i: usize| (first + i) * co + j;
                let w = kernels(taps, count, |i| &weight[channel(i) * taps..][..taps]);
                let mut sums = kernels(taps, 0, |_| &[]);
                for n in 0..s.batch {
                    let x = Block::new(x, count, |i| (n * s.input + first + i) * ip);
                    let dy = Block::new(dy, count, |i| (n * s.output + channel(i)) * op);
                    of_kernel.add(&mut kernel_room, x, dy, &mut sums);
                    if let Some(dx) = dx.get_mut(n) {
                        of_input.run(&mut input_room, dy, &w, Ends::ADDED, BlockMut::new(dx, ip));
                    }
                }
                for i in 0..count {
                    let ddw = &mut ddw[(i * co + j) * taps..][..taps];
                    ddw.iter_mut().zip(&sums).for_each(|(ddw, sum)| *ddw = sum.0[i]);
                }
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
