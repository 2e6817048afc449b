//! Activations quantised by the range that they have: ONNX's `DynamicQuantizeLinear`, and what its result stands for.

use tract_core::internal::*;

use crate::linalg::simd::wide;
use crate::ops::floats;

/// `x → (q - zero)·scale`, with `scale` and `zero` such that the codes `q` of 0 to 255 span the values of `x` and 0. With `codes`, a second
/// output holds the codes, a byte a value, and a third `[scale, zero]` (see `DecodeDynamic`).
///
/// Formulas: ONNX operator `DynamicQuantizeLinear`, version 11. Nothing lies outside the range, so that a gradient passes straight through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DynamicQuantise {
    pub codes: bool,
}

/// Scale and zero point for values between the least and the greatest of `x`.
fn parameters(x: &[f32]) -> (f32, f32) {
    let (low, high) = wide!((x: &[f32]) {
        x.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)))
    } -> (f32, f32));
    // Zeros alone have no range: any scale does.
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    (scale, (-low / scale).clamp(0.0, 255.0).round_ties_even())
}

impl Op for DynamicQuantise {
    fn name(&self) -> StaticName {
        "DynamicQuantise".into()
    }
    op_as_typed_op!();
}

impl EvalOp for DynamicQuantise {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut y = args_1!(inputs).into_tensor();
        let (scale, zero) = parameters(floats(&y)?);
        let mut codes = vec![0u8; if self.codes { y.len() } else { 0 }];
        {
            let mut plain = y.try_as_plain_ram_mut()?;
            let values = plain.as_slice_mut::<f32>()?;
            wide!((values: &mut [f32], scale: f32, zero: f32) {
                values.iter_mut().for_each(|v| *v = ((*v / scale).round_ties_even() + zero).clamp(0.0, 255.0));
            });
            let to = &mut codes[..];
            wide!((to: &mut [u8], values: &[f32]) { to.iter_mut().zip(values).for_each(|(code, v)| *code = *v as u8) });
            wide!((values: &mut [f32], scale: f32, zero: f32) {
                values.iter_mut().for_each(|v| *v = (*v - zero) * scale);
            });
        }
        let mut outputs: TVec<TValue> = tvec!();
        if self.codes {
            outputs.push(Tensor::from_shape(y.shape(), &codes)?.into_tvalue());
            outputs.push(tensor1(&[scale, zero]).into_tvalue());
        }
        outputs.insert(0, y.into_tvalue());
        Ok(outputs)
    }
}

impl TypedOp for DynamicQuantise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        let mut facts = tvec!(f32::fact(shape.clone()));
        if self.codes {
            facts.extend([u8::fact(shape.clone()), f32::fact([2])]);
        }
        Ok(facts)
    }
    as_op!();
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::ops::DecodeDynamic;

    fn quantised(x: &[f32]) -> TVec<TValue> {
        let op = DynamicQuantise { codes: true };
        op.eval(&EvalContext::out_of_plan(), tvec!(tensor1(x).into_tvalue())).unwrap()
    }

    #[test]
    fn codes_span_the_values_and_zero() {
        // The example of the operator's specification.
        let out = quantised(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
        let plain = out[1].try_as_plain_ram().unwrap();
        assert_eq!(plain.as_slice::<u8>().unwrap(), [153, 255, 0, 26, 221, 179]);
        assert!((floats(&out[2]).unwrap()[0] - 0.019_607_844).abs() < 1e-9 && floats(&out[2]).unwrap()[1] == 153.0);
        let again = DecodeDynamic.eval(&EvalContext::out_of_plan(), tvec!(out[1].clone(), out[2].clone())).unwrap();
        assert_eq!(again[0], out[0]);
        for x in [[0.0f32; 3], [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]] {
            let out = quantised(&x);
            let y = floats(&out[0]).unwrap().to_vec();
            assert!(y.iter().zip(x).all(|(y, x)| (y - x).abs() <= 0.5 * 3.0 / 255.0 + 1e-6), "{x:?} became {y:?}");
        }
    }
}
