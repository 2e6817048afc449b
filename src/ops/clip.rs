//! ReLU, ReLU6 and other clips to constant bounds as one operator: a chain of a maximum and a minimum passes twice over memory,
//! and its gradient wants both results kept.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::math::{Max, Min};

use super::read_once;
use crate::linalg::simd::wide;

/// `x → min(max(x, low), high)`; a bound may be infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Clip {
    low: u32,
    high: u32,
}

impl Clip {
    fn new(low: f32, high: f32) -> Clip {
        Clip { low: low.to_bits(), high: high.to_bits() }
    }
    pub fn bounds(self) -> (f32, f32) {
        (f32::from_bits(self.low), f32::from_bits(self.high))
    }
    pub fn apply(self, values: &mut [f32]) {
        let (low, high) = self.bounds();
        wide!((values: &mut [f32], low: f32, high: f32) { values.iter_mut().for_each(|v| *v = v.max(low).min(high)) });
    }
}

impl Op for Clip {
    fn name(&self) -> StaticName {
        "Clip".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Clip {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut x = args_1!(inputs).into_tensor();
        self.apply(x.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
        Ok(tvec!(x.into_tvalue()))
    }
}

impl TypedOp for Clip {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// A maximum or a minimum with a constant, and the other one before it.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((x, mut low, mut high)) = bound(model, node)? else { return Ok(None) };
    let next = model.node(node.id).outputs[0].successors.first().map(|s| model.node(s.node));
    if let Some(next) = next.filter(|_| read_once(model, node.id.into()))
        && let Some((_, l, h)) = bound(model, next)?
        && low.max(l) <= high.min(h)
    {
        return Ok(None); // the next node takes this one along
    }
    let mut input = x;
    let before = model.node(x.node);
    if read_once(model, x)
        && let Some((first, l, h)) = bound(model, before)?
        && low.max(l) <= high.min(h)
    {
        (input, low, high) = (first, low.max(l), high.min(h));
    }
    Ok(Some(TypedModelPatch::replace_single_op(model, node, &[input], Clip::new(low, high))?))
}

/// `(x, low, high)` of a node that bounds an f32 tensor by one constant on one side.
fn bound(model: &TypedModel, node: &TypedNode) -> TractResult<Option<(OutletId, f32, f32)>> {
    let Some(op) = node.op_as::<TypedBinOp>() else { return Ok(None) };
    let (is_max, is_min) = (op.0.is::<Max>(), op.0.is::<Min>());
    if !(is_max || is_min) {
        return Ok(None);
    }
    for (x, k) in [(0, 1), (1, 0)] {
        let (x, k) = (node.inputs[x], node.inputs[k]);
        let fact = model.outlet_fact(x)?;
        let constant = model.outlet_fact(k)?.konst.as_ref().filter(|k| k.len() == 1);
        if let Some(k) = constant
            && fact.konst.is_none()
            && fact.datum_type == f32::datum_type()
            && fact.shape == node.outputs[0].fact.shape
        {
            let k = k.cast_to_scalar::<f32>()?;
            return Ok(Some(if is_max { (x, k, f32::INFINITY) } else { (x, f32::NEG_INFINITY, k) }));
        }
    }
    Ok(None)
}
