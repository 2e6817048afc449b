//! Fourier transforms: linear maps, and the adjoint of one is the other without its factor.

use tract_core::internal::*;
use tract_core::ops::fft::{Fft, Stft};

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::grad::fused::GatherBackward;
use crate::ops::floats;

pub(super) const RULES: &[Rule] = &[
    rule("Fft", "dx = the other transform of dy, not divided by its length", fft),
    rule(
        "STFT",
        "the other transform of dy, not divided by its length, times the window, added where its frames lie",
        stft,
    ),
];

fn fft(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Fft>().context("not a transform")?;
    Answer::single(cx.wire(Fft { axis: op.axis, inverse: !op.inverse }, &[dy])?)
}

fn stft(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Stft>().context("not a transform of frames")?;
    let (shape, out) = (cx.dims(node.inputs[0])?, cx.dims(OutletId::new(node.id, 0))?);
    let (axis, frames) = (op.axis, out[op.axis]);
    let mut frame = cx.wire(Fft { axis: axis + 1, inverse: true }, &[dy])?;
    if let Some(window) = &op.window {
        // A window that is shorter than its frame stands in the middle.
        let window = window.cast_to::<f32>()?;
        let window = floats(&window)?;
        let before = op.frame.checked_sub(window.len()).context("a window longer than its frame")? / 2;
        let mut whole = vec![0f32; op.frame];
        whole[before..before + window.len()].copy_from_slice(window);
        let mut along = vec![1; out.len()];
        along[axis + 1] = op.frame;
        let window = cx.constant(Tensor::from_shape(&along, &whole)?.into_arc_tensor())?;
        frame = cx.mul(frame, window)?;
    }
    let places: Vec<i64> = (0..frames).flat_map(|f| (0..op.frame).map(move |i| (f * op.stride + i) as i64)).collect();
    let index = cx.constant(Tensor::from_shape(&[frames, op.frame], &places)?.into_arc_tensor())?;
    Answer::single(cx.wire(GatherBackward { axis, shape }, &[index, frame])?)
}
