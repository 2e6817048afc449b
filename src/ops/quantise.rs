//! Quantisation of activations in one pass: as a chain of operators it would keep four arrays where a bit a value is all that a gradient needs.

use tract_core::internal::*;

use crate::linalg::simd::wide;

/// `x → (round(clip(x/scale, low, high))·unit + zero, mask)`: with a unit of 1 the whole numbers that a quantised tensor stores, as floats; with the
/// scale as the unit what they stand for. The mask says which values were not clipped, eight a byte. With `codes`, a third output holds what was
/// rounded to, a byte a value (see [`Decode`]).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantise {
    pub scale: f32,
    pub unit: f32,
    pub zero: f32,
    /// Bounds of `x/scale`.
    pub low: f32,
    pub high: f32,
    pub codes: bool,
}

impl Eq for Quantise {}

#[cfg(feature = "train")]
impl Quantise {
    /// What makes values of the codes again; none where a byte has too few.
    pub fn decode(&self) -> Option<Decode> {
        let (low, high) = (self.low.round_ties_even(), self.high.round_ties_even());
        (high - low <= 255.0).then_some(Decode { low, unit: self.unit, zero: self.zero })
    }
}

/// Bytes of a mask for `len` values.
fn mask_bytes(len: usize) -> usize {
    len.div_ceil(8)
}

impl Op for Quantise {
    fn name(&self) -> StaticName {
        "Quantise".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Quantise {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut y = args_1!(inputs).into_tensor();
        let mut mask = vec![0u8; mask_bytes(y.len())];
        let Quantise { scale, unit, zero, low, high, codes } = *self;
        for (values, mask) in y.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?.chunks_mut(8).zip(&mut mask) {
            wide(|| {
                for (bit, v) in values.iter_mut().enumerate() {
                    let scaled = *v / scale;
                    *mask |= u8::from(scaled > low && scaled < high) << bit;
                    *v = scaled.max(low).min(high).round_ties_even();
                }
            });
        }
        let least = low.round_ties_even();
        let coded = codes.then(|| -> TractResult<TValue> {
            let mut codes = vec![0u8; y.len()];
            let rounded = crate::ops::floats(&y)?;
            wide(|| codes.iter_mut().zip(rounded).for_each(|(code, v)| *code = (v - least) as u8));
            Ok(Tensor::from_shape(y.shape(), &codes)?.into_tvalue())
        });
        wide(|| {
            let mut plain = y.try_as_plain_ram_mut()?;
            plain.as_slice_mut::<f32>()?.iter_mut().for_each(|v| *v = *v * unit + zero);
            TractResult::Ok(())
        })?;
        let mut outputs = tvec!(y.into_tvalue(), tensor1(&mask).into_tvalue());
        outputs.extend(coded.transpose()?);
        Ok(outputs)
    }
}

impl TypedOp for Quantise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let len = inputs[0].shape.volume();
        let mut facts = tvec!(f32::fact(inputs[0].shape.clone()), u8::fact([(len + 7) / 8]));
        if self.codes {
            facts.push(u8::fact(inputs[0].shape.clone()));
        }
        Ok(facts)
    }
    as_op!();
}

/// `(codes[, what is to come first]) → (codes + low)·unit + zero`: what [`Quantise`] gave, to the last bit.
#[cfg(feature = "train")]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decode {
    pub low: f32,
    pub unit: f32,
    pub zero: f32,
}

#[cfg(feature = "train")]
impl Eq for Decode {}

#[cfg(feature = "train")]
impl Op for Decode {
    fn name(&self) -> StaticName {
        "Decode".into()
    }
    op_as_typed_op!();
}

#[cfg(feature = "train")]
impl EvalOp for Decode {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let codes = &inputs[0];
        let mut values = vec![0f32; codes.len()];
        let plain = codes.try_as_plain_ram()?;
        let from = plain.as_slice::<u8>()?;
        let Decode { low, unit, zero } = *self;
        wide(|| values.iter_mut().zip(from).for_each(|(v, code)| *v = (f32::from(*code) + low) * unit + zero));
        Ok(tvec!(Tensor::from_shape(codes.shape(), &values)?.into_tvalue()))
    }
}

#[cfg(feature = "train")]
impl TypedOp for Decode {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// `(mask, dy) → dx`: `dy·slope` where nothing was clipped.
#[cfg(feature = "train")]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QuantiseBackward {
    pub slope: f32,
}

#[cfg(feature = "train")]
impl Eq for QuantiseBackward {}

#[cfg(feature = "train")]
impl Op for QuantiseBackward {
    fn name(&self) -> StaticName {
        "QuantiseBackward".into()
    }
    op_as_typed_op!();
}

#[cfg(feature = "train")]
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

#[cfg(feature = "train")]
impl TypedOp for QuantiseBackward {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[1].shape.clone())))
    }
    as_op!();
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::ops::floats;

    #[test]
    fn whole_numbers_within_the_range_and_a_bit_for_each() {
        let op = Quantise { scale: 0.5, unit: 1.0, zero: 3.0, low: -3.499, high: 4.499, codes: true };
        let x = [-9.0f32, -1.7, -1.5, -0.26, 0.0, 0.24, 0.26, 1.2, 2.2, 2.3, 80.0];
        let out = op.eval(&EvalContext::out_of_plan(), tvec!(tensor1(&x).into_tvalue())).unwrap();
        assert_eq!(floats(&out[0]).unwrap(), [0.0, 0.0, 0.0, 2.0, 3.0, 3.0, 4.0, 5.0, 7.0, 7.0, 7.0]);
        let plain = out[1].try_as_plain_ram().unwrap();
        assert_eq!(plain.as_slice::<u8>().unwrap(), [0b1111_1110, 0b001]);
        let decode = op.decode().unwrap();
        let again = decode.eval(&EvalContext::out_of_plan(), tvec!(out[2].clone())).unwrap();
        assert_eq!(again[0], out[0], "codes stand for the same values");
        assert!(Quantise { high: 300.0, ..op }.decode().is_none(), "a byte has too few codes");
    }
}
