//! Quantisation of activations in one pass: as a chain of operators it would keep four arrays where a bit a value is all that a gradient needs.

use tract_core::internal::*;

use crate::linalg::simd::wide;

/// `x → (round(clip(x/scale, low, high))·unit + zero, mask)`: with a unit of 1 the whole numbers that a quantised tensor stores, as floats; with the
/// scale as the unit what they stand for. The mask says which values were not clipped, eight a byte. With `codes`, a third output holds what was
/// rounded to, a byte a value (see `Decode`).
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

/// Bytes of a mask for `len` values.
pub(super) fn mask_bytes(len: usize) -> usize {
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
        {
            let mut plain = y.try_as_plain_ram_mut()?;
            let (values, mask) = (plain.as_slice_mut::<f32>()?, &mut mask[..]);
            wide!((values: &mut [f32], mask: &mut [u8], scale: f32, low: f32, high: f32) {
                for (values, mask) in values.chunks_mut(8).zip(mask) {
                    for (bit, v) in values.iter_mut().enumerate() {
                        let scaled = *v / scale;
                        *mask |= u8::from(scaled > low && scaled < high) << bit;
                        *v = scaled.max(low).min(high).round_ties_even();
                    }
                }
            });
        }
        let least = low.round_ties_even();
        let coded = codes.then(|| -> TractResult<TValue> {
            let mut codes = vec![0u8; y.len()];
            let (to, rounded) = (&mut codes[..], crate::ops::floats(&y)?);
            wide!((to: &mut [u8], rounded: &[f32], least: f32) {
                to.iter_mut().zip(rounded).for_each(|(code, v)| *code = (v - least) as u8);
            });
            Ok(Tensor::from_shape(y.shape(), &codes)?.into_tvalue())
        });
        {
            let mut plain = y.try_as_plain_ram_mut()?;
            let values = plain.as_slice_mut::<f32>()?;
            wide!((values: &mut [f32], unit: f32, zero: f32) { values.iter_mut().for_each(|v| *v = *v * unit + zero) });
        }
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
