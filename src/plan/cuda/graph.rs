//! Operators of ours taken apart into tract's, which its CUDA runtime translates.
//!
//! | operator | becomes |
//! |---|---|
//! | `Widen`, a weight that is kept narrow | a constant of floats |
//! | `LowRank` of linear sites | two products and a sum |
//! | `IsNan`, which that runtime lacks | `x ≠ x` |
//! | `GeluExact`, which it lacks, too | its parts |
//! | `LogSoftmax`, which it takes for `Softmax`, and either of several axes, which it refuses | their parts |
//!
//! Low-rank products of convolutions, and of linear sites whose channels are not the last axis, stay on the processor.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::konst::Const;
use tract_core::ops::logic::comp_ne;
use tract_core::ops::math::{IsNan, add, div, erf, exp, ln, mul, sub};
use tract_core::ops::nn::{GeluExact, Reduce, Reducer, Softmax, SoftmaxKind};

use crate::ops::{Widen, sweep};
use crate::sites::{Geometry, LowRank};

/// Leaves as few operators of ours in a forward graph as can be.
pub(super) fn forward(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes().len() {
        if let Some(weight) = model.node(id).op_as::<Widen>() {
            let weight = Arc::new(weight.tensor()?);
            model.set_outlet_fact(id.into(), TypedFact::try_from(&weight)?)?;
            model.node_mut(id).op = Box::new(Const::new(weight)?);
        }
    }
    sweep(model, low_rank)?;
    sweep(model, is_nan)?;
    sweep(model, gelu)?;
    sweep(model, softmax)
}

/// Rows and channels of a linear site whose channels are the last axis.
pub(super) struct Linear {
    pub rows: usize,
    pub input: usize,
    pub output: usize,
    pub rank: usize,
}

impl Linear {
    pub fn of(geometry: &Geometry) -> Option<Linear> {
        match *geometry {
            Geometry::Linear { outer: rows, input, output, inner: 1, rank } => {
                Some(Linear { rows, input, output, rank })
            }
            _ => None,
        }
    }
}

/// The patch that takes a node's place.
pub(super) struct Parts<'a> {
    pub patch: TypedModelPatch,
    pub name: &'a str,
}

impl Parts<'_> {
    /// `value` in another shape of as many numbers.
    pub fn shaped(&mut self, what: &str, value: OutletId, shape: &[usize]) -> TractResult<OutletId> {
        let from = self.patch.outlet_fact(value)?.shape.to_tvec();
        let to: TVec<TDim> = shape.iter().map(|d| d.to_dim()).collect();
        if from == to {
            return Ok(value);
        }
        self.wire(what, AxisOp::Reshape(0, from, to), &[value])
    }

    fn wire(&mut self, what: &str, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        Ok(self.patch.wire_node(format!("{}.{what}", self.name), op, inputs)?[0])
    }

    /// `x` reduced along axes, which stay as ones, one after the other: the runtime takes one at a time.
    fn reduced(&mut self, what: &str, mut x: OutletId, axes: &[usize], reducer: Reducer) -> TractResult<OutletId> {
        for axis in axes {
            x = self.wire(&format!("{what}.{axis}"), Reduce { axes: tvec!(*axis), reducer }, &[x])?;
        }
        Ok(x)
    }

    pub fn product(&mut self, what: &str, axes: &str, a: OutletId, b: OutletId) -> TractResult<OutletId> {
        self.wire(what, EinSum::new(axes.parse()?, f32::datum_type()), &[a, b])
    }
}

fn low_rank(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<LowRank>() else { return Ok(None) };
    let Some(d) = Linear::of(&op.geometry) else { return Ok(None) };
    let Some(shape) = node.outputs[0].fact.shape.as_concrete() else { return Ok(None) };
    let mut patch = TypedModelPatch::new("a low-rank product of the runtime's operators");
    let taps = patch.taps(model, &node.inputs)?;
    let &[x, y, a, b] = &taps[..] else { return Ok(None) };
    let mut parts = Parts { patch, name: &node.name };
    let x = parts.shaped("x", x, &[d.rows, d.input])?;
    let narrow = parts.product("narrow", "mk,kr->mr", x, a)?;
    let delta = parts.product("delta", "mr,rn->mn", narrow, b)?;
    let delta = parts.shaped("delta.shaped", delta, shape)?;
    let saved = parts.shaped("saved", narrow, &[d.rows * d.rank])?;
    let sum = parts.wire("sum", add(), &[y, delta])?;
    let mut patch = parts.patch;
    patch.shunt_outside(model, OutletId::new(node.id, 0), sum)?;
    patch.shunt_outside(model, OutletId::new(node.id, 1), saved)?;
    Ok(Some(patch))
}

fn is_nan(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    if !node.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<IsNan>()) {
        return Ok(None);
    }
    let x = node.inputs[0];
    TypedModelPatch::replace_single_op(model, node, &[x, x], TypedBinOp(comp_ne(), None)).map(Some)
}

/// `x·(½ + ½·erf(x/√2))`: as `½·x·(1 + erf(x/√2))` tract would fuse it again.
fn gelu(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let fact = &node.outputs[0].fact;
    if !node.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<GeluExact>()) || fact.datum_type != f32::datum_type() {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::new("a GELU of the runtime's operators");
    let x = patch.tap_model(model, node.inputs[0])?;
    let scalar = |value: f32| tensor0(value).broadcast_into_rank(fact.rank());
    let scale = patch.add_const(format!("{}.scale", node.name), scalar(std::f32::consts::FRAC_1_SQRT_2)?)?;
    let half = patch.add_const(format!("{}.half", node.name), scalar(0.5)?)?;
    let mut parts = Parts { patch, name: &node.name };
    let scaled = parts.wire("scaled", mul(), &[x, scale])?;
    let erf = parts.wire("erf", erf(), &[scaled])?;
    let halved = parts.wire("halved", mul(), &[erf, half])?;
    let share = parts.wire("share", add(), &[halved, half])?;
    let out = parts.wire("out", mul(), &[x, share])?;
    let mut patch = parts.patch;
    patch.shunt_outside(model, node.id.into(), out)?;
    Ok(Some(patch))
}

fn softmax(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<Softmax>() else { return Ok(None) };
    let is_log = op.kind == SoftmaxKind::LogSoftmax;
    let float = node.outputs[0].fact.datum_type == f32::datum_type();
    if !float || op.quant_output_dt.is_some() || (!is_log && op.axes.len() == 1) {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::new("a softmax of the runtime's operators");
    let x = patch.tap_model(model, node.inputs[0])?;
    let mut parts = Parts { patch, name: &node.name };
    let top = parts.reduced("top", x, &op.axes, Reducer::Max)?;
    let below = parts.wire("below", sub(), &[x, top])?;
    let powers = parts.wire("exp", exp(), &[below])?;
    let sum = parts.reduced("sum", powers, &op.axes, Reducer::Sum)?;
    let out = match is_log {
        true => {
            let sum = parts.wire("ln", ln(), &[sum])?;
            parts.wire("out", sub(), &[below, sum])?
        }
        false => parts.wire("out", div(), &[powers, sum])?,
    };
    let mut patch = parts.patch;
    patch.shunt_outside(model, node.id.into(), out)?;
    Ok(Some(patch))
}
