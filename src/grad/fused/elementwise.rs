//! Masks of ReLU and clips, and the slope of the exact GELU.

use tract_core::internal::*;

use super::{backward_op, in_place};
use crate::linalg::simd::wide;

/// `(y, dy) → dy` where `low < y < high`, else 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClipBackward {
    low: u32,
    high: u32,
}

impl ClipBackward {
    pub fn new(low: f32, high: f32) -> ClipBackward {
        ClipBackward { low: low.to_bits(), high: high.to_bits() }
    }
}

backward_op!(ClipBackward, 1);

impl EvalOp for ClipBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let (low, high) = (f32::from_bits(self.low), f32::from_bits(self.high));
        in_place(y, dy, |y, dy| {
            wide(|| {
                let pairs = dy.iter_mut().zip(y);
                pairs.for_each(|(d, y)| *d = if (*y > low) & (*y < high) { *d } else { 0.0 });
            });
        })
    }
}

/// `(x, dy) → dy·(Φ(x) + x·φ(x))`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GeluBackward;

backward_op!(GeluBackward, 1);

impl EvalOp for GeluBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        const BLOCK: usize = 1024;
        let (x, dy) = args_2!(inputs);
        let erf = tract_linalg::routines::Func::Erf.ew_f32()?;
        let exp = tract_linalg::routines::Func::Exp.ew_f32()?;
        let mut failed = None;
        let out = in_place(x, dy, |x, dy| {
            let (mut e, mut p) = ([0f32; BLOCK], [0f32; BLOCK]);
            for (x, dy) in x.chunks(BLOCK).zip(dy.chunks_mut(BLOCK)) {
                let (e, p) = (&mut e[..x.len()], &mut p[..x.len()]);
                wide(|| {
                    for ((x, e), p) in x.iter().zip(e.iter_mut()).zip(p.iter_mut()) {
                        *e = x * std::f32::consts::FRAC_1_SQRT_2;
                        *p = -0.5 * x * x;
                    }
                });
                if let Err(error) = erf.run(e).and_then(|()| exp.run(p)) {
                    failed = Some(error);
                    return;
                }
                wide(|| {
                    for (((x, dy), e), p) in x.iter().zip(dy).zip(e.iter()).zip(p.iter()) {
                        // 1/√(2π)
                        *dy *= 0.5 * (1.0 + e) + 0.398_942_3 * x * p;
                    }
                });
            }
        })?;
        failed.map_or(Ok(out), Err)
    }
}
