//! Depthwise convolutions (one input channel a group): `ΔW = B·A` is tiny, so the delta kernel is formed and applied as
//! one more depthwise convolution, and its gradient is projected back on `A` and `B`.

use super::Gradients;
use super::conv::{ConvShape, Span};
use super::mat::{gemm, mat, mat_mut};

fn delta(s: &ConvShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut dw = vec![0f32; s.output * s.taps()];
    gemm(1.0, mat(b, s.output, s.rank), mat(a, s.rank, s.taps()), 0.0, mat_mut(&mut dw, s.output, s.taps()));
    dw
}

pub(super) fn forward(s: &ConvShape, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, taps, co) = (s.in_plane(), s.out_plane(), s.taps(), s.group_out());
    let dw = delta(s, a, b);
    for n in 0..s.batch {
        for o in 0..s.output {
            let x = &x[(n * s.input + o / co) * ip..][..ip];
            let y = &mut y[(n * s.output + o) * op..][..op];
            for tap in 0..taps {
                let w = dw[o * taps + tap];
                s.for_rows(tap, |oi, ii, span| axpy(w, x, ii, y, oi, span));
            }
        }
    }
    vec![0.0]
}

/// `dΔW[o, tap] = Σ dy[o, q]·x[g, p(q, tap)]`, `dB = dΔW·Aᵀ`, `dA = Bᵀ·dΔW`, `dx` by the same taps transposed.
pub(super) fn backward(
    s: &ConvShape,
    x: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let (ip, op, taps, co) = (s.in_plane(), s.out_plane(), s.taps(), s.group_out());
    let dw = delta(s, a, b);
    let mut ddw = vec![0f32; dw.len()];
    for n in 0..s.batch {
        for o in 0..s.output {
            let plane = (n * s.input + o / co) * ip;
            let x = &x[plane..][..ip];
            let dy = &dy[(n * s.output + o) * op..][..op];
            for tap in 0..taps {
                let mut sum = 0f32;
                s.for_rows(tap, |oi, ii, span| sum += dot(dy, oi, x, ii, span));
                ddw[o * taps + tap] += sum;
                if let Some(dx) = &mut dx {
                    let (w, dx) = (dw[o * taps + tap], &mut dx[plane..][..ip]);
                    s.for_rows(tap, |oi, ii, span| axpy_back(w, dy, oi, dx, ii, span));
                }
            }
        }
    }
    let (mut da, mut db) = (vec![0f32; a.len()], vec![0f32; b.len()]);
    let ddw = mat(&ddw, s.output, taps);
    gemm(1.0, ddw, mat(a, s.rank, taps).t(), 0.0, mat_mut(&mut db, s.output, s.rank));
    gemm(1.0, mat(b, s.output, s.rank).t(), ddw, 0.0, mat_mut(&mut da, s.rank, taps));
    Gradients { a: da, b: db }
}

fn axpy(w: f32, x: &[f32], i: usize, y: &mut [f32], o: usize, span: Span) {
    let n = span.to - span.from;
    let y = &mut y[o..o + n];
    if span.stride == 1 {
        y.iter_mut().zip(&x[i..i + n]).for_each(|(y, x)| *y += w * x);
    } else {
        y.iter_mut().zip(x[i..].iter().step_by(span.stride)).for_each(|(y, x)| *y += w * x);
    }
}

fn axpy_back(w: f32, dy: &[f32], o: usize, dx: &mut [f32], i: usize, span: Span) {
    let n = span.to - span.from;
    let dy = &dy[o..o + n];
    if span.stride == 1 {
        dx[i..i + n].iter_mut().zip(dy).for_each(|(x, d)| *x += w * d);
    } else {
        dx[i..].iter_mut().step_by(span.stride).zip(dy).for_each(|(x, d)| *x += w * d);
    }
}

fn dot(dy: &[f32], o: usize, x: &[f32], i: usize, span: Span) -> f32 {
    let n = span.to - span.from;
    let dy = &dy[o..o + n];
    if span.stride == 1 {
        // Eight partial sums let the compiler use vector registers.
        let (x, mut acc) = (&x[i..i + n], [0f32; 8]);
        let tail = n - n % 8;
        for (d, x) in dy[..tail].chunks_exact(8).zip(x[..tail].chunks_exact(8)) {
            for k in 0..8 {
                acc[k] += d[k] * x[k];
            }
        }
        acc.iter().sum::<f32>() + dy[tail..].iter().zip(&x[tail..]).map(|(d, x)| d * x).sum::<f32>()
    } else {
        dy.iter().zip(x[i..].iter().step_by(span.stride)).map(|(d, x)| d * x).sum()
    }
}
