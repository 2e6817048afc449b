//! Depthwise convolutions of small planes, forward and backward.
//!
//! A plane is copied once, with its padding and with the rows and columns of each stride phase side by side, so that every tap of
//! the kernel reads one contiguous run: output `q = row·width + column` of tap `t` reads `at[t] + q`. The columns between the output's
//! width and that of the phase hold values that nothing reads.

use crate::linalg::simd::wide;
use crate::sync::parts;

/// Outputs of one step: eight vectors of four, or four of eight.
const STEP: usize = 32;

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

/// [`Planes`] with the places of its taps and room for one plane.
pub(crate) struct Workspace {
    planes: Planes,
    /// Rows and width of one phase.
    phase: [usize; 2],
    /// Where each tap starts to read.
    at: Vec<usize>,
    /// The phases of the input, one after the other.
    spread: Vec<f32>,
    /// The output at the width of a phase, after `lead` zeros.
    flat: Vec<f32>,
    lead: usize,
}

impl Planes {
    /// How many of `all` planes a core takes at once.
    pub fn at_once(&self, all: usize) -> usize {
        // Multiplications of some 10 µs. Tests share what is smaller, too.
        const PART: usize = if cfg!(test) { 1 << 8 } else { 1 << 16 };
        let size = |s: [usize; 2]| s[0] * s[1];
        all.div_ceil(parts(all * size(self.output) * size(self.kernel), PART)).max(1)
    }

    pub fn workspace(&self) -> Workspace {
        let [sh, sw] = self.stride;
        let reach = |axis: usize| {
            (self.output[axis] - 1) + (self.kernel[axis] - 1) * self.dilation[axis] / self.stride[axis] + 1
        };
        let phase = [reach(0), reach(1)];
        let size = phase[0] * phase[1];
        let mut at = vec![];
        for kh in 0..self.kernel[0] {
            for kw in 0..self.kernel[1] {
                let (r, c) = (kh * self.dilation[0], kw * self.dilation[1]);
                at.push(((r % sh) * sw + c % sw) * size + r / sh * phase[1] + c / sw);
            }
        }
        let lead =
            ((self.kernel[0] - 1) * self.dilation[0] / sh) * phase[1] + (self.kernel[1] - 1) * self.dilation[1] / sw;
        let flat = (self.output[0] * phase[1]).next_multiple_of(STEP);
        Workspace {
            planes: *self,
            phase,
            at,
            spread: vec![0.0; sh * sw * size + flat + STEP],
            flat: vec![0.0; lead + flat.max(size.next_multiple_of(STEP)) + lead + STEP],
            lead,
        }
    }
}

impl Workspace {
    /// Calls `run(input, phase, n)` for runs of input columns that some output may read: every `stride`-th column from `input`
    /// on, `n` of them, lies in the phases from `phase` on.
    fn for_runs(&self, mut run: impl FnMut(usize, usize, usize)) {
        let Planes { input: [rows, columns], stride: [sh, sw], pad_before: [top, left], .. } = self.planes;
        let [phase_rows, width] = self.phase;
        for (row, r) in (0..rows).map(|row| (row, row + top)).filter(|(_, r)| r / sh < phase_rows) {
            for phase in 0..sw {
                let first = (phase + sw - left % sw) % sw;
                let column = (first + left) / sw;
                let n = columns.saturating_sub(first).div_ceil(sw).min(width.saturating_sub(column));
                let line = ((r % sh) * sw + phase) * phase_rows + r / sh;
                if n > 0 {
                    run(row * columns + first, line * width + column, n);
                }
            }
        }
    }

    /// Lays out an input plane; the padding stays zero.
    fn lay_out(&mut self, x: &[f32]) {
        let mut spread = std::mem::take(&mut self.spread);
        let stride = self.planes.stride[1];
        self.for_runs(|from, to, n| match stride {
            1 => spread[to..to + n].copy_from_slice(&x[from..from + n]),
            _ => spread[to..to + n].iter_mut().zip(x[from..].iter().step_by(stride)).for_each(|(s, x)| *s = *x),
        });
        self.spread = spread;
    }

    /// Lays out an output plane with zeros between its rows.
    fn lay_out_output(&mut self, dy: &[f32]) {
        let (columns, width) = (self.planes.output[1], self.phase[1]);
        for (row, dy) in dy.chunks_exact(columns).enumerate() {
            let line = &mut self.flat[self.lead + row * width..][..width];
            line[..columns].copy_from_slice(dy);
            line[columns..].fill(0.0);
        }
        let end = self.lead + self.planes.output[0] * width;
        self.flat[end..].fill(0.0);
        self.flat[..self.lead].fill(0.0);
    }

