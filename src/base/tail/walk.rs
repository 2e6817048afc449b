//! One step back from a value to the one computed value that it is made of, and what was done to that on the way.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;

use crate::ops::{DynamicQuantise, Quantise, constant, is_constant};

/// Longest chain that is walked back.
pub(super) const FARTHEST: usize = 64;

/// What an operator does to the numbers of its one computed input. All of them keep the rows of a batch apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Effect {
    /// `scale·x + shift` with one `scale`, not 0, and one `shift` for all; also a move of axes, a cast and a rounding.
    Linear { scale: f32, shift: f32 },
    /// Bounded.
    Clipped { low: f32, high: f32 },
    /// Times, or plus, a constant of its own for each column.
    Columns,
    /// A rising function of each number.
    Rising,
    /// Times, or plus, one computed number for each row of the batch.
    ByRow,
}

/// A step back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub from: OutletId,
    pub effect: Effect,
    /// Bounds that a quantisation puts on its input besides.
    pub bounds: Option<(f32, f32)>,
}

const SAME: Effect = Effect::Linear { scale: 1.0, shift: 0.0 };
/// Operators that leave the numbers as they are, but for their precision.
const SAME_OPS: &[&str] = &["Identity", "RoundStraight", "Detach"];
/// Rising functions of one number.
const RISING_OPS: &[&str] = &["Tanh", "Sigmoid", "Exp", "Ln", "Erf", "LeakyRelu", "Softplus", "HardSigmoid"];

/// The step back from `at`, where it is one.
pub(super) fn back(model: &TypedModel, at: OutletId) -> Option<Step> {
    let node = model.node(at.node);
    let step = |from: OutletId, effect| Some(Step { from, effect, bounds: None });
    let first = node.inputs.first().copied();
    if let Some(op) = node.op_as::<Quantise>() {
        let bounds = Some((op.low * op.scale, op.high * op.scale));
        return Some(Step { from: first?, effect: linear(op.unit / op.scale, op.zero)?, bounds });
    }
    if node.op_is::<TypedBinOp>() {
        return binary(model, node).and_then(|(from, effect)| step(from, effect));
    }
    let name = node.op.name();
    let float_cast = node.op_as::<Cast>().is_some_and(|c| c.to.is_float());
    if float_cast || node.op_is::<AxisOp>() || node.op_is::<DynamicQuantise>() || SAME_OPS.contains(&&*name) {
        return step(first?, SAME);
    }
    if name == "Neg" {
        return step(first?, linear(-1.0, 0.0)?);
    }
    RISING_OPS.contains(&&*name).then_some(())?;
    step(first?, Effect::Rising)
}

fn linear(scale: f32, shift: f32) -> Option<Effect> {
    (scale.is_finite() && scale != 0.0 && shift.is_finite()).then_some(Effect::Linear { scale, shift })
}

/// The operand of a binary operator that is followed, and what the other one does to it.
fn binary(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, Effect)> {
    let [a, b] = node.inputs[..] else { return None };
    let name = node.op.name();
    match (is_constant(model, a), is_constant(model, b)) {
        (false, true) => Some((a, with_constant(&name, &*constant(model, b).ok()??, false)?)),
        (true, false) => Some((b, with_constant(&name, &*constant(model, a).ok()??, true)?)),
        (true, true) => None,
        (false, false) => {
            let whole = &node.outputs[0].fact.shape;
            let is_whole = |o: OutletId| model.outlet_fact(o).is_ok_and(|f| f.shape == *whole);
            let commutes = ["Add", "Mul"].contains(&&*name);
            match &*name {
                "Add" | "Sub" | "Mul" | "Div" if is_whole(a) && one_a_row(model, b) => Some((a, Effect::ByRow)),
                _ if commutes && is_whole(b) && one_a_row(model, a) => Some((b, Effect::ByRow)),
                _ => None,
            }
        }
    }
}

/// The effect of a stored operand; `leads`: it stands before the computed one.
fn with_constant(name: &str, operand: &Tensor, leads: bool) -> Option<Effect> {
    let number = uniform(operand);
    match (name, number, leads) {
        ("Add", Some(c), _) => linear(1.0, c),
        ("Sub", Some(c), false) => linear(1.0, -c),
        ("Sub", Some(c), true) => linear(-1.0, c),
        ("Mul", Some(c), _) => linear(c, 0.0),
        ("Div", Some(c), false) => linear(c.recip(), 0.0),
        ("Max", Some(low), _) => Some(Effect::Clipped { low, high: f32::INFINITY }),
        ("Min", Some(high), _) => Some(Effect::Clipped { low: f32::NEG_INFINITY, high }),
        ("Add" | "Sub" | "Mul", None, _) | ("Div", None, false) => Some(Effect::Columns),
        _ => None,
    }
}

/// The one number that a stored tensor holds throughout.
pub(super) fn uniform(tensor: &Tensor) -> Option<f32> {
    let cast = tensor.cast_to::<f32>().ok()?;
    let plain = cast.try_as_plain_ram().ok()?;
    let values = plain.as_slice::<f32>().ok()?;
    let first = *values.first()?;
    values.iter().all(|v| *v == first).then_some(first)
}

/// Whether `outlet` has one number for each row of the batch, which leads.
fn one_a_row(model: &TypedModel, outlet: OutletId) -> bool {
    shape(model, outlet).is_some_and(|s| s.iter().skip(1).all(|d| *d == 1))
}

/// The sizes of a value of a concrete graph.
pub(super) fn shape(model: &TypedModel, outlet: OutletId) -> Option<Vec<usize>> {
    model.outlet_fact(outlet).ok()?.shape.as_concrete().map(<[usize]>::to_vec)
}

/// The value behind operators that leave the numbers as they are.
pub(super) fn through_layout(model: &TypedModel, mut at: OutletId) -> OutletId {
    for _ in 0..FARTHEST {
        let node = model.node(at.node);
        let moves = node.op_is::<AxisOp>() || node.op.name() == "Identity" || node.op.name() == "MultiBroadcastTo";
        match node.inputs.first() {
            Some(&from) if moves => at = from,
            _ => break,
        }
    }
    at
}

/// The sizes of an example's part of a value, without those of 1; none where the batch does not lead.
pub(super) fn row_sizes(shape: &[usize], batch: usize) -> Option<Vec<usize>> {
    let mut sizes = shape.iter().copied();
    if batch > 1 {
        // Ones before the batch change nothing.
        let leads = sizes.by_ref().find(|d| *d != 1)?;
        if leads != batch {
            return None;
        }
    }
    Some(sizes.filter(|d| *d != 1).collect())
}
