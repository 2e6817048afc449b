//! Convolutions of few input channels, such as the first one of a network for pictures or sound.
//!
//! Their columns (im2col) are many times the input, and sums over them are short. So no columns are made: a register
//! holds one position of eight output channels, and the values of the input's rows are multiplied into it one by one.

use super::depthwise::Planes;
use crate::linalg::eight::{Aligned, Eight, Kernel, LANES, Lanes, loaded, on_vectors};
use crate::sync::{each_job, parts};

/// Most input channels for which this pays, and most values that a sum has.
const MOST_CHANNELS: usize = 4;
const MOST_TAPS: usize = 160;
/// Positions of a tile; with two registers of channels each they leave four registers for operands.
const TILE: usize = 6;
/// Registers of output channels that are computed at a time.
const TOGETHER: usize = 2;

/// A convolution from `input` channels to `output` channels, in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stem {
    pub planes: Planes,
    pub input: usize,
    pub output: usize,
}

impl Stem {
    /// Multiplications for one image.
    pub fn multiplications(&self) -> usize {
        let size = |s: [usize; 2]| s[0] * s[1];
        size(self.planes.output) * size(self.planes.kernel) * self.input * self.output
    }

    /// Whether this pays: with many taps the columns are no longer many times the input, and without overlap they are
    /// no larger than it.
    pub fn pays(&self) -> bool {
        let overlaps = (0..2).any(|axis| self.planes.stride[axis] < self.planes.kernel[axis]);
        let taps = self.planes.kernel[0] * self.planes.kernel[1];
        self.input <= MOST_CHANNELS && self.output >= LANES && self.input * taps <= MOST_TAPS && overlaps
    }

