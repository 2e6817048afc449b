//! A narrow weight in the runtime's graph. It is no constant of the graph, which would be folded into floats: it is an operator without
//! inputs, which products read a panel at a time (`plan::lowering`), and which gives floats to anything else.

use tract_core::internal::*;
use tract_core::ops::cast::Cast;
use tract_core::ops::identity::Identity;

use super::convolve::{Convolve, Kernel};
use super::packed::Packed;
use crate::ops::im2col::ConvShape;

/// `() → ` the weight in f32. The numbers are shared by all plans.
#[derive(Debug, Clone)]
pub(crate) struct Widen {
    pub shape: TVec<usize>,
    pub weight: Arc<Packed>,
}

impl PartialEq for Widen {
    fn eq(&self, other: &Widen) -> bool {
        self.shape == other.shape && (Arc::ptr_eq(&self.weight, &other.weight) || self.weight == other.weight)
    }
}

impl Eq for Widen {}

impl Widen {
    /// The whole weight as floats.
    pub fn tensor(&self) -> TractResult<Tensor> {
        let mut values = vec![0f32; self.weight.len()];
        self.weight.widen(0..self.weight.len(), &mut values);
        Tensor::from_shape(&self.shape, &values)
    }
}

impl Op for Widen {
    fn name(&self) -> StaticName {
        "Widen".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Widen {
    // Folding it would make floats of it for good.
    not_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.tensor()?.into_tvalue()))
    }
}

impl TypedOp for Widen {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}

/// The narrow weight behind `outlet`, and the operators that rearrange it on the way, from the weight on.
pub(crate) fn behind(model: &TypedModel, outlet: OutletId) -> Option<(&Widen, Vec<&TypedNode>)> {
    let (mut at, mut path) = (outlet, vec![]);
    loop {
        let node = model.node(at.node);
        if let Some(widen) = node.op_as::<Widen>() {
            path.reverse();
            return Some((widen, path));
        }
        let cast = node.op_as::<Cast>().is_some_and(|c| c.to == f32::datum_type());
        if !cast && !node.op_is::<AxisOp>() && !node.op_is::<Identity>() {
            return None;
        }
        path.push(node);
        at = *node.inputs.first()?;
    }
}

/// The narrow weight behind `outlet` in the order that it is stored in.
pub(crate) fn in_order(model: &TypedModel, outlet: OutletId) -> Option<&Widen> {
    let (widen, path) = behind(model, outlet)?;
    let moves = |n: &&TypedNode| matches!(n.op_as::<AxisOp>(), Some(AxisOp::Move(..)));
    (!path.iter().any(moves)).then_some(widen)
}

/// The kernel behind a transposed convolution, `shape` being the convolution that it transposes, if it is stored in that one's order:
/// the runtime moves `[groups·ci, co, taps]` to `[groups·co, ci, taps]`.
pub(super) fn transposed_kernel(
    model: &TypedModel,
    outlet: OutletId,
    shape: &ConvShape,
) -> TractResult<Option<Arc<Packed>>> {
    let Some((widen, path)) = behind(model, outlet) else { return Ok(None) };
    if !Convolve::fits(shape, &Kernel::Narrow(widen.weight.clone())) {
        return Ok(None);
    }
    // Where each value comes from, as the runtime moves them.
    let places: Vec<i64> = (0..widen.weight.len() as i64).collect();
    let mut moved = Tensor::from_shape(&widen.shape, &places)?.into_tvalue();
    for node in path.iter().filter(|n| n.op_is::<AxisOp>()) {
        moved = node.op.eval(&EvalContext::out_of_plan(), tvec!(moved))?.remove(0);
    }
    let (ci, co, taps) = (shape.group_out(), shape.group_in(), shape.taps());
    let plain = moved.try_as_plain_ram()?;
    let as_stored = plain.as_slice::<i64>()?.iter().enumerate().all(|(i, &from)| {
        let (o, c, t) = (i / (ci * taps), i / taps % ci, i % taps);
        from as usize == ((o / co * ci + c) * co + o % co) * taps + t
    });
    Ok(as_stored.then(|| widen.weight.clone()))
}

/// Whether `outlet` has the same value in every run.
pub(crate) fn is_constant(model: &TypedModel, outlet: OutletId) -> bool {
    model.outlet_fact(outlet).is_ok_and(|f| f.konst.is_some()) || behind(model, outlet).is_some()
}

/// The value of `outlet`, if it is the same in every run; a narrow weight is widened.
pub(crate) fn constant(model: &TypedModel, outlet: OutletId) -> TractResult<Option<Arc<Tensor>>> {
    if let Some(k) = &model.outlet_fact(outlet)?.konst {
        return Ok(Some(k.clone()));
    }
    let Some((widen, path)) = behind(model, outlet) else { return Ok(None) };
    let mut value = widen.tensor()?.into_tvalue();
    for node in path {
        value = node.op.eval(&EvalContext::out_of_plan(), tvec!(value))?.remove(0);
    }
    Ok(Some(value.into_arc_tensor()))
}

/// Puts the constant at `outlet` of `from` into `to`, narrow if it is; none if it is no constant.
pub(crate) fn copy_constant(
    from: &TypedModel,
    outlet: OutletId,
    to: &mut TypedModel,
    name: &str,
) -> TractResult<Option<OutletId>> {
    if let Some(k) = &from.outlet_fact(outlet)?.konst {
        return to.add_const(name, k.clone()).map(Some);
    }
    let Some((widen, path)) = behind(from, outlet) else { return Ok(None) };
    let mut wires = to.wire_node(name, widen.clone(), &[])?;
    for (i, node) in path.into_iter().enumerate() {
        wires = to.wire_node(format!("{name}.{i}"), node.op.clone(), &wires)?;
    }
    Ok(Some(wires[0]))
}

/// `(indices) → ` rows of a narrow table: only what is looked up is widened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub table: Widen,
}

impl Op for Lookup {
    fn name(&self) -> StaticName {
        "Lookup".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Lookup {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let index = args_1!(inputs);
        let (rows, row) = (self.table.shape[0], self.table.shape[1..].iter().product::<usize>());
        let wanted = index.cast_to::<i64>()?;
        let plain = wanted.try_as_plain_ram()?;
        let wanted = plain.as_slice::<i64>()?;
        let mut out = vec![0f32; wanted.len() * row];
        for (&at, out) in wanted.iter().zip(out.chunks_exact_mut(row.max(1))) {
            let at = usize::try_from(if at < 0 { at + rows as i64 } else { at }).ok().filter(|at| *at < rows);
            let at = at.with_context(|| format!("a row beyond the {rows} of a table is looked up"))?;
            self.table.weight.widen(at * row..(at + 1) * row, out);
        }
        let shape: TVec<usize> = index.shape().iter().chain(&self.table.shape[1..]).copied().collect();
        Ok(tvec!(Tensor::from_shape(&shape, &out)?.into_tvalue()))
    }
}

impl TypedOp for Lookup {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.extend(self.table.shape[1..].iter().map(|d| d.to_dim()));
        Ok(tvec!(f32::fact(shape)))
    }
    as_op!();
}
