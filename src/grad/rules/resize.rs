//! Resizing and sampling. A resize: along one axis it is a product with a constant matrix, which is read off the operator itself.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::grid_sample::GridSample;
use tract_core::ops::nn::resize::NearestUpsample;
use tract_onnx_opl::resize as onnx;

use super::{Answer, Rule, rule};
use crate::grad::Cx;
use crate::grad::fused::GridSampleBackward;

pub(super) const RULES: &[Rule] = &[
    rule("Resize", "along each axis, for y = M·x: dx = Mᵀ·dy", resize),
    rule("NearestUpsample", "along each axis, for y = M·x: dx = Mᵀ·dy", resize),
    rule("GridSample", "dy added at the sampled places, by their weights", grid_sample),
];

fn grid_sample(cx: &mut Cx, node: &TypedNode, dy: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<GridSample>().context("not a sampling")?;
    if cx.needs(1) {
        return Answer::refused("its places are computed from an adapted layer");
    }
    let (grid, shape) = (cx.value(node.inputs[1])?, cx.dims(node.inputs[0])?);
    Answer::single(cx.wire(GridSampleBackward { op: op.clone(), shape }, &[grid, dy])?)
}

fn resize(cx: &mut Cx, node: &TypedNode, mut dy: OutletId) -> TractResult<Answer> {
    let (from, to) = (cx.dims(node.inputs[0])?, cx.dims(OutletId::new(node.id, 0))?);
    let mut settings = vec![];
    for input in &node.inputs[1..] {
        match &cx.fact(*input)?.konst {
            Some(k) => settings.push(k.clone().into_tensor()),
            None => return Answer::refused("its sizes are computed"),
        }
    }
    let form = match form(node, settings, &from)? {
        Ok(form) => form,
        Err(reason) => return Answer::refused(reason),
    };
    if from[0] != to[0] {
        return Answer::refused("it resizes the first axis");
    }
    let labels: Vec<char> = ('a'..='w').take(from.len()).collect();
    for axis in (1..from.len()).filter(|&axis| from[axis] != to[axis] || form.crops) {
        let matrix = cx.constant(form.along(axis, &from, &to)?.into_arc_tensor())?;
        let before: String = labels.iter().collect();
        let after: String = labels.iter().enumerate().map(|(i, c)| if i == axis { 'x' } else { *c }).collect();
        let expr = format!("{before},x{}->{after}", labels[axis]);
        dy = cx.wire(EinSum::new(expr.parse()?, f32::datum_type()), &[dy, matrix])?;
    }
    Answer::single(dy)
}

/// Most values of a picture that is resized to see what becomes of one axis.
const MOST: usize = 1 << 24;

/// A resize whose settings speak of all axes.
struct Resizing {
    op: Box<dyn TypedOp>,
    settings: Vec<Tensor>,
    /// Whether it reads a part of the picture: an axis may change though its length does not.
    crops: bool,
    /// The axes of which one scale depends on the others.
    joint: TVec<usize>,
}

/// What `node` does, or why that is not covered.
fn form(node: &TypedNode, settings: Vec<Tensor>, from: &[usize]) -> TractResult<Result<Resizing, &'static str>> {
    let Some(op) = node.op_as::<onnx::Resize>() else {
        return Ok(Ok(Resizing { op: node.op.clone(), settings, crops: false, joint: tvec!() }));
    };
    let axes = op.resized_axes(from.len())?;
    let crops = op.coord_transformer == onnx::CoordTransform::TfCropAndResize;
    let joint = op.keep_aspect_ratio_policy != onnx::AspectRatio::Stretch && op.optional_sizes_input.is_some();
    if crops && joint {
        return Ok(Err("it crops, and keeps the aspect ratio"));
    }
    if joint && axes.contains(&0) {
        return Ok(Err("it keeps the aspect ratio of all axes"));
    }
    if joint {
        return Ok(Ok(Resizing { op: node.op.clone(), settings, crops, joint: axes }));
    }
    // In full: scales and sizes of all axes, and parts of them from 0 to 1.
    let spread = |slot: usize, setting: &Tensor| -> TractResult<Tensor> {
        let (count, rank) = (axes.len(), from.len());
        if Some(slot) == op.optional_sizes_input && setting.len() == count {
            let mut all: Vec<i64> = from.iter().map(|d| *d as i64).collect();
            let given = setting.cast_to::<i64>()?;
            let given = given.try_as_plain_ram()?;
            axes.iter().zip(given.as_slice::<i64>()?).for_each(|(axis, size)| all[*axis] = *size);
            return Ok(tensor1(&all));
        }
        let given = setting.cast_to::<f32>()?;
        let given = crate::ops::floats(&given)?;
        if Some(slot) == op.optional_scales_input && given.len() == count {
            let mut all = vec![1f32; rank];
            axes.iter().zip(given).for_each(|(axis, scale)| all[*axis] = *scale);
            return Ok(tensor1(&all));
        }
        if crops && Some(slot) == op.optional_roi_input && given.len() == 2 * count {
            let mut all = [vec![0f32; rank], vec![1f32; rank]].concat();
            for (i, axis) in axes.iter().enumerate() {
                (all[*axis], all[rank + axis]) = (given[i], given[count + i]);
            }
            return Ok(tensor1(&all));
        }
        Ok(setting.clone())
    };
    let settings = settings.iter().enumerate().map(|(i, s)| spread(i + 1, s)).collect::<TractResult<Vec<Tensor>>>()?;
    let whole = |s: &Tensor| {
        crate::ops::floats(s).is_ok_and(|v| v.len() == 2 * from.len() && (v[0], v[from.len()]) == (0.0, 1.0))
    };
    if crops && !settings.iter().any(whole) {
        return Ok(Err("it crops the first axis"));
    }
    Ok(Ok(Resizing { op: Box::new(onnx::Resize { axes: None, ..op.clone() }), settings, crops, joint: tvec!() }))
}

