//! The gradient of a product over axes, right where factors are zero.

use tract_core::internal::*;

use super::backward_op;
use crate::ops::floats;

/// `(x, dy) → dx`: each `dy` times the product of the other factors. `dy` has size 1 along the axes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProdBackward {
    pub axes: TVec<usize>,
}

backward_op!(ProdBackward, 0);

impl EvalOp for ProdBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, dy) = args_2!(inputs);
        let (xs, dys, shape) = (floats(&x)?, floats(&dy)?, x.shape());
        // Which product each factor belongs to: its place without the axes.
        let group = |i: usize| {
            let (mut rest, mut at, mut step) = (i, 0, 1);
            for (axis, &size) in shape.iter().enumerate().rev() {
                if !self.axes.contains(&axis) {
                    at += rest % size * step;
                    step *= size;
                }
                rest /= size;
            }
            at
        };
        let mut others = vec![1f32; xs.len()];
        // The factors before, then those behind.
        let mut so_far = vec![1f32; dys.len()];
        for (i, x) in xs.iter().enumerate() {
            others[i] *= so_far[group(i)];
            so_far[group(i)] *= x;
        }
        so_far.fill(1.0);
        for (i, x) in xs.iter().enumerate().rev() {
            others[i] *= so_far[group(i)];
            so_far[group(i)] *= x;
        }
        others.iter_mut().enumerate().for_each(|(i, d)| *d *= dys[group(i)]);
        Ok(tvec!(Tensor::from_shape(shape, &others)?.into_tvalue()))
    }
}
