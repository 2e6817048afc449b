//! Products and lookups that read narrow weights: a panel of the weight is widened at a time, used, and forgotten.

use tract_core::internal::*;
use tract_core::ops::array::Gather;

use super::operand::Operand;
use super::product::{Axis, Product, Side};
use crate::ops::{Lookup, Packed, Widen, in_order};

/// Values that are widened at once: they stay in the second-level cache.
const PANEL: usize = 1 << 15;

/// How panels of a weight cut a product.
struct Cut {
    /// Positions of the weight's outer axis, and values behind each.
    positions: usize,
    row: usize,
    /// Whether that axis is summed over.
    summed: bool,
}

impl Product {
    /// None where the weight is not one dense matrix of this product.
    fn cut(&self, weight: &Packed, left: bool) -> Option<Cut> {
        let step = |x: Axis| if left { x.a } else { x.b };
        let side = if left { self.m } else { self.n };
        let (sum, side) = ((self.k.len, step(self.k)), (side.len, step(side)));
        if self.loops.iter().any(|x| step(*x) > 0) || sum.0 * side.0 != weight.len() {
            return None;
        }
        let summed = sum.1 > side.1;
        let (outer, inner) = if summed { (sum, side) } else { (side, sum) };
        let dense = (inner.0 == 1 || inner.1 == 1) && (outer.0 == 1 || outer.1 == inner.0);
        dense.then_some(Cut { positions: outer.0, row: inner.0, summed })
    }

    /// As [`Product::run`] with `other` as the operand that is not the weight.
    pub(super) fn run_packed(
        &self,
        Operand { weight, left }: &Operand,
        other: &[f32],
        c: &mut [f32],
        bias: &[f32],
    ) -> TractResult<()> {
        let cut = self.cut(weight, *left).context("a product whose weight does not fit")?;
        let rows = (PANEL / cut.row).clamp(1, cut.positions);
        let mut panel = vec![0f32; rows * cut.row];
        for start in (0..cut.positions).step_by(rows) {
            let len = rows.min(cut.positions - start);
            let panel = &mut panel[..len * cut.row];
            weight.widen(start * cut.row..(start + len) * cut.row, panel);
            let mut part = self.clone();
            let (mut other, mut c, mut bias) = (other, &mut *c, bias);
            if cut.summed {
                let last = start + len == cut.positions;
                part.k.len = len;
                part.accumulates |= start > 0;
                part.bias = self.bias.filter(|_| last);
                part.clip = self.clip.filter(|_| last);
                other = &other[start * if *left { self.k.b } else { self.k.a }..];
            } else {
                let (axis, side) = if *left { (&mut part.m, Side::Rows) } else { (&mut part.n, Side::Columns) };
                axis.len = len;
                c = &mut c[start * axis.c..];
                if self.bias == Some(side) {
                    bias = &bias[start..start + len];
                }
            }
            let (a, b) = if *left { (&*panel, other) } else { (other, &*panel) };
            part.run(a, b, c, bias)?;
        }
        Ok(())
    }
}

/// Lets a product read a narrow weight.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(product) = node.op_as::<Product>().filter(|p| p.weight.is_none()) else { return Ok(None) };
    for slot in [1, 0] {
        let Some(widen) = in_order(model, node.inputs[slot]) else { continue };
        if product.cut(&widen.weight, slot == 0).is_none() {
            continue;
        }
        let weight = Some(Operand { weight: widen.weight.clone(), left: slot == 0 });
        let mut inputs = node.inputs.clone();
        inputs.remove(slot);
        let op = Product { weight, ..product.clone() };
        return TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some);
    }
    Ok(None)
}

/// Lets a lookup of rows read a narrow table.
pub(super) fn lookup_rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let rows = |g: &Gather| g.axis == 0 && g.output_type.is_none_or(|t| t == f32::datum_type());
    if !node.op_as::<Gather>().is_some_and(rows) {
        return Ok(None);
    }
    match in_order(model, node.inputs[0]) {
        Some(widen) => {
            let shape = model.outlet_fact(node.inputs[0])?.shape.as_concrete().context("an open shape")?.into();
            let table = Widen { shape, weight: widen.weight.clone() };
            TypedModelPatch::replace_single_op(model, node, &node.inputs[1..], Lookup { table }).map(Some)
        }
        None => Ok(None),
    }
}