impl Resizing {
    /// `[from, to]`: what the operator makes of each unit vector along `axis`, less what it makes of nothing (a border that it fills).
    /// The unit vectors lie along the first axis, which is not resized; every other axis is of length 1, unless its length matters: the
    /// weights along it then add up to 1.
    fn along(&self, axis: usize, shape: &[usize], sizes: &[usize]) -> TractResult<Tensor> {
        let (rank, from, to) = (shape.len(), shape[axis], sizes[axis]);
        let mut probe: Vec<usize> = (0..rank).map(|ax| if self.joint.contains(&ax) { shape[ax] } else { 1 }).collect();
        (probe[0], probe[axis]) = (from + 1, from);
        ensure!(probe.iter().all(|d| *d > 0), "a picture of {shape:?}");
        let count = probe.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= MOST);
        let mut units = vec![0f32; count.with_context(|| format!("a picture of {shape:?}"))?];
        let (outer, inner) = (probe[1..axis].iter().product::<usize>(), probe[axis + 1..].iter().product::<usize>());
        for (place, unit) in units.chunks_exact_mut(inner).enumerate() {
            if place / from / outer == place % from {
                unit.fill(1.0);
            }
        }
        let mut inputs = tvec!(Tensor::from_shape(&probe, &units)?.into_tvalue());
        for setting in &self.settings {
            let setting =
                if !self.joint.is_empty() { setting.clone() } else { alone(setting, axis, rank, from + 1, to)? };
            inputs.push(setting.into_tvalue());
        }
        let op = match self.op.downcast_ref::<NearestUpsample>() {
            Some(op) => {
                let scales = (0..rank).map(|ax| if ax == axis { op.scales[ax] } else { 1 }).collect();
                Box::new(NearestUpsample { scales })
            }
            None => self.op.clone(),
        };
        let out = op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
        ensure!(out.shape()[0] == from + 1 && out.shape()[axis] == to, "resized to {:?}", out.shape());
        let values = crate::ops::floats(&out)?;
        let inner: usize = out.shape()[axis + 1..].iter().product();
        let each = values.len() / (from + 1);
        let value = |unit: usize, at: usize| values[unit * each + at * inner];
        let matrix: Vec<f32> =
            (0..from).flat_map(|unit| (0..to).map(move |at| value(unit, at) - value(from, at))).collect();
        Tensor::from_shape(&[from, to], &matrix)
    }
}

/// Scales (floats) or sizes (integers), one an axis, with only `axis` left to be resized; parts of axes, two an axis, with only `axis` cut;
/// any other setting as it is.
fn alone(setting: &Tensor, axis: usize, rank: usize, units: usize, to: usize) -> TractResult<Tensor> {
    if setting.len() == 2 * rank && setting.datum_type().is_float() {
        let mut parts = [vec![0f32; rank], vec![1f32; rank]].concat();
        let given = crate::ops::floats(setting)?;
        (parts[axis], parts[rank + axis]) = (given[axis], given[rank + axis]);
        return Ok(tensor1(&parts));
    }
    if setting.len() != rank {
        return Ok(setting.clone());
    }
    if setting.datum_type().is_float() {
        let scales = setting.cast_to::<f32>()?;
        let keep = |(ax, s): (usize, &f32)| if ax == axis { *s } else { 1.0 };
        let scales: Vec<f32> = crate::ops::floats(&scales)?.iter().enumerate().map(keep).collect();
        return Ok(tensor1(&scales));
    }
    let mut sizes = vec![1i64; rank];
    (sizes[0], sizes[axis]) = (units as i64, to as i64);
    Ok(tensor1(&sizes).cast_to_dt(setting.datum_type())?.into_owned())
}
