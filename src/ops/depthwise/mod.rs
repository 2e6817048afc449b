//! Depthwise convolutions, forward and backward, eight planes at a time.
//!
//! A register holds one position of eight planes, so planes of 7 × 7 fill registers as well as those of 112 × 112 do.
//! Values are turned from planes to positions as they are read ([`rows`]) and back as they are written ([`pass`]), a
//! few rows at a time, while they are in the first-level cache.

mod kernel;
mod pass;
mod rows;

pub(crate) use pass::Ends;

use crate::linalg::eight::{Aligned, LANES};
use crate::sync::parts;

/// Sizes of a depthwise convolution over rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Planes {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pad_before: [usize; 2],
}

/// Up to eight planes of one size.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    values: &'a [f32],
    /// Where each plane begins; behind the last one, where that one does.
    starts: [usize; LANES],
}

/// Up to eight planes of one size, one after the other.
pub(crate) struct BlockMut<'a> {
    values: &'a mut [f32],
    size: usize,
    count: usize,
}

impl<'a> Block<'a> {
    /// `count` planes, at least one, that begin at `start(i)`.
    pub fn new(values: &'a [f32], count: usize, start: impl Fn(usize) -> usize) -> Block<'a> {
        Block { values, starts: std::array::from_fn(|i| start(i.min(count - 1))) }
    }
}

impl<'a> BlockMut<'a> {
    /// All of `values`, in planes of `size`.
    pub fn new(values: &'a mut [f32], size: usize) -> BlockMut<'a> {
        let count = values.len() / size.max(1);
        BlockMut { values, size, count }
    }
}

/// Rows of a kernel, each with the row of a plane that it meets; both rise.
pub(super) type Reads = Vec<(usize, usize)>;

impl Planes {
    /// What every row of the output reads of the input.
    pub(super) fn reads(&self) -> Vec<Reads> {
        let row = |r: usize| {
            let read = |k: usize| {
                let row = (r * self.stride[0] + k * self.dilation[0]).checked_sub(self.pad_before[0])?;
                (row < self.input[0]).then_some((k, row))
            };
            (0..self.kernel[0]).filter_map(read).collect()
        };
        (0..self.output[0]).map(row).collect()
    }

    /// From the first row of the input that a row of the output may read to the last, both counted.
    pub(super) fn span(&self) -> usize {
        (self.kernel[0] - 1) * self.dilation[0] + 1
    }

    /// The convolution of `dy` that gives the gradient of the input, with the kernel's taps reversed; none where there
    /// is a stride.
    pub fn gradient_as_convolution(&self) -> Option<Planes> {
        let pad = |axis: usize| ((self.kernel[axis] - 1) * self.dilation[axis]).checked_sub(self.pad_before[axis]);
        let same = Planes { input: self.output, output: self.input, pad_before: [pad(0)?, pad(1)?], ..*self };
        (self.stride == [1, 1]).then_some(same)
    }

    /// Planes that are computed at a time.
    pub const BLOCK: usize = LANES;