    /// `y = clip(w ⋆ x + bias)` for images `x` of `[input, rows, columns]`, `w` as [`Stem::laid_out`] gives it, and one
    /// bias for each output channel, or one for all. No size is zero. The cores of the pass share the work.
    pub fn run(&self, x: &[f32], w: &[f32], bias: &[f32], clip: Option<(f32, f32)>, y: &mut [f32]) {
        // Multiplications of some 10 µs. Tests share what is smaller, too.
        const PART: usize = if cfg!(test) { 1 << 8 } else { 1 << 18 };
        let size = |s: [usize; 2]| s[0] * s[1];
        let (from, to) = (self.input * size(self.planes.input), size(self.planes.output));
        let (w, _) = w.as_chunks();
        let (images, blocks) = (y.len() / (self.output * to), self.output.div_ceil(LANES));
        let parts = parts(images * self.multiplications(), PART).div_ceil(images.max(1));
        let each = blocks.div_ceil(parts).next_multiple_of(if parts < blocks { TOGETHER } else { 1 }) * LANES;
        let mut jobs = vec![];
        for (x, y) in x.chunks_exact(from).zip(y.chunks_exact_mut(self.output * to)) {
            for (at, y) in y.chunks_mut(each * to).enumerate() {
                jobs.push(Part { stem: self, x, w, bias, clip, first: at * each, y });
            }
        }
        let Ok(()) = each_job(jobs, |part| {
            on_vectors(part);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// The kernel `[output, input, rows, columns]` with eight output channels side by side: `[output / 8, rows, input,
    /// columns, 8]`, with zeros for the channels that the last eight lack.
    pub fn laid_out(&self, w: &[f32]) -> Vec<f32> {
        let [rows, columns] = self.planes.kernel;
        let mut lanes = vec![0.0; self.output.div_ceil(LANES) * rows * self.input * columns * LANES];
        for (i, value) in w.iter().enumerate() {
            let (column, rest) = (i % columns, i / columns);
            let (row, rest) = (rest % rows, rest / rows);
            let (input, output) = (rest % self.input, rest / self.input);
            let at = ((output / LANES * rows + row) * self.input + input) * columns + column;
            lanes[at * LANES + output % LANES] = *value;
        }
        lanes
    }
}

/// Some output channels of one image.
struct Part<'a> {
    stem: &'a Stem,
    x: &'a [f32],
    w: &'a [Lanes],
    bias: &'a [f32],
    clip: Option<(f32, f32)>,
    /// The first of the channels, a multiple of eight.
    first: usize,
    y: &'a mut [f32],
}

/// The rows of the input that a row of the output reads, for all channels, with the padding at their ends.
struct Lines {
    values: Vec<f32>,
    kept: usize,
    width: usize,
    /// Rows that were read so far.
    read: usize,
}

impl Lines {
    fn new(stem: &Stem) -> Lines {
        let p = &stem.planes;
        let reach = (p.output[1] - 1) * p.stride[1] + (p.kernel[1] - 1) * p.dilation[1] + 1;
        let (kept, width) = (p.span(), reach.max(p.pad_before[1] + p.input[1]));
        Lines { values: vec![0.0; kept * stem.input * width], kept, width, read: 0 }
    }

    fn read_to(&mut self, stem: &Stem, x: &[f32], row: usize) {
        let [rows, columns] = stem.planes.input;
        // A stride beyond the kernel leaves rows out.
        self.read = self.read.max((row + 1).saturating_sub(self.kept));
        while self.read <= row {
            for channel in 0..stem.input {
                let line = (self.read % self.kept * stem.input + channel) * self.width + stem.planes.pad_before[1];
                let from = (channel * rows + self.read) * columns;
                self.values[line..][..columns].copy_from_slice(&x[from..][..columns]);
            }
            self.read += 1;
        }
    }
}

impl Kernel for Part<'_> {
    type Result = ();

    #[inline(always)]
    fn run<V: Eight>(mut self) {
        let (stem, to) = (self.stem, self.stem.planes.output);
        let mut lines = Lines::new(stem);
        let mut sums = vec![Aligned::ZERO; TOGETHER * to[1].next_multiple_of(TILE).max(LANES)];
        let channels = self.y.len() / (to[0] * to[1]);
        for (row, reads) in stem.planes.reads().iter().enumerate() {
            if let Some((_, last)) = reads.last() {
                lines.read_to(stem, self.x, *last);
            }
            for first in (0..channels).step_by(TOGETHER * LANES) {
                let count = (channels - first).min(TOGETHER * LANES);
                if count > LANES {
                    self.row::<V, 2>(&lines, reads, first, &mut sums);
                } else {
                    self.row::<V, 1>(&lines, reads, first, &mut sums);
                }
                self.write::<V>(&sums, row, first, count);
            }
        }
    }
}

impl Part<'_> {
    /// One row of `B` times eight output channels from `first` of the part's on.
    #[inline(always)]
    fn row<V: Eight, const B: usize>(
        &self,
        lines: &Lines,
        reads: &[(usize, usize)],
        first: usize,
        sums: &mut [Aligned],
    ) {
        let (columns, half) = (self.stem.planes.output[1], sums.len() / TOGETHER);
        let mut start = [V::splat(0.0); B];
        for (block, start) in start.iter_mut().enumerate() {
            let mut lanes = [0.0; LANES];
            for (lane, value) in lanes.iter_mut().enumerate() {
                let channel = self.first + first + block * LANES + lane;
                *value = self.bias[channel.min(self.bias.len() - 1)];
            }
            *start = V::load(&lanes);
        }
        let tile = columns.div_ceil(columns.div_ceil(TILE));
        let mut at = 0;
        while at < columns {
            let n = tile.min(columns - at);
            let sums = &mut sums[at..];
            match n {
                6 => self.tile::<V, 6, B>(lines, reads, (first, at), start, sums, half),
                5 => self.tile::<V, 5, B>(lines, reads, (first, at), start, sums, half),
                4 => self.tile::<V, 4, B>(lines, reads, (first, at), start, sums, half),
                3 => self.tile::<V, 3, B>(lines, reads, (first, at), start, sums, half),
                2 => self.tile::<V, 2, B>(lines, reads, (first, at), start, sums, half),
                _ => self.tile::<V, 1, B>(lines, reads, (first, at), start, sums, half),
            }
            at += n;
        }
    }

