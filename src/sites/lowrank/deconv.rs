//! Transposed convolutions. Their shapes are those of the convolution that they transpose, from `y` to `x`; each group
//! has its own part of `A: [in, r, k…]` and of `B: [out, r]`.
//!
//! Per example and group, with `X: [in, p]` the input planes: `P[tap, r, p] = Σ_c A[c, r, tap]·X[c, p]`,
//! `T[r, q] = Σ P[tap, r, p]` over what reaches `q`, `Y += B·T`.

use super::Gradients;
use super::mat::{gemm, mat, mat_mut, part, part_mut, product};
use crate::ops::im2col::{ConvShape, gather_add, scatter_add};

impl ConvShape {
    /// Taps whose `r` channels are held at once: together about as large as the planes of the transposed convolution's
    /// input.
    fn transposed_taps(&self, rank: usize) -> usize {
        let room = (self.group_out() * self.out_plane()).max(self.block_target());
        (room / (rank * self.out_plane()).max(1)).clamp(1, self.taps())
    }

    /// Values beside operands and results that a low-rank product holds.
    pub(super) fn deconv_scratch(&self, rank: usize) -> usize {
        self.transposed_taps(rank) * rank * self.out_plane() + rank * self.in_plane()
    }

    /// Input channels of the transposed convolution in a group, and its output channels.
    fn transposed(&self) -> (usize, usize) {
        (self.group_out(), self.group_in())
    }

    /// `A` of group `g`, from `[in, r, taps]` to `[taps, r, in]`.
    fn channels_last(&self, rank: usize, a: &[f32], g: usize) -> Vec<f32> {
        let ((ci, _), rows) = (self.transposed(), rank * self.taps());
        let mut out = vec![0f32; ci * rows];
        for c in 0..ci {
            for (rt, v) in a[(g * ci + c) * rows..][..rows].iter().enumerate() {
                let (r, t) = (rt / self.taps(), rt % self.taps());
                out[(t * rank + r) * ci + c] = *v;
            }
        }
        out
    }
}

pub(super) fn forward((s, r): (&ConvShape, usize), x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let ((ci, co), (small, large)) = (s.transposed(), (s.out_plane(), s.in_plane()));
    let (step, taps) = (s.transposed_taps(r), s.taps());
    let mut t = vec![0f32; s.batch * s.groups * r * large];
    let mut p = vec![0f32; step * r * small];
    for g in 0..s.groups {
        let a = s.channels_last(r, a, g);
        let b = mat(&b[g * co * r..(g + 1) * co * r], co, r);
        for n in 0..s.batch {
            let ng = n * s.groups + g;
            let t = &mut t[ng * r * large..(ng + 1) * r * large];
            let x = part(x, ng * ci * small, ci, small, small);
            for first in (0..taps).step_by(step) {
                let rows = step.min(taps - first) * r;
                product(part(&a, first * r * ci, rows, ci, ci), x, 0.0, part_mut(&mut p, 0, rows, small, small));
                for row in 0..rows {
                    let from = &p[row * small..][..small];
                    let into = &mut t[row % r * large..][..large];
                    s.for_rows(first + row / r, |o, i, w| scatter_add(into, i, from, o, w));
                }
            }
            gemm(1.0, b, mat(t, r, large), 1.0, mat_mut(&mut y[ng * co * large..(ng + 1) * co * large], co, large));
        }
    }
    t
}

/// `dT = Bᵀ·dY`, `dB = dY·Tᵀ`; with `Q` what reaches each input position of `dT` per tap: `dA = Q·Xᵀ`, `dX = Aᵀ·Q`.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    (s, r): (&ConvShape, usize),
    need_a: bool,
    x: &[f32],
    t: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let ((ci, co), (small, large)) = (s.transposed(), (s.out_plane(), s.in_plane()));
    let (step, taps) = (s.transposed_taps(r), s.taps());
    let (mut da, mut db) = (vec![0f32; a.len()], vec![0f32; b.len()]);
    let (mut dt, mut q) = (vec![0f32; r * large], vec![0f32; step * r * small]);
    for g in 0..s.groups {
        let taps_a = s.channels_last(r, a, g);
        let mut da_taps = vec![0f32; taps * r * ci];
        let bg = mat(&b[g * co * r..(g + 1) * co * r], co, r);
        for n in 0..s.batch {
            let ng = n * s.groups + g;
            let dyg = mat(&dy[ng * co * large..(ng + 1) * co * large], co, large);
            gemm(1.0, bg.t(), dyg, 0.0, mat_mut(&mut dt, r, large));
            let tg = mat(&t[ng * r * large..(ng + 1) * r * large], r, large);
            gemm(1.0, dyg, tg.t(), 1.0, mat_mut(&mut db[g * co * r..(g + 1) * co * r], co, r));
            for first in (0..taps).step_by(step) {
                let rows = step.min(taps - first) * r;
                let q = &mut q[..rows * small];
                q.fill(0.0);
                for row in 0..rows {
                    let from = &dt[row % r * large..][..large];
                    let into = &mut q[row * small..][..small];
                    s.for_rows(first + row / r, |o, i, w| gather_add(into, o, from, i, w));
                }
                let (q, at) = (part(q, 0, rows, small, small), first * r * ci);
                if need_a {
                    let xg = part(x, ng * ci * small, ci, small, small);
                    product(q, xg.t(), 1.0, part_mut(&mut da_taps, at, rows, ci, ci));
                }
                if let Some(dx) = &mut dx {
                    let dx = part_mut(dx, ng * ci * small, ci, small, small);
                    product(part(&taps_a, at, rows, ci, ci).t(), q, 1.0, dx);
                }
            }
        }
        for (i, v) in da_taps.iter().enumerate() {
            let (t, ri, c) = (i / (r * ci), i / ci % r, i % ci);
            da[((g * ci + c) * r + ri) * s.taps() + t] += v;
        }
    }
    Gradients { a: da, b: db }
}