    /// How many of `all` planes a core takes at once; whole blocks.
    pub fn at_once(&self, all: usize) -> usize {
        // Multiplications of some 10 µs. Tests share what is smaller, too.
        const PART: usize = if cfg!(test) { 1 << 8 } else { 1 << 16 };
        let size = |s: [usize; 2]| s[0] * s[1];
        let parts = parts(all * size(self.output) * size(self.kernel), PART);
        all.div_ceil(parts).max(1).next_multiple_of(Self::BLOCK)
    }
}

/// The kernels `[plane, taps]` of a block, tap by tap: `kernel(i)` is that of plane `i`.
pub(crate) fn kernels<'a>(taps: usize, count: usize, kernel: impl Fn(usize) -> &'a [f32]) -> Vec<Aligned> {
    let mut lanes = vec![Aligned::ZERO; taps];
    for plane in 0..count {
        lanes.iter_mut().zip(kernel(plane)).for_each(|(tap, w)| tap.0[plane] = *w);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 29 + seed * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect()
    }

    /// Calls `each(input, tap, output)` for every product of the convolution, by the definition.
    fn products(p: &Planes, mut each: impl FnMut(usize, usize, usize)) {
        for (oh, ow) in (0..p.output[0]).flat_map(|h| (0..p.output[1]).map(move |w| (h, w))) {
            for (kh, kw) in (0..p.kernel[0]).flat_map(|h| (0..p.kernel[1]).map(move |w| (h, w))) {
                let h = (oh * p.stride[0] + kh * p.dilation[0]).checked_sub(p.pad_before[0]);
                let w = (ow * p.stride[1] + kw * p.dilation[1]).checked_sub(p.pad_before[1]);
                if let (Some(h), Some(w)) = (h.filter(|h| *h < p.input[0]), w.filter(|w| *w < p.input[1])) {
                    each(h * p.input[1] + w, kh * p.kernel[1] + kw, oh * p.output[1] + ow);
                }
            }
        }
    }

    /// Two blocks of five planes.
    fn check(p: &Planes) {
        let size = |s: [usize; 2]| s[0] * s[1];
        let (ip, op, taps, planes) = (size(p.input), size(p.output), size(p.kernel), 2 * 5);
        let (x, w, dy) = (noise(planes * ip, 0), noise(planes * taps, 3), noise(planes * op, 5));
        let mut want_y = vec![0.5; dy.len()];
        let (mut want_dw, mut want_dx) = (vec![0.0; w.len()], vec![0.25; x.len()]);
        for plane in 0..planes {
            products(p, |i, t, o| {
                want_y[plane * op + o] += w[plane * taps + t] * x[plane * ip + i];
                want_dw[plane * taps + t] += dy[plane * op + o] * x[plane * ip + i];
                want_dx[plane * ip + i] += w[plane * taps + t] * dy[plane * op + o];
            });
        }
        let same = |have: &[f32], want: &[f32], what: &str| {
            for (i, (h, w)) in have.iter().zip(want).enumerate() {
                assert!((h - w).abs() < 1e-3, "{what} of {p:?} at {i}: {h} != {w}");
            }
        };
        let (forward, of_input, of_kernel) = (p.forward(), p.input_gradient(), p.kernel_gradient());
        // The same room serves block after block.
        let mut rooms = (forward.room(), of_input.room(), of_kernel.room());
        let (mut y, mut clipped) = (vec![7.0; dy.len()], vec![7.0; dy.len()]);
        let (mut dw, mut dx) = (vec![0.0; w.len()], vec![0.25; x.len()]);
        for (first, count) in [(0, 5), (5, 5)] {
            let x = Block::new(&x, count, |i| (first + i) * ip);
            let dy = Block::new(&dy, count, |i| (first + i) * op);
            let w = kernels(taps, count, |i| &w[(first + i) * taps..][..taps]);
            let ends = Ends { start: [0.5; LANES], clip: None, add: false };
            forward.run(&mut rooms.0, x, &w, ends, BlockMut::new(&mut y[first * op..][..count * op], op));
            let ends = Ends { clip: Some((-0.25, 1.0)), ..ends };
            forward.run(&mut rooms.0, x, &w, ends, BlockMut::new(&mut clipped[first * op..][..count * op], op));
            let to = BlockMut::new(&mut dx[first * ip..][..count * ip], ip);
            of_input.run(&mut rooms.1, dy, &w, Ends::ADDED, to);
            let mut sums = kernels(taps, 0, |_| &[]);
            of_kernel.add(&mut rooms.2, x, dy, &mut sums);
            for plane in 0..count {
                (0..taps).for_each(|t| dw[(first + plane) * taps + t] = sums[t].0[plane]);
            }
        }
        same(&y, &want_y, "y");
        same(&clipped, &want_y.iter().map(|v| v.clamp(-0.25, 1.0)).collect::<Vec<_>>(), "clipped y");
        same(&dw, &want_dw, "dw");
        same(&dx, &want_dx, "dx");
    }

    #[test]
    fn agree_with_the_definition() {
        for (input, output, kernel, stride, dilation, pad) in [
            ([7, 7], [7, 7], [5, 5], [1, 1], [1, 1], [2, 2]),
            ([14, 14], [7, 7], [5, 5], [2, 2], [1, 1], [1, 1]),
            ([9, 13], [9, 13], [3, 3], [1, 1], [1, 1], [1, 1]),
            ([10, 9], [5, 4], [3, 3], [2, 2], [1, 1], [0, 0]),
            ([11, 12], [7, 8], [3, 3], [1, 1], [2, 2], [0, 0]),
            ([12, 10], [4, 5], [3, 3], [3, 2], [2, 1], [1, 1]),
            ([1, 40], [1, 20], [1, 5], [1, 2], [1, 1], [0, 2]),
            ([3, 3], [1, 1], [3, 3], [1, 1], [1, 1], [0, 0]),
            // Longer than a group of columns, with a kernel of more taps than registers hold.
            ([3, 211], [3, 209], [3, 9], [1, 1], [1, 1], [1, 3]),
            ([2, 230], [2, 115], [1, 7], [1, 2], [1, 1], [0, 3]),
            ([1, 500], [1, 164], [1, 6], [1, 3], [1, 2], [0, 4]),
            // Narrower than a register; all padding; rows and columns that nothing reads; a kernel beyond the plane.
            ([9, 1], [9, 1], [3, 1], [1, 1], [1, 1], [1, 0]),
            ([6, 2], [8, 4], [1, 1], [1, 1], [1, 1], [1, 1]),
            ([9, 9], [3, 3], [2, 2], [4, 4], [1, 1], [0, 0]),
            ([20, 5], [7, 5], [5, 3], [3, 1], [2, 1], [4, 1]),
            ([4, 4], [4, 4], [7, 7], [1, 1], [1, 1], [3, 3]),
        ] {
            check(&Planes { input, output, kernel, stride, dilation, pad_before: pad });
        }
    }
}