    /// `T` positions of `B` times eight channels; those of a second eight are put `half` further on.
    #[inline(always)]
    fn tile<V: Eight, const T: usize, const B: usize>(
        &self,
        lines: &Lines,
        reads: &[(usize, usize)],
        (first, at): (usize, usize),
        start: [V; B],
        to: &mut [Aligned],
        half: usize,
    ) {
        let (p, input) = (&self.stem.planes, self.stem.input);
        let ([rows, columns], [_, stride], [_, dilation]) = (p.kernel, p.stride, p.dilation);
        let of_block = rows * input * columns;
        let block = (self.first + first) / LANES;
        let mut sums = [[V::splat(0.0); T]; B];
        for (sums, start) in sums.iter_mut().zip(start) {
            *sums = [start; T];
        }
        for &(k, row) in reads {
            for channel in 0..input {
                let x = &lines.values[(row % lines.kept * input + channel) * lines.width + at * stride..];
                let w = &self.w[block * of_block + (k * input + channel) * columns..];
                for column in 0..columns {
                    let x = &x[column * dilation..][..(T - 1) * stride + 1];
                    let mut weights = [V::splat(0.0); B];
                    for (b, weights) in weights.iter_mut().enumerate() {
                        *weights = V::load(&w[b * of_block + column]);
                    }
                    for t in 0..T {
                        let x = V::splat(x[t * stride]);
                        for b in 0..B {
                            sums[b][t] = weights[b].multiply_add(x, sums[b][t]);
                        }
                    }
                }
            }
        }
        for (b, sums) in sums.iter().enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                sum.store(&mut to[b * half + t].0);
            }
        }
    }

    /// Writes `row` of `count` channels from `first` of the part's on.
    #[inline(always)]
    fn write<V: Eight>(&mut self, sums: &[Aligned], row: usize, first: usize, count: usize) {
        let ([rows, columns], half) = (self.stem.planes.output, sums.len() / TOGETHER);
        let (low, high) = self.clip.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        for begin in (0..count).step_by(LANES) {
            let sums = &sums[begin / LANES * half..][..half];
            let channels = LANES.min(count - begin);
            let place = |channel: usize| ((first + begin + channel) * rows + row) * columns;
            let mut at = 0;
            while columns >= LANES && at < columns {
                // The last eight may overlap those before.
                at = at.min(columns - LANES);
                let turned = V::transpose(loaded(sums[at..].first_chunk().unwrap()));
                for (channel, values) in turned.iter().enumerate().take(channels) {
                    let to = self.y[place(channel) + at..].first_chunk_mut().unwrap();
                    match self.clip {
                        Some(_) => values.max(V::splat(low)).min(V::splat(high)).store(to),
                        None => values.store(to),
                    }
                }
                at += LANES;
            }
            if columns < LANES {
                for (at, sum) in sums[..columns].iter().enumerate() {
                    for channel in 0..channels {
                        let value = sum.0[channel];
                        let value = if self.clip.is_some() { value.max(low).min(high) } else { value };
                        self.y[place(channel) + at] = value;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 29 + seed * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect()
    }

    #[test]
    fn agrees_with_the_definition() {
        for (input, output, planes) in [
            (3, 32, ([16, 20], [8, 10], [3, 3], [2, 2], [1, 1], [1, 1])),
            (3, 20, ([9, 9], [9, 9], [5, 5], [1, 1], [1, 1], [2, 2])),
            (1, 7, ([1, 50], [1, 9], [1, 10], [1, 5], [1, 1], [0, 0])),
            (2, 40, ([7, 13], [3, 5], [2, 3], [3, 2], [1, 2], [0, 0])),
            (4, 8, ([5, 4], [7, 6], [1, 1], [1, 1], [1, 1], [1, 1])),
            (1, 9, ([12, 3], [5, 3], [3, 3], [2, 1], [2, 1], [1, 1])),
        ] {
            let (from, to, kernel, stride, dilation, pad_before) = planes;
            let planes = Planes { input: from, output: to, kernel, stride, dilation, pad_before };
            let (stem, images) = (Stem { planes, input, output }, 2);
            let size = |s: [usize; 2]| s[0] * s[1];
            let x = noise(images * input * size(from), 1);
            let w = noise(output * input * size(kernel), 2);
            let (bias, laid_out) = (noise(output, 3), stem.laid_out(&w));
            let mut want = vec![0.0; images * output * size(to)];
            for (i, want) in want.iter_mut().enumerate() {
                let (column, row) = (i % to[1], i / to[1] % to[0]);
                let (channel, image) = (i / size(to) % output, i / size(to) / output);
                *want = bias[channel];
                for c in 0..input {
                    for (kr, kc) in (0..kernel[0]).flat_map(|r| (0..kernel[1]).map(move |c| (r, c))) {
                        let r =
                            (row * stride[0] + kr * dilation[0]).checked_sub(pad_before[0]).filter(|r| *r < from[0]);
                        let at = (column * stride[1] + kc * dilation[1]).checked_sub(pad_before[1]);
                        if let (Some(r), Some(at)) = (r, at.filter(|at| *at < from[1])) {
                            let value = x[((image * input + c) * from[0] + r) * from[1] + at];
                            *want += w[((channel * input + c) * kernel[0] + kr) * kernel[1] + kc] * value;
                        }
                    }
                }
            }
            let mut y = vec![7.0; want.len()];
            stem.run(&x, &laid_out, &bias, None, &mut y);
            for (i, (have, want)) in y.iter().zip(&want).enumerate() {
                assert!((have - want).abs() < 1e-3, "{stem:?} at {i}: {have} for {want}");
            }
            stem.run(&x, &laid_out, &bias[..1], Some((-0.5, 0.75)), &mut y);
            let plane = |values: &[f32]| values[..size(to)].to_vec();
            let clipped: Vec<f32> = plane(&want).iter().map(|v| v.clamp(-0.5, 0.75)).collect();
            assert!(plane(&y).iter().zip(&clipped).all(|(have, want)| (have - want).abs() < 1e-3), "{stem:?}");
        }
    }
}
