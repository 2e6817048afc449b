//! Products of two tensors as loops over strided matrix products: operands and result stay where and how they lie, so that no
//! axis is moved, nothing is packed beforehand and a weight is stored once.

use std::collections::HashMap;
use std::ops::Range;

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::dims;
use super::operand::Operand;
use crate::base::have_same_pages;
use crate::linalg::simd::wide;
use crate::linalg::{Cut, MatRef, Places, choose, gemm_part};
use crate::ops::{Clip, floats};
use crate::sync::each_part;

/// An axis of the product with its step in elements in the operands and the result; 0 where it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Axis {
    pub len: usize,
    pub a: usize,
    pub b: usize,
    pub c: usize,
}

/// `(a, b[, sum][, bias]) → clip([sum +] a·b [+ bias])`: for each position of the loops, an m×k by k×n product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Product {
    pub shape: TVec<usize>,
    pub loops: TVec<Axis>,
    pub m: Axis,
    pub n: Axis,
    pub k: Axis,
    /// Adds to a third input instead of starting from zero.
    pub accumulates: bool,
    /// Adds the last input, a vector along this side of the result.
    pub bias: Option<Side>,
    pub clip: Option<Clip>,
    /// A narrow weight instead of `a` or `b`.
    pub weight: Option<Operand>,
}

/// A side of the matrices that the result is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Rows,
    Columns,
}

/// Values of a result block: it stays in the cache until its bias and clip are done.
const BLOCK: usize = 1 << 17;

impl Product {
    /// None where the axes do not form one strided matrix product for each position of some loops.
    pub(super) fn of(op: &EinSum, a: &[usize], b: &[usize], c: &[usize]) -> Option<Product> {
        let (mut loops, mut m, mut n, mut k) = (tvec!(), tvec!(), tvec!(), tvec!());
        for axis in op.axes.iter_all_axes() {
            let at = |positions: &TVec<usize>, shape: &[usize]| match positions[..] {
                [] => Some((1, 0)),
                [p] => Some((shape[p], shape[p + 1..].iter().product())),
                _ => None,
            };
            let (a, b, c) = (at(&axis.inputs[0], a)?, at(&axis.inputs[1], b)?, at(&axis.outputs[0], c)?);
            let len = a.0.max(b.0).max(c.0);
            // An operand of size 1 along an axis is read at the same place all along it.
            let step = |(size, step): (usize, usize)| if size == 1 { 0 } else { step };
            let axis = Axis { len, a: step(a), b: step(b), c: step(c) };
            if [a, b, c].iter().any(|(size, _)| *size != 1 && *size != len) {
                return None;
            }
            match (axis.a > 0, axis.b > 0, axis.c > 0) {
                _ if len == 1 => {}
                (true, true, true) => loops.push(axis),
                (true, false, true) => m.push(axis),
                (false, true, true) => n.push(axis),
                (true, true, false) => k.push(axis),
                _ => return None,
            }
        }
        let m = longest(merged(m, |x| x.a), &mut loops);
        let n = longest(merged(n, |x| x.b), &mut loops);
        let [k] = merged(k, |x| x.a)[..] else { return None };
        loops.sort_by_key(|x| std::cmp::Reverse(x.c));
        Some(Product { shape: c.into(), loops, m, n, k, accumulates: false, bias: None, clip: None, weight: None })
    }

    /// The side of the result along which axis `axis` of its shape lies, if it is all of that side.
    pub fn side(&self, axis: usize) -> Option<Side> {
        let (len, step) = (self.shape[axis], self.shape[axis + 1..].iter().product::<usize>());
        let is = |side: Axis| side.len == len && side.c == step;
        if is(self.n) {
            Some(Side::Columns)
        } else if is(self.m) {
            Some(Side::Rows)
        } else {
            None
        }
    }

    /// Multiplications of one matrix product.
    fn size(&self) -> usize {
        self.m.len * self.n.len * self.k.len
    }

    fn positions(&self) -> usize {
        self.loops.iter().map(|x| x.len).product()
    }

