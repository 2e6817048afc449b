//! Products of two tensors as loops over strided matrix products: operands and result stay where and how they lie, so that no
//! axis is moved, nothing is packed beforehand and a weight is stored once.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::dims;
use crate::linalg::{MatMut, MatRef, gemm};
use crate::sites::floats;

/// An axis of the product with its step in elements in the operands and the result; 0 where it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Axis {
    len: usize,
    a: usize,
    b: usize,
    c: usize,
}

/// `(a, b[, c]) → [c +] a·b`: for each position of the loops, an m×k by k×n product.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Product {
    shape: TVec<usize>,
    loops: TVec<Axis>,
    m: Axis,
    n: Axis,
    k: Axis,
    /// Adds to a third input instead of starting from zero.
    pub accumulates: bool,
}

impl Product {
    /// None where the axes do not form one strided matrix product for each position of some loops.
    fn of(op: &EinSum, a: &[usize], b: &[usize], c: &[usize]) -> Option<Product> {
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
        Some(Product { shape: c.into(), loops, m, n, k, accumulates: false })
    }

    /// The same product, added to a third input.
    pub fn adding(&self) -> Product {
        Product { accumulates: true, ..self.clone() }
    }

    /// Multiplications of one matrix product.
    fn size(&self) -> usize {
        self.m.len * self.n.len * self.k.len
    }

    fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) -> TractResult<()> {
        let beta = if self.accumulates { 1.0 } else { 0.0 };
        let positions: usize = self.loops.iter().map(|x| x.len).product();
        for position in 0..positions {
            let (mut rest, mut at) = (position, Axis::default());
            for x in self.loops.iter().rev() {
                let i = rest % x.len;
                rest /= x.len;
                at = Axis { len: 0, a: at.a + i * x.a, b: at.b + i * x.b, c: at.c + i * x.c };
            }
            let (m, n, k) = (self.m, self.n, self.k);
            let left = MatRef::new(&a[at.a..], m.len, k.len, m.a, k.a)?;
            let right = MatRef::new(&b[at.b..], k.len, n.len, k.b, n.b)?;
            gemm(1.0, left, right, beta, MatMut::new(&mut c[at.c..], m.len, n.len, m.c, n.c)?)?;
        }
        Ok(())
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
        let sum = if self.accumulates { inputs.pop() } else { None };
        let mut c = sum.map_or_else(|| unfilled(&self.shape), |c| Ok(c.into_tensor()))?;
        self.run(floats(&inputs[0])?, floats(&inputs[1])?, c.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
        Ok(tvec!(c.into_tvalue()))
    }
}

/// A tensor whose values are still to be written.
fn unfilled(shape: &[usize]) -> TractResult<Tensor> {
    // SAFETY: the product writes every element (beta is 0 and the loops with m and n cover the result's axes); filling 3 MB
    // with zeros first costs 2 % of the product.
    unsafe { Tensor::uninitialized::<f32>(shape) }
}

impl TypedOp for Product {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 2 + self.accumulates as usize, "a product takes two tensors");
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}

/// Replaces an einsum of two f32 tensors that is a strided matrix product.
pub(super) fn rule(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<EinSum>() else { return Ok(None) };
    if op.q_params.is_some() || node.inputs.len() != 2 {
        return Ok(None);
    }
    let all = [dims(model, node.inputs[0])?, dims(model, node.inputs[1])?, dims(model, node.id.into())?];
    let [Some(a), Some(b), Some(c)] = all else { return Ok(None) };
    match Product::of(op, &a, &b, &c) {
        Some(product) if worth(&product) => {
            Ok(Some(TypedModelPatch::replace_single_op(model, node, &node.inputs, product)?))
        }
        _ => Ok(None),
    }
}

/// Below a few thousand multiplications the call costs more than the product.
fn worth(product: &Product) -> bool {
    product.size() >= 4096
}
