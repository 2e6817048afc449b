//! Transposed convolutions. Their shapes are those of the convolution that they transpose, from `y` to `x`; each group has its own part
//! of `A: [in, r, k…]` and of `B: [out, r]`.
//!
//! Per example and group, with `X: [in, p]` the input planes: `P[tap, r, p] = Σ_c A[c, r, tap]·X[c, p]`,
//! `T[r, q] = Σ P[tap, r, p]` over what reaches `q`, `Y += B·T`.

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};
use crate::ops::im2col::{ConvShape, gather_add, scatter_add};

impl ConvShape {
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
    let rows = s.taps() * r;
    let mut t = vec![0f32; s.batch * s.groups * r * large];
    let mut p = vec![0f32; rows * small];
    for g in 0..s.groups {
        let a = s.channels_last(r, a, g);
        let b = mat(&b[g * co * r..(g + 1) * co * r], co, r);
        for n in 0..s.batch {
            let ng = n * s.groups + g;
            let t = &mut t[ng * r * large..(ng + 1) * r * large];
            gemm(
                1.0,
                mat(&a, rows, ci),
                mat(&x[ng * ci * small..(ng + 1) * ci * small], ci, small),
                0.0,
                mat_mut(&mut p, rows, small),
            );
            for row in 0..rows {
                let from = &p[row * small..][..small];
                let into = &mut t[row % r * large..][..large];
                s.for_rows(row / r, |o, i, w| scatter_add(into, i, from, o, w));
            }
            gemm(1.0, b, mat(t, r, large), 1.0, mat_mut(&mut y[ng * co * large..(ng + 1) * co * large], co, large));
        }
    }
    t
}

/// `dT = Bᵀ·dY`, `dB = dY·Tᵀ`; with `Q` what reaches each input position of `dT` per tap: `dA = Q·Xᵀ`, `dX = Aᵀ·Q`.
pub(super) fn backward(
    (s, r): (&ConvShape, usize),
    x: &[f32],
    t: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let ((ci, co), (small, large)) = (s.transposed(), (s.out_plane(), s.in_plane()));
    let rows = s.taps() * r;
    let (mut da, mut db) = (vec![0f32; a.len()], vec![0f32; b.len()]);
    let (mut dt, mut q) = (vec![0f32; r * large], vec![0f32; rows * small]);
    for g in 0..s.groups {
        let taps_a = s.channels_last(r, a, g);
        let mut da_taps = vec![0f32; rows * ci];
        let bg = mat(&b[g * co * r..(g + 1) * co * r], co, r);
        for n in 0..s.batch {
            let ng = n * s.groups + g;
            let dyg = mat(&dy[ng * co * large..(ng + 1) * co * large], co, large);
            let xg = mat(&x[ng * ci * small..(ng + 1) * ci * small], ci, small);
            gemm(1.0, bg.t(), dyg, 0.0, mat_mut(&mut dt, r, large));
            let tg = mat(&t[ng * r * large..(ng + 1) * r * large], r, large);
            gemm(1.0, dyg, tg.t(), 1.0, mat_mut(&mut db[g * co * r..(g + 1) * co * r], co, r));
            q.fill(0.0);
            for row in 0..rows {
                let from = &dt[row % r * large..][..large];
                let into = &mut q[row * small..][..small];
                s.for_rows(row / r, |o, i, w| gather_add(into, o, from, i, w));
            }
            gemm(1.0, mat(&q, rows, small), xg.t(), 1.0, mat_mut(&mut da_taps, rows, ci));
            if let Some(dx) = &mut dx {
                let dxg = mat_mut(&mut dx[ng * ci * small..(ng + 1) * ci * small], ci, small);
                gemm(1.0, mat(&taps_a, rows, ci).t(), mat(&q, rows, small), 1.0, dxg);
            }
        }
        for (i, v) in da_taps.iter().enumerate() {
            let (t, ri, c) = (i / (r * ci), i / ci % r, i % ci);
            da[((g * ci + c) * r + ri) * s.taps() + t] += v;
        }
    }
    Gradients { a: da, b: db }
}