    /// Multiplications of all.
    pub fn multiplications(&self) -> usize {
        self.positions() * self.size()
    }

    pub(super) fn run(&self, a: &[f32], b: &[f32], c: &mut [f32], bias: &[f32]) -> TractResult<()> {
        // SAFETY: nothing else uses the result meanwhile.
        unsafe { self.run_at(a, b, &Places::new(c), 0, bias) }
    }

    /// [`Product::run`] into the places from `start` on.
    ///
    /// # Safety
    /// No place of the result is used otherwise meanwhile.
    pub(super) unsafe fn run_at(
        &self,
        a: &[f32],
        b: &[f32],
        c: &Places<'_>,
        start: usize,
        bias: &[f32],
    ) -> TractResult<()> {
        let beta = if self.accumulates { 1.0 } else { 0.0 };
        let (m, n, k) = (self.m, self.n, self.k);
        let (rows, columns) = self.block();
        let positions = self.positions();
        let backend = choose(&MatRef::new(a, m.len, k.len, m.a, k.a)?, &MatRef::new(b, k.len, n.len, k.b, n.b)?);
        let cut = Cut::new(backend, m.len, k.len, n.len, positions, n.c == 1).within(rows, columns);
        let parts = cut.parts();
        each_part(positions * parts, |part| {
            let (at, (rows, columns)) = (self.position(part / parts), cut.part(part % parts));
            let left = MatRef::new(&a[at.a + rows.start * m.a..], rows.len(), k.len, m.a, k.a)?;
            let right = MatRef::new(&b[at.b + columns.start * n.b..], k.len, columns.len(), k.b, n.b)?;
            let first = start + at.c + rows.start * m.c + columns.start * n.c;
            // SAFETY: the loops, rows and columns are the axes of the result, so that no two parts have a place
            // in common; the caller answers for the others.
            let part = unsafe { c.matrix(first, rows.len(), columns.len(), m.c, n.c) }?;
            gemm_part(backend, left, right, beta, part)?;
            self.finish(c, start + at.c, rows, columns, bias);
            Ok(())
        })
    }

    /// Where the product at a position of the loops starts in each tensor.
    fn position(&self, position: usize) -> Axis {
        let (mut rest, mut at) = (position, Axis::default());
        for x in self.loops.iter().rev() {
            let i = rest % x.len;
            rest /= x.len;
            at = Axis { len: 0, a: at.a + i * x.a, b: at.b + i * x.b, c: at.c + i * x.c };
        }
        at
    }

    /// Rows and columns of a block: the whole where nothing is done to it afterwards.
    fn block(&self) -> (usize, usize) {
        if self.bias.is_none() && self.clip.is_none() {
            return (self.m.len, self.n.len);
        }
        // The contiguous side is cut last, neither into slivers, and the long one into equal parts: a last part of one row would be summed in
        // another order, and what a frozen layer computes for an example would depend on its place in the batch.
        let cut = |long: usize, other: usize| match (BLOCK / other.max(1)).max(64) {
            most if other <= 4096 && most < long => long.div_ceil(long.div_ceil(most)),
            _ => long,
        };
        if self.n.c == 1 {
            let rows = cut(self.m.len, self.n.len);
            (rows, (BLOCK / rows).max(512).min(self.n.len))
        } else {
            let columns = cut(self.n.len, self.m.len);
            ((BLOCK / columns).max(512).min(self.m.len), columns)
        }
    }

    /// Bias and clip of the part of `rows` and `columns` of the product that starts at `at`; rows or columns
    /// are contiguous.
    pub(super) fn finish(&self, c: &Places<'_>, at: usize, rows: Range<usize>, columns: Range<usize>, bias: &[f32]) {
        if self.bias.is_none() && self.clip.is_none() {
            return;
        }
        let by_rows = self.n.c == 1;
        let (lines, within, step) = if by_rows { (rows, columns, self.m.c) } else { (columns, rows, self.n.c) };
        let along = matches!((self.bias, by_rows), (Some(Side::Columns), true) | (Some(Side::Rows), false));
        for i in lines {
            let start = at + i * step;
            // SAFETY: these places belong to this part alone, whose matrix is written.
            let line = unsafe { c.slice(start + within.start..start + within.end) };
            if along {
                let bias = &bias[within.clone()];
                wide!((line: &mut [f32], bias: &[f32]) { line.iter_mut().zip(bias).for_each(|(c, b)| *c += b) });
            } else if let Some(&b) = bias.get(i) {
                wide!((line: &mut [f32], b: f32) { line.iter_mut().for_each(|c| *c += b) });
            }
            if let Some(clip) = self.clip {
                clip.apply(line);
            }
        }
    }

