//! Resizing and sampling. A resize: along one axis it is a product with a constant matrix, which is read off the operator itself.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::grid_sample::GridSample;

use super::{Answer, Rule};
use crate::grad::Cx;
use crate::grad::fused::GridSampleBackward;

pub(super) const RULES: &[Rule] = &[
    Rule { op: "Resize", equation: "along each axis, for y = M·x: dx = Mᵀ·dy", lazy: false, apply: resize },
    Rule {
        op: "NearestUpsample", equation: "along each axis, for y = M·x: dx = Mᵀ·dy", lazy: false, apply: resize
    },
    Rule {
        op: "GridSample",
        equation: "dy added at the sampled places, by their weights",
        lazy: false,
        apply: grid_sample,
    },
];

fn grid_sample(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<GridSample>().context("not a sampling")?;
    if cx.needs(1) {
        return Answer::refused("its places are computed from an adapted layer");
    }
    if !GridSampleBackward::covers(op) {
        return Answer::refused("it interpolates by cubics");
    }
    let (grid, shape) = (cx.value(node.inputs[1])?, cx.dims(node.inputs[0])?);
    Answer::single(cx.wire(GridSampleBackward { op: op.clone(), shape }, &[grid, dy])?)
}

fn resize(cx: &mut Cx, node: &TypedNode, mut dy: OutletId) -> TractResult<Answer> {
    let (from, to) = (cx.dims(node.inputs[0])?, cx.dims(OutletId::new(node.id, 0))?);
    let mut settings = vec![];
    for input in &node.inputs[1..] {
        match &cx.fact(*input)?.konst {
            Some(k) => settings.push(k.clone()),
            None => return Answer::refused("its sizes are computed"),
        }
    }
    if from[0] != to[0] {
        return Answer::refused("it resizes the first axis");
    }
    let labels: Vec<char> = ('a'..='w').take(from.len()).collect();
    for axis in (1..from.len()).filter(|&axis| from[axis] != to[axis]) {
        let Some(matrix) = along_axis(node, &settings, axis, &from, to[axis])? else {
            return Answer::refused("it fills places beyond the border with a value, or is told of some axes only");
        };
        let matrix = cx.constant(matrix.into_arc_tensor())?;
        let before: String = labels.iter().collect();
        let after: String = labels.iter().enumerate().map(|(i, c)| if i == axis { 'x' } else { *c }).collect();
        let expr = format!("{before},x{}->{after}", labels[axis]);
        dy = cx.wire(EinSum::new(expr.parse()?, f32::datum_type()), &[dy, matrix])?;
    }
    Answer::single(dy)
}

/// `[from, to]`: what the operator makes of each unit vector along `axis`, every other axis being of length 1; none if it
/// makes something of nothing. The unit vectors lie along the first axis, which is not resized.
fn along_axis(
    node: &TypedNode,
    settings: &[Arc<Tensor>],
    axis: usize,
    shape: &[usize],
    to: usize,
) -> TractResult<Option<Tensor>> {
    let (rank, from) = (shape.len(), shape[axis]);
    let mut probe_shape = vec![1; rank];
    (probe_shape[0], probe_shape[axis]) = (from + 1, from);
    let mut units = vec![0f32; (from + 1) * from];
    (0..from).for_each(|i| units[i * from + i] = 1.0);
    let mut inputs = tvec!(Tensor::from_shape(&probe_shape, &units)?.into_tvalue());
    for setting in settings {
        inputs.push(alone(setting, axis, rank, from + 1, to)?.into_tvalue());
    }
    let op = match node.op_as::<tract_core::ops::nn::resize::NearestUpsample>() {
        Some(op) => {
            let scales = (0..rank).map(|ax| if ax == axis { op.scales[ax] } else { 1 }).collect();
            Box::new(tract_core::ops::nn::resize::NearestUpsample { scales })
        }
        None => node.op.clone(),
    };
    let out = op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
    let values = crate::sites::floats(&out)?;
    if values.len() != (from + 1) * to {
        return Ok(None);
    }
    let (matrix, nothing) = values.split_at(from * to);
    if nothing.iter().any(|v| *v != 0.0) {
        return Ok(None);
    }
    Ok(Some(Tensor::from_shape(&[from, to], matrix)?))
}

/// Scales (floats) or sizes (integers), one an axis, with only `axis` left to be resized; any other setting as it is.
fn alone(setting: &Tensor, axis: usize, rank: usize, units: usize, to: usize) -> TractResult<Tensor> {
    if setting.len() != rank {
        return Ok(setting.clone());
    }
    if setting.datum_type().is_float() {
        let scales = setting.cast_to::<f32>()?;
        let keep = |(ax, s): (usize, &f32)| if ax == axis { *s } else { 1.0 };
        let scales: Vec<f32> = crate::sites::floats(&scales)?.iter().enumerate().map(keep).collect();
        return Ok(tensor1(&scales));
    }
    let mut sizes = vec![1i64; rank];
    (sizes[0], sizes[axis]) = (units as i64, to as i64);
    Ok(tensor1(&sizes).cast_to_dt(setting.datum_type())?.into_owned())
}
