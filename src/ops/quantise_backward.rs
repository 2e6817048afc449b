//! What a gradient needs of quantised activations: the values that codes stand for, and the slope where nothing was clipped.

use tract_core::internal::*;

use super::floats;
use super::quantise::{Quantise, mask_bytes};
use crate::linalg::simd::wide;

impl Quantise {
    /// What makes values of the codes again; none where a byte has too few.
    pub fn decode(&self) -> Option<Decode> {
        let (low, high) = (self.low.round_ties_even(), self.high.round_ties_even());
        (high - low <= 255.0).then_some(Decode { low, unit: self.unit, zero: self.zero })
    }
}

/// `(codes[, what is to come first]) → (codes + low)·unit + zero`: what [`Quantise`] gave, to the last bit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decode {
    pub low: f32,
    pub unit: f32,
    pub zero: f32,
}

impl Eq for Decode {}

impl Op for Decode {
    fn name(&self) -> StaticName {
        "Decode".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Decode {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let codes = &inputs[0];
        let mut values = vec![0f32; codes.len()];
        let plain = codes.try_as_plain_ram()?;
        let (to, from) = (&mut values[..], plain.as_slice::<u8>()?);
        let Decode { low, unit, zero } = *self;
        wide!((to: &mut [f32], from: &[u8], low: f32, unit: f32, zero: f32) {
            to.iter_mut().zip(from).for_each(|(v, code)| *v = (f32::from(*code) + low) * unit + zero);
        });
        Ok(tvec!(Tensor::from_shape(codes.shape(), &values)?.into_tvalue()))
    }
}

impl TypedOp for Decode {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// `(mask, dy) → dx`: `dy·slope` where nothing was clipped.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QuantiseBackward {
    pub slope: f32,
}

impl Eq for QuantiseBackward {}

impl Op for QuantiseBackward {
    fn name(&self) -> StaticName {
        "QuantiseBackward".into()
    }
    op_as_typed_op!();
}

impl EvalOp for QuantiseBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (mask, dy) = args_2!(inputs);
        let mut dx = dy.into_tensor();
        let plain = mask.try_as_plain_ram()?;
        let mask = plain.as_slice::<u8>()?;
        ensure!(mask.len() == mask_bytes(dx.len()), "a mask of {} bytes for {} values", mask.len(), dx.len());
        for (values, mask) in dx.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?.chunks_mut(8).zip(mask) {
            for (bit, v) in values.iter_mut().enumerate() {
                *v = if mask >> bit & 1 == 1 { *v * self.slope } else { 0.0 };
            }
        }
        Ok(tvec!(dx.into_tvalue()))
    }
}

impl TypedOp for QuantiseBackward {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[1].shape.clone())))
    }
    as_op!();
}

/// `(codes, [scale, zero][, what is to come first]) → (codes - zero)·scale`: what [`DynamicQuantise`](super::DynamicQuantise) gave, to the last bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeDynamic;

impl Op for DecodeDynamic {
    fn name(&self) -> StaticName {
        "DecodeDynamic".into()
    }
    op_as_typed_op!();
}

impl EvalOp for DecodeDynamic {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (codes, parameters) = (&inputs[0], &inputs[1]);
        let &[scale, zero] = floats(parameters)? else { bail!("codes come with a scale and a zero point") };
        let mut values = vec![0f32; codes.len()];
        let plain = codes.try_as_plain_ram()?;
        let (to, from) = (&mut values[..], plain.as_slice::<u8>()?);
        wide!((to: &mut [f32], from: &[u8], scale: f32, zero: f32) {
            to.iter_mut().zip(from).for_each(|(v, code)| *v = (f32::from(*code) - zero) * scale);
        });
        Ok(tvec!(Tensor::from_shape(codes.shape(), &values)?.into_tvalue()))
    }
}

impl TypedOp for DecodeDynamic {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}
