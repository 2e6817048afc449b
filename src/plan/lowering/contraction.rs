//! Products that sum over several axes, such as the one behind attention, over heads and their values: an operand whose
//! values lie in another order along them is copied into that order first. The runtime would pack both operands, a
//! stored weight into a copy of its own.

use tract_core::axes::AxesMapping;
use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::product::{Product, einsum, worth};

/// Moves the summed axes of one operand to its end, in the order in which the other has them, where that makes the
/// einsum a strided matrix product.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, [a, b, c])) = einsum(model, node)? else { return Ok(None) };
    if Product::of(op, &a, &b, &c).is_some() {
        return Ok(None);
    }
    for slot in [0, 1] {
        // A weight is read where it lies.
        if model.outlet_fact(node.inputs[slot])?.konst.is_some() {
            continue;
        }
        let Some(order) = summed_last(&op.axes, slot) else { continue };
        let shapes = [&a, &b].map(|s| s.to_vec());
        let mut moved = shapes.clone();
        moved[slot] = order.iter().map(|&axis| shapes[slot][axis]).collect();
        let (mut inputs, outputs) = op.axes.to_strs();
        let letters: Vec<char> = inputs[slot].chars().collect();
        inputs[slot] = order.iter().map(|&axis| letters[axis]).collect();
        let op = EinSum { axes: AxesMapping::from_strs(&inputs, &outputs)?, ..op.clone() };
        if !Product::of(&op, &moved[0], &moved[1], &c).is_some_and(|product| worth(&product)) {
            continue;
        }
        let mut patch = TypedModelPatch::new("summed axes last");
        let mut taps = patch.taps(model, &node.inputs)?;
        for (ix, op) in moves(&order).into_iter().enumerate() {
            taps[slot] = patch.wire_node(format!("{}.{slot}.moved.{ix}", node.name), op, &[taps[slot]])?[0];
        }
        let out = patch.wire_node(&node.name, op, &taps)?;
        patch.shunt_outside(model, node.id.into(), out[0])?;
        return Ok(Some(patch));
    }
    Ok(None)
}

/// The axes of operand `slot`: those that are not summed first, in order, and then those that are, in the order of the
/// other operand.
fn summed_last(axes: &AxesMapping, slot: usize) -> Option<Vec<usize>> {
    let place = |axis: &Axis, io: usize| match axis.inputs[io][..] {
        [at] => Some(at),
        _ => None,
    };
    let mut summed: Vec<(usize, usize)> = axes
        .iter_all_axes()
        .filter(|axis| axis.outputs[0].is_empty())
        .map(|axis| Some((place(axis, 1 - slot)?, place(axis, slot)?)))
        .collect::<Option<_>>()?;
    summed.sort();
    let last: Vec<usize> = summed.into_iter().map(|(_, at)| at).collect();
    let first = (0..axes.rank(InOut::In(slot))).filter(|at| !last.contains(at));
    Some(first.chain(last.iter().copied()).collect())
}

/// Single moves that bring axes into `order`, the first ones first.
fn moves(order: &[usize]) -> Vec<AxisOp> {
    let mut now: Vec<usize> = (0..order.len()).collect();
    let mut moves = vec![];
    for (to, axis) in order.iter().enumerate() {
        let from = now.iter().position(|a| a == axis).unwrap_or(to);
        if from != to {
            now.remove(from);
            now.insert(to, *axis);
            moves.push(AxisOp::Move(from, to));
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::lowering::improve;

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| ((i * 29 + seed * 7 + i / 5) % 23) as f32 * 0.1 - 1.1).collect();
        Tensor::from_shape(shape, &values).unwrap()
    }

    #[test]
    fn a_product_behind_attention_reads_its_weight_where_it_lies() {
        // Heads before positions; the weight as the file has it, or with its first axis split in two.
        for (expression, weight) in [("bhtd,hdn->btn", vec![3, 8, 40]), ("bhtd,ndh->btn", vec![40, 8, 3])] {
            let (x, w) = (values(&[2, 3, 17, 8], 1), values(&weight, 2));
            let build = |constant: bool| {
                let mut model = TypedModel::default();
                let from = model.add_source("x", f32::fact(x.shape())).unwrap();
                let by = match constant {
                    true => model.add_const("w", w.clone()).unwrap(),
                    false => model.add_source("w", f32::fact(w.shape())).unwrap(),
                };
                let op = EinSum::new(expression.parse().unwrap(), f32::datum_type());
                let out = model.wire_node("product", op, &[from, by]).unwrap();
                model.select_output_outlets(&out).unwrap();
                model
            };
            for constant in [true, false] {
                let inputs = || -> TVec<TValue> {
                    let all = [Some(&x), (!constant).then_some(&w)];
                    all.into_iter().flatten().map(|t| t.clone().into_tvalue()).collect()
                };
                let run = |model: TypedModel| {
                    model.into_optimized().unwrap().into_runnable().unwrap().run(inputs()).unwrap().remove(0)
                };
                let mut improved = build(constant);
                improve(&mut improved, std::iter::empty()).unwrap();
                assert!(improved.nodes().iter().any(|n| n.op_is::<Product>()), "{expression}, {constant}");
                run(improved).close_enough(&run(build(constant)), Approximation::Approximate).unwrap();
            }
        }
    }
}
