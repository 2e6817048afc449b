//! Operators that move, cut, join or spread values without computing.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Pad, PadMode, Slice, TypedConcat};
use tract_core::ops::cast::{Cast, cast};
use tract_core::ops::downsample::Downsample;

use super::{Answer, Rule};
use crate::grad::{
    Cx,
    fused::{GatherBackward, UpsampleZeros},
};

const fn rule(
    op: &'static str,
    equation: &'static str,
    apply: fn(&mut Cx, &TypedNode, OutletId) -> TractResult<Answer>,
) -> Rule {
    Rule { op, equation, lazy: false, apply }
}

pub(super) const RULES: &[Rule] = &[
    rule("AddAxis", "the inverse move of axes", axis),
    rule("RmAxis", "the inverse move of axes", axis),
    rule("MoveAxis", "the inverse move of axes", axis),
    rule("Reshape", "the inverse reshape", axis),
    rule("MultiBroadcastTo", "dx = Σ dy over the spread axes", broadcast),
    rule("Slice", "dy padded with zeros", slice),
    rule("Concat", "the slices of dy", concat),
    rule("Pad", "dy without the border (constant padding)", pad),
    rule("Downsample", "dy with zeros between", downsample),
    rule("Cast", "dy, cast back", cast_rule),
    rule("Gather", "dy added at the gathered places", gather),
];

fn axis(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<AxisOp>().context("not an axis operation")?;
    Answer::single(cx.wire(op.recip(), &[dy])?)
}

fn broadcast(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    if cx.fact(node.inputs[0])?.rank() != node.outputs[0].fact.rank() {
        return Answer::refused("it adds axes while it broadcasts");
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
    if !matches!(op.mode, PadMode::Constant(_)) {
        return Answer::refused("only padding with a constant has a gradient here");
    }
    let shape = cx.dims(node.inputs[0])?;
    for (axis, &(before, after)) in op.pads.iter().enumerate() {
        if before + after > 0 {
            dy = cx.wire(Slice::new(axis, before, before + shape[axis]), &[dy])?;
        }
    }
    Answer::single(dy)
}

fn downsample(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Downsample>().context("not a downsampling")?;
    let Ok(stride) = usize::try_from(op.stride) else { return Answer::refused("it runs backwards") };
    let len = cx.dims(node.inputs[0])?[op.axis];
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

fn gather(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Gather>().context("not a gather")?;
    let shape = cx.dims(node.inputs[0])?;
    let index = cx.value(node.inputs[1])?;
    Answer::single(cx.wire(GatherBackward { axis: op.axis, shape }, &[index, dy])?)
}