    /// Whether a result line is contiguous, as [`Product::finish`] wants it.
    pub fn has_lines(&self) -> bool {
        self.n.c == 1 || self.m.c == 1
    }
}

/// Joins axes that run on into each other in every tensor; the longest steps of `key` come first.
fn merged(mut axes: TVec<Axis>, key: impl Fn(&Axis) -> usize) -> TVec<Axis> {
    axes.sort_by_key(|x| std::cmp::Reverse(key(x)));
    let mut out: TVec<Axis> = tvec!();
    for inner in axes {
        match out.last_mut() {
            Some(outer)
                if outer.a == inner.len * inner.a
                    && outer.b == inner.len * inner.b
                    && outer.c == inner.len * inner.c =>
            {
                *outer = Axis { len: outer.len * inner.len, ..inner };
            }
            _ => out.push(inner),
        }
    }
    out
}

/// The longest axis; the others become loops.
fn longest(mut axes: TVec<Axis>, loops: &mut TVec<Axis>) -> Axis {
    axes.sort_by_key(|x| x.len);
    let longest = axes.pop().unwrap_or(Axis { len: 1, ..Axis::default() });
    loops.extend(axes);
    longest
}

impl Op for Product {
    fn name(&self) -> StaticName {
        "Product".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Product {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let bias = if self.bias.is_some() { inputs.pop() } else { None };
        let sum = if self.accumulates { inputs.pop() } else { None };
        // What is added to may be a weight that lies in another shape (see [`share`]).
        let mut c = match sum {
            Some(sum) => sum.into_tensor().into_shape(&self.shape)?,
            None => unfilled(&self.shape)?,
        };
        let bias = bias.as_deref().map_or(Ok(&[][..]), floats)?;
        {
            let mut plain = c.try_as_plain_ram_mut()?;
            let c = plain.as_slice_mut::<f32>()?;
            match &self.weight {
                Some(weight) => self.run_packed(weight, floats(&inputs[0])?, c, bias)?,
                None => self.run(floats(&inputs[0])?, floats(&inputs[1])?, c, bias)?,
            }
        }
        Ok(tvec!(c.into_tvalue()))
    }
}

/// A tensor whose values are still to be written.
pub(super) fn unfilled(shape: &[usize]) -> TractResult<Tensor> {
    // SAFETY: the callers write every element: a product, since beta is 0 and the loops with m and n cover the
    // result's axes; a depthwise convolution, since it begins with the bias in every plane. Filling 3 MB with
    // zeros first costs 2 % of a product.
    unsafe { Tensor::uninitialized::<f32>(shape) }
}

impl TypedOp for Product {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let extra = self.accumulates as usize + self.bias.is_some() as usize;
        let operands = if self.weight.is_some() { 1 } else { 2 };
        ensure!(
            inputs.len() == operands + extra,
            "a product takes {operands} + {extra} tensors and got {}",
            inputs.len()
        );
        if self.accumulates {
            let (sum, len) = (&inputs[operands].shape, self.shape.iter().product::<usize>());
            ensure!(sum.volume() == len.to_dim(), "a product of {:?} adds to {sum:?}", self.shape);
        }
        Ok(tvec!(f32::fact(&self.shape)))
    }
    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        Ok(tvec!((Cost::FMA(f32::datum_type()), self.multiplications().to_dim())))
    }
    as_op!();
}

/// Shapes of both operands and of the result.
pub(super) type Shapes = [TVec<usize>; 3];

