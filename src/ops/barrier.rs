//! Keeps tract's declutter from moving strides to where it gets them wrong: a `Downsample` that it moves over a reshape ends in an error,
//! and one that does not start at 0 loses its start where it goes into the convolution before it.

use std::collections::HashSet;

use tract_core::internal::*;
use tract_core::ops::array::{Slice, StridedSlice};
use tract_core::ops::cnn::Conv;
use tract_core::ops::downsample::Downsample;

/// `x → x`; no rewriting looks through it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Hold;

impl Op for Hold {
    fn name(&self) -> StaticName {
        "Hold".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Hold {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(inputs)
    }
}

impl TypedOp for Hold {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// Puts a [`Hold`] before every stride of a graph that is not decluttered yet and that could be moved over a reshape or a slice.
pub(crate) fn hold_strides(model: &mut TypedModel) -> TractResult<()> {
    for id in model.eval_order()? {
        let node = model.node(id);
        let moves = node.op_is::<Downsample>()
            || node.op_as::<StridedSlice>().map_or(Ok(false), |op| has_steps(model, node, op))?
            || node.op_as::<Conv>().is_some_and(|op| is_split(op) && lies_behind_cut(model, node));
        if !moves || model.outlet_fact(node.inputs[0])?.konst.is_some() {
            continue;
        }
        let mut patch = TypedModelPatch::new("a stride stays where it is");
        let mut taps = patch.taps(model, &node.inputs)?;
        taps[0] = patch.wire_node(format!("{}.hold", node.name), Hold, &taps[..1])?[0];
        let outputs = patch.wire_node(&node.name, node.op.clone(), &taps)?;
        patch.shunt_outside(model, id.into(), outputs[0])?;
        patch.apply(model)?;
    }
    Ok(())
}

/// Whether the slice has steps other than 1.
fn has_steps(model: &TypedModel, node: &TypedNode, op: &StridedSlice) -> TractResult<bool> {
    let Some(&steps) = op.optional_steps_input.and_then(|slot| node.inputs.get(slot)) else { return Ok(false) };
    let Some(steps) = &model.outlet_fact(steps)?.konst else { return Ok(true) };
    let steps = steps.cast_to::<i64>()?;
    Ok(steps.try_as_plain_ram()?.as_slice::<i64>()?.iter().any(|s| *s != 1))
}

/// Whether tract takes a stride of the convolution out of it.
fn is_split(op: &Conv) -> bool {
    let spec = &op.pool_spec;
    (0..spec.rank()).any(|ax| {
        spec.stride(ax) > 1 && (spec.kernel_shape[ax] == 1 || spec.dilation(ax).is_multiple_of(spec.stride(ax)))
    })
}

/// Whether a slice or a reshape lies between the convolution `node` and the ones before it.
fn lies_behind_cut(model: &TypedModel, node: &TypedNode) -> bool {
    let (mut next, mut seen) = (vec![node.inputs[0].node], HashSet::new());
    while let Some(id) = next.pop() {
        let node = model.node(id);
        if node.op_is::<Slice>() || node.op_is::<StridedSlice>() || node.op_is::<AxisOp>() {
            return true;
        }
        if seen.insert(id) && !node.op_is::<Conv>() {
            next.extend(node.inputs.iter().map(|i| i.node));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tract_core::ops::cnn::{KernelFormat, PaddingSpec, PoolSpec};
    use tract_core::ops::nn::DataFormat;

    use super::*;

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|i| ((i * 37 + seed * 11 + i / 7) % 41) as f32 * 0.05 - 1.0).collect();
        Tensor::from_shape(shape, &data).unwrap()
    }

    fn convolution(model: &mut TypedModel, name: &str, x: OutletId, size: usize, stride: usize) -> OutletId {
        let spec =
            PoolSpec::new(DataFormat::NCHW, tvec!(size; 2), PaddingSpec::Valid, None, Some(tvec!(stride; 2)), 4, 4);
        let w = model.add_const(format!("{name}.w"), values(&[4, 4, size, size], size)).unwrap();
        let b = model.add_const(format!("{name}.b"), values(&[4], 2)).unwrap();
        model.wire_node(name, Conv::new(spec, KernelFormat::OIHW, 1, None), &[x, w, b]).unwrap()[0]
    }

    /// From the second place along `axis` on, as a strided slice is loaded.
    fn slice(model: &mut TypedModel, x: OutletId, axis: usize, step: i64) -> OutletId {
        let mut inputs = vec![x];
        for (name, value) in [("start", 1), ("end", i64::MAX), ("axes", axis as i64), ("steps", step)] {
            inputs.push(model.add_const(format!("{name}.{axis}"), tensor1(&[value])).unwrap());
        }
        let op = StridedSlice {
            optional_axes_input: Some(3),
            optional_steps_input: Some(4),
            begin_mask: 0,
            end_mask: 0,
            shrink_axis_mask: 0,
        };
        model.wire_node(format!("slice.{axis}"), op, &inputs).unwrap()[0]
    }

    fn to_grid(model: &mut TypedModel, x: OutletId) -> OutletId {
        let split = AxisOp::Reshape(2, tvec!(63.to_dim()), tvec!(7.to_dim(), 9.to_dim()));
        model.wire_node("grid", split, &[x]).unwrap()[0]
    }

    /// What the graph that `build` makes of an input of `shape` gives when it is held and optimised, and as it is.
    fn both(shape: &[usize], build: impl Fn(&mut TypedModel, OutletId) -> OutletId) -> (Tensor, Tensor) {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact(shape)).unwrap();
        let y = build(&mut model, x);
        model.select_output_outlets(&[y]).unwrap();
        let run = |model: TypedModel| {
            let out = model.into_runnable().unwrap().run(tvec!(values(shape, 5).into_tvalue())).unwrap();
            out[0].clone().into_tensor()
        };
        let mut held = model.clone();
        hold_strides(&mut held).unwrap();
        (run(held.into_optimized().unwrap()), run(model))
    }

    fn check(shape: &[usize], build: impl Fn(&mut TypedModel, OutletId) -> OutletId) {
        let (held, plain) = both(shape, build);
        held.close_enough(&plain, Approximation::Approximate).unwrap();
    }

    #[test]
    fn a_stride_over_a_reshape() {
        for batch in [1, 2] {
            check(&[batch, 4, 63], |m, x| {
                let grid = to_grid(m, x);
                let rows = m.wire_node("rows", Downsample::new(2, 2, 0), &[grid]).unwrap()[0];
                slice(m, rows, 3, 2)
            });
            check(&[batch, 4, 63], |m, x| {
                let grid = to_grid(m, x);
                convolution(m, "pointwise", grid, 1, 2)
            });
        }
    }

    #[test]
    fn a_stride_that_starts_late_behind_a_convolution() {
        for batch in [1, 2] {
            check(&[batch, 4, 10, 12], |m, x| {
                let y = convolution(m, "conv", x, 3, 1);
                slice(m, y, 2, 2)
            });
            check(&[batch, 4, 10, 12], |m, x| {
                let y = convolution(m, "conv", x, 3, 1);
                let late = slice(m, y, 3, 1);
                convolution(m, "pointwise", late, 1, 2)
            });
        }
    }

    #[test]
    fn strides_between_convolutions_stay_tracts() {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([2, 4, 9, 11])).unwrap();
        let y = convolution(&mut model, "conv", x, 3, 1);
        let y = convolution(&mut model, "pointwise", y, 1, 2);
        model.select_output_outlets(&[y]).unwrap();
        hold_strides(&mut model).unwrap();
        assert!(!model.nodes().iter().any(|n| n.op_is::<Hold>()));
    }
}
