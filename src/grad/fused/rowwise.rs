//! Softmax, its logarithm, and RMS norm over the last axis: one row at a time stays in cache.

use tract_core::internal::*;

use super::{backward_op, in_place};
use crate::linalg::simd::wide;

/// Sixteen partial sums, so that the compiler uses vector registers.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0f32; 16];
    let split = a.len() - a.len() % 16;
    for (a, b) in a[..split].chunks_exact(16).zip(b[..split].chunks_exact(16)) {
        for i in 0..16 {
            acc[i] += a[i] * b[i];
        }
    }
    acc.iter().sum::<f32>() + a[split..].iter().zip(&b[split..]).map(|(a, b)| a * b).sum::<f32>()
}

fn row_length(t: &TValue) -> usize {
    t.shape().last().copied().unwrap_or(1).max(1)
}

/// Place of the largest value; 0 where there is none.
#[inline(always)]
fn largest(row: &[f32]) -> usize {
    let mut most = [f32::NEG_INFINITY; 16];
    for values in row.chunks(16) {
        most.iter_mut().zip(values).for_each(|(m, v)| *m = if *v > *m { *v } else { *m });
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m });
    row.iter().position(|v| *v == most).unwrap_or(0)
}

/// `(y, dy) → y·(d - Σ d·y)` over the last axis, `d = dy - dy[m]` with the place `m` of the largest `y`: where that one is 1, its gradient
/// is the sum of what the others, whose digits are kept, take from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SoftmaxBackward;

backward_op!(SoftmaxBackward, 1);

impl EvalOp for SoftmaxBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let row = row_length(&dy);
        in_place(y, dy, |y, dy| {
            wide!((y: &[f32], dy: &mut [f32], row: usize) {
                for (y, dy) in y.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
                    let pivot = dy[largest(y)];
                    dy.iter_mut().for_each(|d| *d -= pivot);
                    let total = dot(y, dy);
                    dy.iter_mut().zip(y).for_each(|(d, y)| *d = (*d - total) * y);
                }
            });
        })
    }
}

/// `(y, dy) → dy - p·Σ dy` over the last axis, `p = exp y`; at the largest `p`: `dy·Σ' p - p·Σ' dy`, sums over the other places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LogSoftmaxBackward;

backward_op!(LogSoftmaxBackward, 1);

impl EvalOp for LogSoftmaxBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let exp = tract_linalg::routines::Func::Exp.ew_f32()?;
        let row = row_length(&dy);
        let (mut p, mut done) = (vec![0f32; row], Ok(()));
        let out = in_place(y, dy, |y, dy| {
            for (y, dy) in y.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
                p.copy_from_slice(y);
                if done.is_ok() {
                    done = exp.run(&mut p);
                }
                let top = largest(y);
                let (top_p, top_dy) = (std::mem::take(&mut p[top]), std::mem::take(&mut dy[top]));
                let (others_p, others_dy): (f32, f32) = (p.iter().sum(), dy.iter().sum());
                let total = others_dy + top_dy;
                let p = &p[..];
                wide!((dy: &mut [f32], p: &[f32], total: f32) {
                    dy.iter_mut().zip(p).for_each(|(d, p)| *d -= p * total);
                });
                dy[top] = top_dy * others_p - top_p * others_dy;
            }
        })?;
        done.map(|()| out)
    }
}

/// `(x, dy) → r·dy - x·r³·mean(dy·x)` over the last axis, `r = 1/√(mean x² + ε)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RmsNormBackward {
    eps: u32,
}

impl RmsNormBackward {
    pub fn new(eps: f32) -> RmsNormBackward {
        RmsNormBackward { eps: eps.to_bits() }
    }
}

backward_op!(RmsNormBackward, 1);

impl EvalOp for RmsNormBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, dy) = args_2!(inputs);
        let row = row_length(&dy);
        let (n, eps) = (row as f32, f32::from_bits(self.eps));
        in_place(x, dy, |x, dy| {
            wide!((x: &[f32], dy: &mut [f32], row: usize, n: f32, eps: f32) {
                for (x, dy) in x.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
                    let r = (dot(x, x) / n + eps).sqrt().recip();
                    let pull = dot(x, dy) * r * r * r / n;
                    dy.iter_mut().zip(x).for_each(|(d, x)| *d = *d * r - x * pull);
                }
            });
        })
    }
}
