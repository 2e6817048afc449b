//! Masks of ReLU and clips, and the slope of the exact GELU.

use tract_core::internal::*;

use super::{backward_op, in_place};

/// `(y, dy) → dy` where `y` is above (or below) the bound, else 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClipBackward {
    bound: u32,
    above: bool,
}

impl ClipBackward {
    pub fn new(bound: f32, above: bool) -> ClipBackward {
        ClipBackward { bound: bound.to_bits(), above }
    }
}

backward_op!(ClipBackward, 1);

impl EvalOp for ClipBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let bound = f32::from_bits(self.bound);
        in_place(y, dy, |y, dy| {
            let pairs = dy.iter_mut().zip(y);
            if self.above {
                pairs.for_each(|(d, y)| *d = if *y > bound { *d } else { 0.0 });
            } else {
                pairs.for_each(|(d, y)| *d = if *y < bound { *d } else { 0.0 });
            }
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
                for i in 0..x.len() {
                    e[i] = x[i] * std::f32::consts::FRAC_1_SQRT_2;
                    p[i] = -0.5 * x[i] * x[i];
                }
                if let Err(error) = erf.run(e).and_then(|()| exp.run(p)) {
                    failed = Some(error);
                    return;
                }
                for i in 0..x.len() {
                    // 1/√(2π)
                    dy[i] *= 0.5 * (1.0 + e[i]) + 0.398_942_3 * x[i] * p[i];
                }
            }
        })?;
        failed.map_or(Ok(out), Err)
    }
}
