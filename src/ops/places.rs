//! Indices that a graph takes from its data. The runtime reads what lies beside an axis where an index is outside of it, or gives up; here every
//! index that is not stored is checked first.

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ndarray::Dimension;
use tract_core::ops::array::{Gather, GatherElements, OneHot as Unchecked, ScatterElements};
use tract_core::ops::logic::IfThenElse;
use tract_core::ops::scan::Scan;

use crate::error::Error;

/// `index → index`, i64: each is within `-n..n` of its axis, and counted from the start of it.
///
/// # Errors
/// `BadData` that names the reader, the index, its place and the axis' length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Places {
    /// The operator that reads at these indices, as the ONNX file names it.
    pub reader: String,
    /// Lengths of the indexed axes: one for all indices, or one for each along the last axis of the index.
    pub lengths: TVec<TDim>,
}

impl Op for Places {
    fn name(&self) -> StaticName {
        "Places".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Places {
    op_out_of_plan!();
    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let index = args_1!(inputs);
        let mut index = index.cast_to::<i64>()?.into_owned();
        let lengths: TVec<i64> =
            self.lengths.iter().map(|d| Ok(d.eval(ctx.symbols).to_i64()?)).collect::<TractResult<_>>()?;
        let shape: TVec<usize> = index.shape().into();
        let mut plain = index.try_as_plain_ram_mut()?;
        for (at, (v, &length)) in plain.as_slice_mut::<i64>()?.iter_mut().zip(lengths.iter().cycle()).enumerate() {
            if !(-length..length).contains(v) {
                let place = tract_ndarray::indices(&*shape).into_iter().nth(at).map(|p| p.slice().to_vec());
                return Err(self.outside(*v, &place.unwrap_or_default(), length).into());
            }
            *v += if *v < 0 { length } else { 0 };
        }
        Ok(tvec!(index.into_tvalue()))
    }
}

impl Places {
    fn outside(&self, index: i64, place: &[usize], length: i64) -> Error {
        Error::bad_data(format!("the input leads to the index {index} at {place:?} of a table of {length}"))
            .at(&self.reader)
            .hint("the model computes this index from its input: give it an input of the sort that it was made for")
    }
}

impl TypedOp for Places {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(i64::fact(inputs[0].shape.clone())))
    }

    fn set_symbols(
        &self,
        _source: &TypedModel,
        node: &TypedNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
        subs: &HashMap<Symbol, TDim>,
    ) -> TractResult<TVec<OutletId>> {
        let lengths = self.lengths.iter().map(|d| d.substitute_all(subs)).collect::<TractResult<_>>()?;
        let op = Places { reader: self.reader.clone(), lengths };
        target.wire_node(&node.name, op, &[mapping[&node.inputs[0]]])
    }
    as_op!();
}

/// `index → ` ones and zeros (`on` and `off`) along a new axis; an index outside of it marks nothing, as ONNX has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OneHot(pub Unchecked);

impl Op for OneHot {
    // The gradient is that of the runtime's own: none.
    fn name(&self) -> StaticName {
        "Onehot".into()
    }
    op_as_typed_op!();
}

impl EvalOp for OneHot {
    op_out_of_plan!();
    fn eval(&self, ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let index = args_1!(inputs);
        let (axis, depth) = (self.0.axis, i64::try_from(self.0.dim)?);
        let mut index = index.cast_to::<i64>()?.into_owned();
        for v in index.try_as_plain_ram_mut()?.as_slice_mut::<i64>()? {
            // What marks nothing marks a place that is cut off again.
            *v = if (-depth..depth).contains(v) { v.rem_euclid(depth) } else { depth };
        }
        let wider = Unchecked { dim: self.0.dim + 1, ..self.0.clone() };
        let marked = wider.eval(ctx, tvec!(index.into_tvalue()))?.remove(0);
        Ok(tvec!(marked.slice(axis, 0, self.0.dim)?.into_tvalue()))
    }
}

impl TypedOp for OneHot {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }
    as_op!();
}

/// Applies [`rule`] to all of `model`, also inside of loops and branches.
pub(crate) fn check(model: &mut TypedModel) -> TractResult<()> {
    for node in &mut model.nodes {
        if let Some(scan) = node.op_as_mut::<Scan>() {
            check(&mut scan.body)?;
        } else if let Some(choice) = node.op_as_mut::<IfThenElse>() {
            check(&mut choice.then_body)?;
            check(&mut choice.else_body)?;
        }
    }
    super::sweep(model, rule)
}

