//! Gradients that put values back where they were read.

use tract_core::internal::*;

use crate::ops::floats;

/// `dy` spread along `axis` with zeros between: the inverse of a strided read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct UpsampleZeros {
    pub axis: usize,
    pub stride: usize,
    pub modulo: usize,
    /// Length of the axis before the strided read.
    pub len: usize,
}

impl Op for UpsampleZeros {
    fn name(&self) -> StaticName {
        "UpsampleZeros".into()
    }
    op_as_typed_op!();
}

impl TypedOp for UpsampleZeros {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape[self.axis] = self.len.to_dim();
        Ok(tvec!(f32::fact(shape)))
    }
    as_op!();
}

impl EvalOp for UpsampleZeros {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let dy = args_1!(inputs);
        let (outer, short, inner) = around(dy.shape(), self.axis);
        let mut shape: TVec<usize> = dy.shape().into();
        shape[self.axis] = self.len;
        let mut out = vec![0f32; outer * self.len * inner];
        let from = floats(&dy)?;
        for o in 0..outer {
            for i in 0..short {
                let to = (o * self.len + self.modulo + i * self.stride) * inner;
                out[to..to + inner].copy_from_slice(&from[(o * short + i) * inner..][..inner]);
            }
        }
        Ok(tvec!(Tensor::from_shape(&shape, &out)?.into_tvalue()))
    }
}

/// `(index, dy) → ` zeros of `shape` with `dy` added at the gathered places along `axis`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GatherBackward {
    pub axis: usize,
    /// Shape of what was gathered from.
    pub shape: TVec<usize>,
}

impl Op for GatherBackward {
    fn name(&self) -> StaticName {
        "GatherBackward".into()
    }
    op_as_typed_op!();
}

impl TypedOp for GatherBackward {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}

impl EvalOp for GatherBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (index, dy) = args_2!(inputs);
        let (outer, len, inner) = around(&self.shape, self.axis);
        let index = index.cast_to::<i64>()?;
        let plain = index.try_as_plain_ram()?;
        let index = plain.as_slice::<i64>()?;
        let from = floats(&dy)?;
        let mut out = vec![0f32; outer * len * inner];
        for o in 0..outer {
            for (i, &at) in index.iter().enumerate() {
                let at = usize::try_from(if at < 0 { at + len as i64 } else { at })?;
                ensure!(at < len, "gathered index {at} of {len}");
                let dy = &from[(o * index.len() + i) * inner..][..inner];
                out[(o * len + at) * inner..][..inner].iter_mut().zip(dy).for_each(|(x, d)| *x += d);
            }
        }
        Ok(tvec!(Tensor::from_shape(&self.shape, &out)?.into_tvalue()))
    }
}

/// `(index, dy) → ` zeros of `shape` with `dy` added at the gathered places, within equal places of the first `batch_dims` axes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GatherNdBackward {
    pub batch_dims: usize,
    /// Shape of what was gathered from.
    pub shape: TVec<usize>,
}

impl Op for GatherNdBackward {
    fn name(&self) -> StaticName {
        "GatherNdBackward".into()
    }
    op_as_typed_op!();
}

impl TypedOp for GatherNdBackward {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}

impl EvalOp for GatherNdBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (index, dy) = args_2!(inputs);
        let axes = index.shape().last().copied().context("a gather without an index")?;
        let (batch, rest) = self.shape.split_at(self.batch_dims);
        ensure!(axes > 0 && axes <= rest.len(), "an index of {axes} axes into {:?}", self.shape);
        let (sizes, part) = (&rest[..axes], rest[axes..].iter().product::<usize>());
        let plane = sizes.iter().product::<usize>() * part;
        let index = index.cast_to::<i64>()?;
        let plain = index.try_as_plain_ram()?;
        let places = plain.as_slice::<i64>()?.chunks_exact(axes);
        let each = places.len() / batch.iter().product::<usize>().max(1);
        let mut out = vec![0f32; self.shape.iter().product()];
        for ((i, place), dy) in places.enumerate().zip(floats(&dy)?.chunks_exact(part.max(1))) {
            let mut at = 0;
            for (&p, &size) in place.iter().zip(sizes) {
                let p = usize::try_from(if p < 0 { p + size as i64 } else { p })?;
                ensure!(p < size, "gathered index {p} of {size}");
                at = at * size + p;
            }
            let to = &mut out[i / each * plane + at * part..][..part];
            to.iter_mut().zip(dy).for_each(|(x, d)| *x += d);
        }
        Ok(tvec!(Tensor::from_shape(&self.shape, &out)?.into_tvalue()))
    }
}

/// Sizes before, at and after `axis`.
fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}
