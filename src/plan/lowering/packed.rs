//! Products and lookups that read narrow weights: a panel of the weight is widened at a time, used, and forgotten.

use std::cell::Cell;
use std::ops::Range;

use tract_core::internal::*;
use tract_core::ops::array::Gather;

use super::operand::Operand;
use super::product::{Axis, Product, Side};
use crate::linalg::{Backend, MatRef, Places, choose, gemm_part};
use crate::ops::{Lookup, Packed, Widen, in_order};
use crate::sync::each_part;

/// Values that are widened at once: they stay in the second-level cache.
const PANEL: usize = 1 << 15;
/// Rows of the other operand up to which a panel is cut into pieces, and rows of a piece.
const FEW: usize = 16;
const PIECE: usize = 8;
/// Rows of the other operand up to which integers are widened in registers, once for four rows.
const FUSED: usize = 8;
/// Places of the weight's inner axis that cores share where the outer one is summed over.
const STRIP: usize = 384;

thread_local! {
    /// The floats of a panel.
    static WIDE: Cell<Vec<f32>> = const { Cell::new(vec![]) };
}

/// Calls `work` with room for `len` floats, which hold anything.
fn with_panel<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut panel = WIDE.take();
    if panel.len() < len {
        panel.resize(len, 0.0);
    }
    let result = work(&mut panel[..len]);
    WIDE.set(panel);
    result
}

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
        let c = Places::new(c);
        if cut.summed {
            return self.run_strips(weight, *left, &cut, other, &c, bias);
        }
        let rows = (PANEL / cut.row).clamp(1, cut.positions);
        let along = self.k.a == 1 && self.k.b == 1 && self.k.len == cut.row;
        if !*left && self.m.len <= FUSED && self.loops.is_empty() && along && weight.has_dots(cut.row) {
            return self.run_fused(weight, &cut, rows, other, &c, bias);
        }
        if !*left && self.m.len <= FEW && self.loops.is_empty() && self.is_of_dots(other, &cut, rows)? {
            return self.run_dots(weight, &cut, rows, other, &c, bias);
        }
        each_part(cut.positions.div_ceil(rows), |panel| {
            let start = panel * rows;
            let len = rows.min(cut.positions - start);
            with_panel(len * cut.row, |panel| {
                weight.widen(start * cut.row..(start + len) * cut.row, panel);
                let mut part = self.clone();
                let (axis, side) = if *left { (&mut part.m, Side::Rows) } else { (&mut part.n, Side::Columns) };
                axis.len = len;
                let at = start * axis.c;
                let bias = if self.bias == Some(side) { &bias[start..start + len] } else { bias };
                let (a, b) = if *left { (&*panel, other) } else { (other, &*panel) };
                // SAFETY: panels are parts of a side of the result, so that no two have a place in common.
                unsafe { part.run_at(a, b, &c, at, bias) }
            })
        })
    }

    /// As [`Product::run_dots`], of integers that become floats in registers.
    fn run_fused(
        &self,
        weight: &Packed,
        cut: &Cut,
        rows: usize,
        other: &[f32],
        c: &Places<'_>,
        bias: &[f32],
    ) -> TractResult<()> {
        let (m, n) = (self.m, self.n);
        ensure!(m.len == 0 || (m.len - 1) * m.a + cut.row <= other.len(), "rows beyond their tensor");
        let x = weight.few_rows(m.len, cut.row, |r| &other[r * m.a..]);
        self.each_panel(cut, rows, c, bias, |panel| {
            with_panel(m.len * panel.len(), |sums| {
                weight.dots(&x, panel.clone(), sums);
                // SAFETY: panels are parts of a side of the result, so that no two have a place in common.
                let mut part = unsafe { c.matrix(panel.start * n.c, m.len, panel.len(), m.c, n.c) }?;
                part.put(sums, self.accumulates);
                Ok(())
            })
        })
    }

    /// Calls `work` with every panel of `rows` columns of the result, and finishes them.
    fn each_panel(
        &self,
        cut: &Cut,
        rows: usize,
        c: &Places<'_>,
        bias: &[f32],
        work: impl Fn(Range<usize>) -> TractResult<()> + Sync + Send,
    ) -> TractResult<()> {
        each_part(cut.positions.div_ceil(rows), |panel| {
            let panel = panel * rows..cut.positions.min((panel + 1) * rows);
            work(panel.clone())?;
            self.finish(c, 0, 0..self.m.len, panel, bias);
            Ok(())
        })
    }

    /// Whether a panel of `rows` of the weight is multiplied along the sum.
    fn is_of_dots(&self, other: &[f32], cut: &Cut, rows: usize) -> TractResult<bool> {
        let x = MatRef::new(other, self.m.len, self.k.len, self.m.a, self.k.a)?;
        with_panel(rows * cut.row, |panel| {
            Ok(choose(&x, &MatRef::new(panel, self.k.len, rows, self.k.b, cut.row)?) == Backend::Dots)
        })
    }

    /// With few rows, a panel is read once or twice: it is cut into pieces that stay in the first-level cache. Each
    /// value is the same sum as of the whole panel.
    fn run_dots(
        &self,
        weight: &Packed,
        cut: &Cut,
        rows: usize,
        other: &[f32],
        c: &Places<'_>,
        bias: &[f32],
    ) -> TractResult<()> {
        let beta = if self.accumulates { 1.0 } else { 0.0 };
        let (m, n, k) = (self.m, self.n, self.k);
        self.each_panel(cut, rows, c, bias, |panel| {
            with_panel(PIECE * cut.row, |piece| {
                for first in panel.clone().step_by(PIECE) {
                    let len = PIECE.min(panel.end - first);
                    let piece = &mut piece[..len * cut.row];
                    weight.widen(first * cut.row..(first + len) * cut.row, piece);
                    let left = MatRef::new(other, m.len, k.len, m.a, k.a)?;
                    let right = MatRef::new(piece, k.len, len, k.b, cut.row)?;
                    // SAFETY: pieces are parts of a side of the result, so that no two have a place in common.
                    let part = unsafe { c.matrix(first * n.c, m.len, len, m.c, n.c) }?;
                    gemm_part(Backend::Dots, left, right, beta, part)?;
                }
                Ok(())
            })
        })
    }

    /// Where the weight's outer axis is summed over: cores share its inner one, and each adds up panel after panel.
    fn run_strips(
        &self,
        weight: &Packed,
        left: bool,
        cut: &Cut,
        other: &[f32],
        c: &Places<'_>,
        bias: &[f32],
    ) -> TractResult<()> {
        let strips = cut.row.div_ceil(STRIP);
        let rows = (PANEL / cut.row.min(STRIP)).clamp(1, cut.positions);
        each_part(strips, |strip| {
            let (from, to) = (strip * STRIP, cut.row.min((strip + 1) * STRIP));
            let wide = to - from;
            with_panel(rows * wide, |panel| {
                for start in (0..cut.positions).step_by(rows) {
                    let len = rows.min(cut.positions - start);
                    for (row, values) in panel[..len * wide].chunks_exact_mut(wide).enumerate() {
                        let at = (start + row) * cut.row;
                        weight.widen(at + from..at + to, values);
                    }
                    let last = start + len == cut.positions;
                    let mut part = self.clone();
                    part.accumulates |= start > 0;
                    part.bias = self.bias.filter(|_| last);
                    part.clip = self.clip.filter(|_| last);
                    part.k.len = len;
                    let (axis, side) = if left { (&mut part.m, Side::Rows) } else { (&mut part.n, Side::Columns) };
                    axis.len = wide;
                    let at = from * axis.c;
                    let bias = if part.bias == Some(side) { &bias[from..to] } else { bias };
                    // A row of the panel is as long as the strip.
                    let sum = if left { &mut part.k.a } else { &mut part.k.b };
                    *sum = wide;
                    let other = &other[start * if left { self.k.b } else { self.k.a }..];
                    let panel = &panel[..len * wide];
                    let (a, b) = if left { (panel, other) } else { (other, panel) };
                    // SAFETY: strips are parts of a side of the result, so that no two have a place in common.
                    unsafe { part.run_at(a, b, c, at, bias) }?;
                }
                Ok(())
            })
        })
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