/// Puts [`Places`] before a reader of indices that are not stored, and [`OneHot`] in the place of the runtime's.
fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let axis = match (node.op_as::<Gather>(), node.op_as::<GatherElements>(), node.op_as::<ScatterElements>()) {
        (Some(op), ..) => op.axis,
        (_, Some(op), _) => op.axis,
        (.., Some(op)) => op.axis,
        _ => {
            let Some(op) = node.op_as::<Unchecked>() else { return Ok(None) };
            return TypedModelPatch::replace_single_op(model, node, &node.inputs, OneHot(op.clone())).map(Some);
        }
    };
    let (data, index) = (model.outlet_fact(node.inputs[0])?, model.outlet_fact(node.inputs[1])?);
    if index.konst.is_some() || model.node(node.inputs[1].node).op_is::<Places>() {
        return Ok(None);
    }
    let Some(length) = data.shape.get(axis) else { return Ok(None) };
    let places = Places { reader: node.name.clone(), lengths: tvec!(length.clone()) };
    let mut patch = TypedModelPatch::new("indices are checked");
    let mut taps = patch.taps(model, &node.inputs)?;
    taps[1] = patch.wire_node(format!("{}.places", node.name), places, &[taps[1]])?[0];
    let outputs = patch.wire_node(&node.name, node.op.clone(), &taps)?;
    patch.shunt_outside(model, node.id.into(), outputs[0])?;
    Ok(Some(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn run(op: impl Into<Box<dyn TypedOp>>, inputs: &[Tensor]) -> crate::error::Result<Tensor> {
        crate::base::guarded(ErrorKind::Internal, "cannot run it", || {
            let mut model = TypedModel::default();
            let source = |model: &mut TypedModel, (i, t): (usize, &Tensor)| {
                model.add_source(format!("in{i}"), t.datum_type().fact(t.shape()))
            };
            let sources: Vec<OutletId> =
                inputs.iter().enumerate().map(|i| source(&mut model, i)).collect::<TractResult<_>>()?;
            let outputs = model.wire_node("reader", op, &sources)?;
            model.select_output_outlets(&outputs)?;
            crate::ops::sweep(&mut model, rule)?;
            let plan = model.into_optimized()?.into_runnable()?;
            Ok(plan.run(inputs.iter().map(|t| t.clone().into_tvalue()).collect())?.remove(0).into_tensor())
        })
    }

    fn ramp(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor::from_shape(shape, &(0..n).map(|v| v as f32).collect::<Vec<_>>()).unwrap()
    }

    /// Every reader, along an inner axis too, where the runtime reads the next row: inside from both ends, and just outside of both.
    #[test]
    fn indices_outside_of_an_axis_are_refused() {
        type Build = fn(usize) -> Box<dyn TypedOp>;
        let readers: [Build; 3] = [
            |axis| Box::new(Gather::new(axis)),
            |axis| Box::new(GatherElements::new(axis)),
            |axis| Box::new(ScatterElements::new(axis, Default::default())),
        ];
        for (n, build) in readers.iter().enumerate() {
            for axis in [0, 1] {
                let data = ramp(&[3, 4]);
                let length = [3i64, 4][axis];
                for index in [0, length - 1, -1, -length, length, -length - 1, 1 << 40] {
                    let places = Tensor::from_shape(&[1, 1], &[index]).unwrap();
                    let mut inputs = vec![data.clone(), places];
                    if n == 2 {
                        inputs.push(Tensor::from_shape(&[1, 1], &[-7f32]).unwrap());
                    }
                    let y = run(build(axis), &inputs);
                    if (-length..length).contains(&index) {
                        let at = index.rem_euclid(length) as usize * [4, 1][axis];
                        let y = y.unwrap();
                        let y = crate::sites::floats(&y).unwrap();
                        match n {
                            2 => assert_eq!(y[at], -7.0),
                            _ => assert_eq!(y[0], at as f32),
                        }
                    } else {
                        let e = y.unwrap_err();
                        let said = e.to_string();
                        assert_eq!(e.kind(), ErrorKind::BadData, "{said}");
                        assert!(said.contains(&format!("{index} at [0, 0] of a table of {length} (reader)")), "{said}");
                    }
                }
            }
        }
    }

    /// As ONNX's reference: `[-depth, depth)` marks, everything else marks nothing, also what does not fit into 32 bits.
    #[test]
    fn an_index_outside_of_a_one_hot_marks_nothing() {
        let (off, on) = (tensor0(0f32).into_arc_tensor(), tensor0(1f32).into_arc_tensor());
        let index = Tensor::from_shape(&[6], &[0i64, 2, -1, 3, -4, (1 << 32) + 1]).unwrap();
        for (axis, first) in [(1, [1f32, 0., 0., 0., 0., 1., 0., 0., 1.]), (0, [1., 0., 0., 0., 0., 0., 0., 0., 0.])] {
            let y = run(Unchecked { axis, dim: 3, off: off.clone(), on: on.clone() }, std::slice::from_ref(&index))
                .unwrap();
            let y = crate::sites::floats(&y).unwrap();
            assert_eq!(y[..9], first, "axis {axis}");
            assert_eq!(y.iter().sum::<f32>(), 3.0);
        }
    }
}
