//! Operators that move, cut, join or spread values without computing.

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode, Slice, TypedConcat};
use tract_core::ops::cast::{Cast, cast};
use tract_core::ops::downsample::Downsample;

use super::{Answer, Rule, rule};
use crate::grad::{
    Cx,
    fused::{GatherBackward, UpsampleZeros},
};

pub(super) const RULES: &[Rule] = &[
    rule("AddAxis", "the inverse move of axes", axis),
    rule("RmAxis", "the inverse move of axes", axis),
    rule("MoveAxis", "the inverse move of axes", axis),
    rule("Reshape", "the inverse reshape", axis),
    rule("MultiBroadcastTo", "dx = Σ dy over the spread axes", broadcast),
    rule("Spread", "dx = Σ dy over the spread axes", broadcast),
    rule("Slice", "dy padded with zeros", slice),
    rule("Concat", "the slices of dy", concat),
    rule("Pad", "dy without the border, or with the border added to what it repeats", pad),
    rule("Hold", "dy", hold),
    rule("Downsample", "dy with zeros between, from the end if it runs backwards", downsample),
    rule("Cast", "dy, cast back", cast_rule),
];

fn axis(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<AxisOp>().context("not an axis operation")?;
    Answer::single(cx.wire(op.recip(), &[dy])?)
}

/// The walk sums over the axes that are spread; those that the operator adds go here.
fn broadcast(cx: &mut Cx, node: &TypedNode, mut dy: OutletId) -> TractResult<Answer> {
    let added = node.outputs[0].fact.rank() - cx.fact(node.inputs[0])?.rank();
    if added > 0 {
        dy = cx.sum(dy, &(0..added).collect::<Vec<_>>())?;
        for _ in 0..added {
            dy = cx.wire(AxisOp::Rm(0), &[dy])?;
        }
    }
    Answer::single(dy)
}

fn slice(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Slice>().context("not a slice")?;
    let shape = cx.dims(node.inputs[0])?;
    let mut pads = vec![(0, 0); shape.len()];
    pads[op.axis] = (op.start.to_usize()?, shape[op.axis] - op.end.to_usize()?);
    Answer::single(cx.wire(Pad::new(pads, PadMode::Constant(rctensor0(0f32))), &[dy])?)
}

fn concat(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<TypedConcat>().context("not a concatenation")?;
    let offsets = op.offsets(&cx.forward().node_input_facts(node.id)?)?;
    let mut parts = tvec!();
    for slot in 0..node.inputs.len() {
        if cx.needs(slot) {
            let cut = Slice::new(op.axis, offsets[slot].clone(), offsets[slot + 1].clone());
            parts.push((slot, cx.wire(cut, &[dy])?));
        }
    }
    Ok(Answer::Gradient(parts))
}

fn pad(cx: &mut Cx, node: &TypedNode, mut dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Pad>().context("not a padding")?;
    let shape = cx.dims(node.inputs[0])?;
    for (axis, &(before, after)) in op.pads.iter().enumerate() {
        if before + after == 0 {
            continue;
        }
        let len = shape[axis];
        dy = match op.mode {
            PadMode::Constant(_) => cx.wire(Slice::new(axis, before, before + len), &[dy])?,
            PadMode::Edge | PadMode::Reflect => {
                let read = border(&op.mode, len, before, after);
                let mut shape: TVec<usize> = cx.shape(dy)?.as_concrete().context("open shape")?.into();
                shape[axis] = len;
                let index = cx.constant(tensor1(&read).into_arc_tensor())?;
                cx.wire(GatherBackward { axis, shape }, &[index, dy])?
            }
        };
    }
    Answer::single(dy)
}

/// For each place of a padded axis, the place of the axis that it repeats.
fn border(mode: &PadMode, len: usize, before: usize, after: usize) -> Vec<i64> {
    let (before, last) = (before as i64, len as i64 - 1);
    let places = -before..=last + after as i64;
    let place = |at: i64| match mode {
        PadMode::Reflect if at < 0 => -at,
        PadMode::Reflect if at > last => 2 * last - at,
        _ => at.clamp(0, last),
    };
    places.map(place).collect()
}

fn hold(_: &mut Cx, _: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    Answer::single(dy)
}

fn downsample(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Downsample>().context("not a downsampling")?;
    let shape = cx.dims(node.inputs[0])?;
    let len = shape[op.axis];
    let Ok(stride) = usize::try_from(op.stride) else {
        // Backwards: the i-th value was read i strides before the last.
        let read: Vec<i64> = (0..len as i64).rev().step_by(op.stride.unsigned_abs()).collect();
        let index = cx.constant(tensor1(&read).into_arc_tensor())?;
        return Answer::single(cx.wire(GatherBackward { axis: op.axis, shape }, &[index, dy])?);
    };
    Answer::single(cx.wire(UpsampleZeros { axis: op.axis, stride, modulo: op.modulo, len }, &[dy])?)
}

fn cast_rule(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let from = cx.fact(node.inputs[0])?.datum_type;
    let op = node.op_as::<Cast>().context("not a cast")?;
    if !from.is_float() || !op.to.is_float() {
        return Ok(Answer::NoGradient);
    }
    Answer::single(cx.wire(cast(from), &[dy])?)
}
