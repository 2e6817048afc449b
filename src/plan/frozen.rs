//! The part of a model that no trained site changes, cut off as a plan of its own: what it computes for an example is the same in
//! every epoch, and is kept.

use tract_core::internal::*;

use super::Batch;
use super::graph::dependents;
use super::part::part;
use crate::base::guarded;
use crate::error::{ErrorKind, Result};
use crate::ops::is_constant;

/// The two halves of a forward graph.
pub(super) struct Split {
    /// From the model's inputs to the values that the trained part reads.
    pub prefix: TypedModel,
    /// From those values and the low-rank factors to the model's outputs.
    pub suffix: TypedModel,
    /// Number of values that pass from one to the other: the suffix's first inputs.
    pub passed: usize,
}

/// Least share of a forward pass's multiplications that must lie before the trained part for a cut to be worth its memory.
const WORTH: f64 = 0.2;

/// Cuts `model` where what depends on its low-rank inputs, those after the first `own_inputs`, begins. None where that saves little.
pub(super) fn split(model: &TypedModel, own_inputs: usize) -> TractResult<Option<Split>> {
    let order = model.eval_order()?;
    let trained = dependents(model, &order, &model.inputs[own_inputs..]);
    let mut work = [0f64; 2];
    for &id in &order {
        work[trained.contains(&id) as usize] += multiplications(model, model.node(id))?;
    }
    if work[0] < WORTH * (work[0] + work[1]) {
        return Ok(None);
    }
    let mut passed: Vec<OutletId> = vec![];
    let read = order.iter().filter(|id| trained.contains(id)).flat_map(|id| &model.node(*id).inputs);
    for outlet in read.chain(&model.outputs) {
        if !is_constant(model, *outlet) && !trained.contains(&outlet.node) && !passed.contains(outlet) {
            passed.push(*outlet);
        }
    }
    let factors = &model.inputs[own_inputs..];
    let computed = |id: &usize| trained.contains(id) && !factors.contains(&(*id).into());
    let nodes: Vec<usize> = order.iter().copied().filter(computed).collect();
    let suffix = part(model, &nodes, &[&passed[..], factors].concat(), &model.outputs)?;
    let mut prefix = model.clone();
    prefix.inputs.truncate(own_inputs);
    prefix.select_output_outlets(&passed)?;
    Ok(Some(Split { prefix, suffix, passed: passed.len() }))
}

fn multiplications(model: &TypedModel, node: &TypedNode) -> TractResult<f64> {
    let costs = node.op.cost(&model.node_input_facts(node.id)?)?;
    let products = costs.into_iter().filter(|(cost, _)| matches!(cost, Cost::FMA(_)));
    Ok(products.filter_map(|(_, n)| n.to_usize().ok()).sum::<usize>() as f64)
}

impl Batch {
    /// The batch of each row alone.
    pub fn rows(&self, count: usize) -> Result<Vec<Batch>> {
        let len = self.mask.len() / count.max(1);
        let parts = guarded(ErrorKind::Internal, "cannot take a batch apart", || rows(&self.tensors, count))?;
        let row = |(i, tensors)| Batch { tensors, mask: self.mask[i * len..(i + 1) * len].to_vec() };
        Ok(parts.into_iter().enumerate().map(row).collect())
    }

    /// One batch of these rows.
    pub fn stack(rows: &[&Batch]) -> Result<Batch> {
        let parts: Vec<&[TValue]> = rows.iter().map(|r| &r.tensors[..]).collect();
        let tensors = guarded(ErrorKind::Internal, "cannot put a batch together", || stack(&parts))?;
        Ok(Batch { tensors, mask: rows.iter().flat_map(|r| r.mask.iter().copied()).collect() })
    }

    /// Size of the tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|t| t.len() * t.datum_type().size_of()).sum()
    }
}

/// Rows of a batch's values: row `i` of `rows` is the `i`th equal part of each value along its first axis.
pub(super) fn rows(values: &[TValue], rows: usize) -> TractResult<Vec<Vec<TValue>>> {
    let row = |i: usize| -> TractResult<Vec<TValue>> {
        let part = |v: &TValue| -> TractResult<TValue> {
            let first = v.shape().first().copied().unwrap_or(0);
            ensure!(first > 0 && first % rows == 0, "a value of shape {:?} is not made of {rows} rows", v.shape());
            let len = first / rows;
            Ok(v.slice(0, i * len, (i + 1) * len)?.into_tvalue())
        };
        values.iter().map(part).collect()
    };
    (0..rows).map(row).collect()
}

/// The batch whose rows these are.
pub(super) fn stack(rows: &[&[TValue]]) -> TractResult<Vec<TValue>> {
    let count = rows.first().map_or(0, |r| r.len());
    (0..count)
        .map(|ix| {
            let parts: Vec<&Tensor> = rows.iter().map(|r| &*r[ix]).collect();
            Ok(Tensor::stack_tensors(0, &parts)?.into_tvalue())
        })
        .collect()
}

/// Whether each row of `moved` but the first, the values of a batch whose rows moved by one place beside another first one, has the bits of
/// the row that it should be: the values then belong to the examples one by one. In a batch of one there is nothing to mix.
pub(super) fn are_rows(values: &[TValue], moved: &[TValue], n: usize) -> bool {
    let (Ok(rows), Ok(moved)) = (rows(values, n), rows(moved, n)) else { return false };
    let same = |a: &Tensor, b: &Tensor| {
        a.shape() == b.shape() && a.datum_type() == b.datum_type() && a.as_bytes() == b.as_bytes()
    };
    (1..n).all(|i| rows[i - 1].iter().zip(&moved[i]).all(|(a, b)| same(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_bit_for_bit() {
        let batch = |values: [f32; 4]| [Tensor::from_shape(&[2, 2], &values).unwrap().into_tvalue()];
        let values = batch([1.0, -0.5, 3.0, 4.0]);
        // The first row in the second place, beside another one.
        assert!(are_rows(&values, &batch([9.0, 9.0, 1.0, -0.5]), 2));
        let next = f32::from_bits(1.0f32.to_bits() + 1);
        assert!(!are_rows(&values, &batch([9.0, 9.0, next, -0.5]), 2), "the last bit of one value");
        assert!(!are_rows(&values, &batch([9.0, 9.0, 3.0, 4.0]), 2), "another row");
    }
}
