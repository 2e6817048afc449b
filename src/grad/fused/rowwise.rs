//! Softmax and RMS norm over the last axis: one row at a time stays in cache.

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

/// `(y, dy) → y·(dy - Σ dy·y)` over the last axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SoftmaxBackward;

backward_op!(SoftmaxBackward, 1);

impl EvalOp for SoftmaxBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let row = row_length(&dy);
        in_place(y, dy, |y, dy| {
            wide(|| {
                for (y, dy) in y.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
                    let total = dot(y, dy);
                    dy.iter_mut().zip(y).for_each(|(d, y)| *d = (*d - total) * y);
                }
            });
        })
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
            wide(|| {
                for (x, dy) in x.chunks_exact(row).zip(dy.chunks_exact_mut(row)) {
                    let r = (dot(x, x) / n + eps).sqrt().recip();
                    let pull = dot(x, dy) * r * r * r / n;
                    dy.iter_mut().zip(x).for_each(|(d, x)| *d = *d * r - x * pull);
                }
            });
        })
    }
}