/// An einsum of two f32 tensors, with its shapes.
pub(super) fn einsum<'a>(model: &TypedModel, node: &'a TypedNode) -> TractResult<Option<(&'a EinSum, Shapes)>> {
    let plain = |op: &&EinSum| op.q_params.is_none() && node.inputs.len() == 2;
    let Some(op) = node.op_as::<EinSum>().filter(plain) else { return Ok(None) };
    let all = [dims(model, node.inputs[0])?, dims(model, node.inputs[1])?, dims(model, node.id.into())?];
    let [Some(a), Some(b), Some(c)] = all else { return Ok(None) };
    Ok(Some((op, [a, b, c])))
}

/// Replaces an einsum of two f32 tensors that is a strided matrix product.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, [a, b, c])) = einsum(model, node)? else { return Ok(None) };
    match Product::of(op, &a, &b, &c) {
        Some(product) if worth(&product) => replace(model, node, product).map(Some),
        _ => Ok(None),
    }
}

fn replace(model: &TypedModel, node: &TypedNode, product: Product) -> TractResult<TypedModelPatch> {
    let mut patch = TypedModelPatch::new("a strided product");
    let taps = patch.taps(model, &node.inputs)?;
    let out = patch.wire_node(&node.name, product, &taps)?;
    patch.shunt_outside(model, node.id.into(), out[0])?;
    Ok(patch)
}

/// Below a few thousand multiplications the call costs more than the product.
pub(super) fn worth(product: &Product) -> bool {
    product.size() >= 4096
}

/// Lets products read a weight where the model already holds the same values: folding a reshape into a weight copies it, and a
/// product looks at its strides only, in whatever shape what it reads may be.
pub(super) fn share<'a>(model: &mut TypedModel, originals: impl Iterator<Item = &'a Arc<Tensor>>) -> TractResult<()> {
    let mut by_len: HashMap<usize, Vec<&Arc<Tensor>>> = HashMap::new();
    originals.for_each(|o| by_len.entry(o.len()).or_default().push(o));
    for id in model.eval_order()? {
        let node = model.node(id);
        let Some(product) = node.op_as::<Product>() else { continue };
        let mut patch = TypedModelPatch::new("a shared weight");
        let mut taps = patch.taps(model, &node.inputs)?;
        let mut shared = false;
        for (slot, input) in node.inputs.iter().enumerate() {
            let Some(k) = &model.outlet_fact(*input)?.konst else { continue };
            let equal = |o: &Arc<Tensor>| have_same_pages(o, k) || floats(o).ok() == floats(k).ok();
            let same = |o: &&&Arc<Tensor>| !Arc::ptr_eq(o, k) && equal(o);
            if let Some(original) = by_len.get(&k.len()).and_then(|all| all.iter().find(same)) {
                taps[slot] = patch.add_const(format!("{}.{slot}.shared", node.name), (*original).clone())?;
                shared = true;
            }
        }
        if shared {
            let out = patch.wire_node(&node.name, product.clone(), &taps)?;
            patch.shunt_outside(model, id.into(), out[0])?;
            patch.apply(model)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_out_the_same_wherever_it_lies() {
        let (n, k) = (384, 1536);
        let value = |i: usize| (i as f32 * 0.7).sin();
        let b: Vec<f32> = (0..k * n).map(value).collect();
        for rows in [86, 342, 683, 1024] {
            let product = Product {
                shape: tvec![rows, n],
                loops: tvec![],
                m: Axis { len: rows, a: k, b: 0, c: n },
                n: Axis { len: n, a: 0, b: 1, c: 1 },
                k: Axis { len: k, a: 1, b: n, c: 0 },
                accumulates: false,
                bias: Some(Side::Columns),
                clip: None,
                weight: None,
            };
            let a: Vec<f32> = (0..rows * k).map(|i| value(i % k + 5)).collect();
            let mut c = vec![0f32; rows * n];
            product.run(&a, &b, &mut c, &vec![0.1; n]).unwrap();
            assert!(c.chunks(n).all(|row| row == &c[..n]), "{rows} rows");
        }
    }
}
