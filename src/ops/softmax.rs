//! Attention's softmax that answers zeros where everything is masked, as one operator. Exporters write it as
//! `where(isnan(softmax(x)), 0, softmax(x))`, which passes over memory three times and keeps two copies of the weights for the backward pass.

use tract_core::internal::*;
use tract_core::ops::array::MultiBroadcastTo;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::logic::Iff;
use tract_core::ops::math::IsNan;
use tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_linalg::routines::Func;

use crate::linalg::simd::wide;

/// `x → softmax(x)` over the last axis; a row that has none, since all of it is −∞ or some of it is no number, is zero.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SafeSoftmax;

impl Op for SafeSoftmax {
    fn name(&self) -> StaticName {
        "SafeSoftmax".into()
    }
    op_as_typed_op!();
}

impl TypedOp for SafeSoftmax {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}

impl EvalOp for SafeSoftmax {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut x = args_1!(inputs).into_tensor();
        let width = x.shape().last().copied().unwrap_or(1).max(1);
        let softmax = softmax_of_rows(true)?;
        for row in x.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?.chunks_exact_mut(width) {
            softmax(row)?;
        }
        Ok(tvec!(x.into_tvalue()))
    }
}

/// What makes the softmax of a row in place. Where there is none, the row is zero if it is `safe`, else not a number.
pub(crate) fn softmax_of_rows(safe: bool) -> TractResult<impl Fn(&mut [f32]) -> TractResult<()>> {
    let (top, exp_sum) = (Func::ReduceMax.reduce_f32()?, Func::Softmax2.map_reduce_f32()?);
    Ok(move |row: &mut [f32]| {
        let sum = exp_sum.run_with_params(row, top.run(row)?)?;
        if safe && !(sum.is_finite() && sum > 0.0) {
            row.fill(0.0);
        } else {
            let inverse = sum.recip();
            wide!((row: &mut [f32], inverse: f32) { row.iter_mut().for_each(|x| *x *= inverse) });
        }
        Ok(())
    })
}

/// Whether `node` is a softmax of floats over the last axis alone.
pub(crate) fn is_softmax_of_rows(node: &TypedNode) -> bool {
    let last = node.outputs[0].fact.rank().checked_sub(1);
    node.op_as::<Softmax>().is_some_and(|op| {
        let over_last = last.is_some_and(|last| op.axes[..] == [last]);
        op.kind == SoftmaxKind::Softmax && op.quant_output_dt.is_none() && over_last
    })
}

/// `where(isnan(s), 0, s)` with `s` a softmax that nothing else reads.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    if !node.op_is::<Iff>() {
        return Ok(None);
    }
    let [condition, zero, s] = node.inputs[..] else { return Ok(None) };
    let (test, softmax) = (model.node(condition.node), model.node(s.node));
    let is_test = test.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<IsNan>()) && test.inputs[..] == [s];
    let fact = &node.outputs[0].fact;
    let fits = fact.datum_type == f32::datum_type() && fact.shape == softmax.outputs[0].fact.shape;
    let readers = softmax.outputs[0].successors.len();
    if !is_test
        || !is_softmax_of_rows(softmax)
        || !fits
        || readers != 2
        || model.outputs.contains(&s)
        || !is_zero(model, zero)?
    {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &softmax.inputs, SafeSoftmax).map(Some)
}

/// Whether `outlet` is zero throughout.
fn is_zero(model: &TypedModel, outlet: OutletId) -> TractResult<bool> {
    let node = model.node(outlet.node);
    let source = if node.op_is::<MultiBroadcastTo>() { node.inputs[0] } else { outlet };
    let fact = model.outlet_fact(source)?;
    let constant = fact.konst.as_ref().filter(|k| k.datum_type() == f32::datum_type());
    Ok(constant.is_some_and(|k| crate::ops::floats(k).is_ok_and(|values| values.iter().all(|v| *v == 0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_core::ops::math::is_nan;

    #[test]
    fn what_is_masked_throughout_is_zero() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([3, 4])).unwrap();
        let s = model.wire_node("s", Softmax::new(tvec![1], None, SoftmaxKind::Softmax), &[x]).unwrap()[0];
        let test = model.wire_node("test", is_nan(), &[s]).unwrap()[0];
        let zero = model.add_const("zero", Tensor::zero::<f32>(&[1, 1]).unwrap()).unwrap();
        let zero = model.wire_node("wide", MultiBroadcastTo { shape: [3, 4].into() }, &[zero]).unwrap()[0];
        let y = model.wire_node("y", Iff, &[test, zero, s]).unwrap()[0];
        model.select_output_outlets(&[y]).unwrap();
        let mut fused = model.clone();
        crate::ops::fuse(&mut fused).unwrap();
        assert!(fused.eval_order().unwrap().iter().any(|id| fused.node(*id).op_is::<SafeSoftmax>()));
        let inf = f32::NEG_INFINITY;
        let values = [[0.5, -1.0, 2.0, inf], [inf; 4], [1.0, f32::NAN, 0.0, 0.0]].concat();
        let x = Tensor::from_shape(&[3, 4], &values).unwrap().into_tvalue();
        let run = |m: TypedModel| m.into_runnable().unwrap().run(tvec!(x.clone())).unwrap().remove(0);
        let (plain, fused) = (run(model), run(fused));
        plain.close_enough(&fused, Approximation::Close).unwrap();
        assert_eq!(crate::ops::floats(&fused).unwrap()[4..], [0.0; 8]);
    }
}
