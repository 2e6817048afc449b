//! Attention's `softmax(scale·x + mask)` in one pass over memory; tract's addition of a mask that is broadcast over heads and
//! rows is generic, and cost as much as a tenth of the frozen products.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::math::{Add, Mul};

use super::dims;
use crate::linalg::simd::wide;
use crate::ops::{SafeSoftmax, floats, is_softmax_of_rows, read_once, softmax_of_rows};
use crate::sync::{each_chunk, parts};

/// Scores of a part: some 10 µs. Tests share what is smaller, too.
const PART: usize = if cfg!(test) { 1 << 6 } else { 1 << 12 };

/// `(x, mask) → softmax(scale·x + mask)` over the last axis, zero where all is masked if it is `safe`. The mask is 1 or as large as `x` along every axis, and as large
/// along the last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MaskedSoftmax {
    scale: u32,
    safe: bool,
}

impl Op for MaskedSoftmax {
    fn name(&self) -> StaticName {
        "MaskedSoftmax".into()
    }
    op_as_typed_op!();
}

impl TypedOp for MaskedSoftmax {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
    as_op!();
}

impl EvalOp for MaskedSoftmax {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, mask) = args_2!(inputs);
        let rows = mask_rows(x.shape(), mask.shape());
        let mut x = x.into_tensor();
        let width = x.shape().last().copied().unwrap_or(1).max(1);
        let (scale, mask, softmax) = (f32::from_bits(self.scale), floats(&mask)?, softmax_of_rows(self.safe)?);
        let each = rows.len().div_ceil(parts(x.len(), PART)).max(1);
        each_chunk(x.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?, each * width, |part, x| {
            x.chunks_exact_mut(width).zip(&rows[part * each..]).try_for_each(|(row, at)| {
                scale_and_mask(row, scale, &mask[*at..at + width]);
                softmax(row)
            })
        })?;
        Ok(tvec!(x.into_tvalue()))
    }
}

/// `row·scale + mask`.
fn scale_and_mask(row: &mut [f32], scale: f32, mask: &[f32]) {
    wide!((row: &mut [f32], scale: f32, mask: &[f32]) {
        row.iter_mut().zip(mask).for_each(|(x, m)| *x = *x * scale + m);
    });
}

/// For each row of `x`, where its row of the mask starts.
fn mask_rows(x: &[usize], mask: &[usize]) -> Vec<usize> {
    let mut rows = vec![0];
    for axis in 0..x.len().saturating_sub(1) {
        let step: usize = if mask[axis] == 1 { 0 } else { mask[axis + 1..].iter().product() };
        rows = rows.iter().flat_map(|at| (0..x[axis]).map(move |i| at + i * step)).collect();
    }
    rows
}

pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(shape) = dims(model, node.id.into())? else { return Ok(None) };
    let safe = node.op_is::<SafeSoftmax>();
    if !safe && !is_softmax_of_rows(node) {
        return Ok(None);
    }
    let Some((sum, [p, q])) = operands::<Add>(model, node.inputs[0]) else { return Ok(None) };
    for (x, mask) in [(p, q), (q, p)] {
        let (Some(xs), Some(ms)) = (dims(model, x)?, dims(model, mask)?) else { continue };
        let fits = ms.iter().zip(&xs).all(|(m, x)| m == x || *m == 1) && ms.last() == xs.last();
        // The scores are the whole operand that nothing else reads; a mask is shared, or smaller.
        if xs != shape || !fits || (ms == xs && !read_once(model, x)) || !read_once(model, sum) {
            continue;
        }
        let (x, scale) = scaled(model, x)?;
        let mut patch = TypedModelPatch::new("masked softmax");
        let taps = patch.taps(model, &[x, mask])?;
        let out = patch.wire_node(&node.name, MaskedSoftmax { scale: scale.to_bits(), safe }, &taps)?;
        patch.shunt_outside(model, node.id.into(), out[0])?;
        return Ok(Some(patch));
    }
    Ok(None)
}

/// The operands of the binary operator behind `outlet`, if it is an `O`.
fn operands<O: tract_core::ops::binary::BinMiniOp>(
    model: &TypedModel,
    outlet: OutletId,
) -> Option<(OutletId, [OutletId; 2])> {
    let node = model.node(outlet.node);
    let op = node.op_as::<TypedBinOp>().filter(|op| op.0.is::<O>());
    op.map(|_| (outlet, [node.inputs[0], node.inputs[1]]))
}

/// `x` and `k` where `outlet` is `x·k` with a constant `k`, read here only; else `outlet` itself and 1.
fn scaled(model: &TypedModel, outlet: OutletId) -> TractResult<(OutletId, f32)> {
    if let Some((product, [p, q])) = operands::<Mul>(model, outlet).filter(|_| read_once(model, outlet)) {
        for (x, k) in [(p, q), (q, p)] {
            let constant = model.outlet_fact(k)?.konst.as_ref().filter(|k| k.len() == 1);
            if let Some(k) = constant
                && model.outlet_fact(x)?.shape == model.outlet_fact(product)?.shape
            {
                return Ok((x, k.cast_to_scalar::<f32>()?));
            }
        }
    }
    Ok((outlet, 1.0))
}