    /// `y += w ⋆ x` for one plane.
    pub fn forward(&mut self, x: &[f32], w: &[f32], y: &mut [f32]) {
        self.lay_out(x);
        let (columns, width, rows) = (self.planes.output[1], self.phase[1], self.planes.output[0]);
        let flat = &mut self.flat[..(rows * width).next_multiple_of(STEP)];
        weighted(&self.spread, &self.at, w, flat);
        for (y, sum) in y.chunks_exact_mut(columns).zip(flat.chunks_exact(width)) {
            y.iter_mut().zip(sum).for_each(|(y, s)| *y += s);
        }
    }

    /// `dw += dy ⋆ x` and, if asked for, `dx += w ∗ dy` for one plane.
    pub fn backward(&mut self, x: &[f32], w: &[f32], dy: &[f32], dw: &mut [f32], dx: Option<&mut [f32]>) {
        self.lay_out_output(dy);
        self.lay_out(x);
        let len = self.planes.output[0] * self.phase[1];
        let dy = &self.flat[self.lead..][..len.next_multiple_of(STEP)];
        for (dw, at) in dw.iter_mut().zip(&self.at) {
            let x = &self.spread[*at..][..dy.len()];
            *dw += wide!((dy: &[f32], x: &[f32]) { dot(dy, x) } -> f32);
        }
        if let Some(dx) = dx {
            self.input_gradient(w, dx);
        }
    }

    /// `dx += w ∗ dy` for one plane.
    pub fn backward_input(&mut self, w: &[f32], dy: &[f32], dx: &mut [f32]) {
        self.lay_out_output(dy);
        self.input_gradient(w, dx);
    }

    /// From the output plane that is laid out: input position `p` of a phase gets `Σ w[t]·dy[p - at[t]]` over the phase's taps.
    fn input_gradient(&mut self, w: &[f32], dx: &mut [f32]) {
        let size = self.phase[0] * self.phase[1];
        let mut sums = std::mem::take(&mut self.spread);
        for phase in 0..self.planes.stride[0] * self.planes.stride[1] {
            let taps = self.at.iter().zip(w).filter(|(at, _)| *at / size == phase);
            let (at, w): (Vec<usize>, Vec<f32>) = taps.map(|(at, w)| (self.lead - at % size, *w)).unzip();
            let to = &mut sums[phase * size..][..size.next_multiple_of(STEP)];
            weighted(&self.flat, &at, &w, to);
        }
        self.spread = sums;
        let stride = self.planes.stride[1];
        self.for_runs(|to, from, n| {
            let sums = &self.spread[from..from + n];
            dx[to..].iter_mut().step_by(stride).zip(sums).for_each(|(d, s)| *d += s);
        });
        // What the next plane does not overwrite is padding, and that is zero.
        self.spread.fill(0.0);
    }
}

/// `to[q] = Σ w[t]·from[at[t] + q]`; the length of `to` is a multiple of [`STEP`].
fn weighted(from: &[f32], at: &[usize], w: &[f32], to: &mut [f32]) {
    wide!((from: &[f32], at: &[usize], w: &[f32], to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(STEP).enumerate() {
            let mut sums = [0f32; STEP];
            for (at, w) in at.iter().zip(w) {
                let from = &from[at + i * STEP..][..STEP];
                for (s, x) in sums.iter_mut().zip(from) {
                    *s += w * x;
                }
            }
            to.copy_from_slice(&sums);
        }
    });
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; STEP];
    for (a, b) in a.chunks_exact(STEP).zip(b.chunks_exact(STEP)) {
        for i in 0..STEP {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
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
        ] {
            let p = Planes { input, output, kernel, stride, dilation, pad_before: pad };
            let size = |s: [usize; 2]| s[0] * s[1];
            let mut work = p.workspace();
            // The same room serves plane after plane.
            for seed in 0..2 {
                let (x, w, dy) = (noise(size(input), seed), noise(size(kernel), 3), noise(size(output), 5 + seed));
                let (mut y, mut dw, mut dx) = (vec![0.5; dy.len()], vec![0.0; w.len()], vec![0.25; x.len()]);
                let (mut want_y, mut want_dw, mut want_dx) = (y.clone(), dw.clone(), dx.clone());
                products(&p, |i, t, o| {
                    want_y[o] += w[t] * x[i];
                    want_dw[t] += dy[o] * x[i];
                    want_dx[i] += w[t] * dy[o];
                });
                let same = |have: &[f32], want: &[f32], what: &str| {
                    for (h, w) in have.iter().zip(want) {
                        assert!((h - w).abs() < 1e-3, "{what} of {p:?}: {h} != {w}");
                    }
                };
                work.forward(&x, &w, &mut y);
                same(&y, &want_y, "y");
                work.backward(&x, &w, &dy, &mut dw, Some(&mut dx));
                same(&dw, &want_dw, "dw");
                same(&dx, &want_dx, "dx");
                let mut again = vec![0.25; x.len()];
                work.backward_input(&w, &dy, &mut again);
                same(&again, &want_dx, "dx alone");
            }
        }
    }
}
