//! The low-rank product as operators of the runtime's graph.

use tract_core::internal::*;

use super::factor::factor;
use super::lowrank::Geometry;
use crate::ops::floats;

/// `(x, y, A, B) → (y + ΔW(x), saved)`. `B` carries the scale `alpha / rank`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LowRank {
    pub site: String,
    pub geometry: Geometry,
}

impl Op for LowRank {
    fn name(&self) -> StaticName {
        "LowRank".into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{} {:?}", self.site, self.geometry)])
    }
    op_as_typed_op!();
}

impl EvalOp for LowRank {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, y, a, b) = args_4!(inputs);
        let mut y = y.into_tensor();
        let saved = {
            let mut plain = y.try_as_plain_ram_mut()?;
            self.geometry.forward(floats(&x)?, &factor(&a)?, &factor(&b)?, plain.as_slice_mut::<f32>()?)
        };
        Ok(tvec!(y.into_tvalue(), tensor1(&saved).into_tvalue()))
    }
}

impl TypedOp for LowRank {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 4, "a low-rank product takes x, y, A and B");
        let y = f32::fact(inputs[1].shape.clone());
        Ok(tvec!(y, f32::fact([self.geometry.saved_len()])))
    }
    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        Ok(tvec!((Cost::FMA(f32::datum_type()), self.geometry.multiplications().to_dim())))
    }
    as_op!();
}

/// `(x, saved, A, B, dy[, sum or W]) → (dA, dB[, dx])`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LowRankBackward {
    pub geometry: Geometry,
    pub x_shape: Vec<usize>,
    /// Without it `dA` is one number that says nothing, and `x` is not read unless the site is depthwise.
    pub need_a: bool,
    pub need_x: bool,
    /// What the sixth input is to `dx`, if there is one.
    pub onto: Onto,
}

/// What a low-rank product's gradient of its input starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Onto {
    Nothing,
    /// A gradient that it is added to.
    Sum,
    /// The frozen kernel of a depthwise convolution, whose gradient of the same input is then part of `dx`.
    Kernel,
}

impl Op for LowRankBackward {
    fn name(&self) -> StaticName {
        "LowRankBackward".into()
    }
    op_as_typed_op!();
}

impl EvalOp for LowRankBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let sixth = if self.onto == Onto::Nothing { None } else { inputs.pop() };
        let (sum, kernel) = if self.onto == Onto::Kernel { (None, sixth) } else { (sixth, None) };
        let (x, saved, a, b, dy) = args_5!(inputs);
        let kernel = kernel.as_deref().map(floats).transpose()?;
        let mut dx = match sum {
            Some(sum) => Some(sum.into_tensor()),
            None if self.need_x => Some(Tensor::zero::<f32>(&self.x_shape)?),
            None => None,
        };
        let g = {
            let mut plain = dx.as_mut().map(Tensor::try_as_plain_ram_mut).transpose()?;
            let dx = plain.as_mut().map(|p| p.as_slice_mut::<f32>()).transpose()?;
            let (x, saved, dy) = (floats(&x)?, floats(&saved)?, floats(&dy)?);
            self.geometry.backward(self.need_a, x, saved, &factor(&a)?, &factor(&b)?, dy, kernel, dx)
        };
        let da = if self.need_a { Tensor::from_shape(a.shape(), &g.a)? } else { tensor1(&[0f32]) };
        let mut out = tvec!(da.into_tvalue(), Tensor::from_shape(b.shape(), &g.b)?.into_tvalue());
        out.extend(dx.map(IntoTValue::into_tvalue));
        Ok(out)
    }
}

impl TypedOp for LowRankBackward {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 5 + (self.onto != Onto::Nothing) as usize, "its backward takes x, saved, A, B and dy");
        let da = if self.need_a { f32::fact(inputs[2].shape.clone()) } else { f32::fact([1]) };
        let mut facts = tvec!(da, f32::fact(inputs[3].shape.clone()));
        if self.need_x {
            facts.push(f32::fact(&self.x_shape));
        }
        Ok(facts)
    }
    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        Ok(tvec!((Cost::FMA(f32::datum_type()), (2 * self.geometry.multiplications()).to_dim())))
    }
    as_op!();
}
