//! The end of a model in the graph of one bucket: what was found on the trial's graph, found again, and the operators
//! behind it that make scores and vectors in the usual form.

use tract_core::internal::*;
use tract_core::ops::math;

use super::walk::shape;
use super::{Base, Ending, Form, Kind, Place, Tail, Task, output};
use crate::base::guarded;
use crate::error::{Error, ErrorKind, Result};

/// The least probability of which a logarithm is taken.
const LEAST: f32 = 1e-7;
/// The same for what is taken from one.
const LEAST_OF_ONE: f32 = 1e-6;

/// Finds the tail of a concrete graph of `base`, adding what makes `[batch, …]` of it.
///
/// # Errors
/// [`ErrorKind::UnsupportedModel`] when the output has no scores and `task` asks for them.
pub(crate) fn find_tail(base: &Base, model: &mut TypedModel, task: Task) -> Result<Tail> {
    let ending = base.ending()?;
    let batch = model.inputs.first().and_then(|i| shape(model, *i)).and_then(|s| s.first().copied()).unwrap_or(1);
    match task {
        Task::Encoder => encoder(model, ending, batch),
        Task::Classification => classifier(base, model, ending, batch),
        Task::CausalLm => language_model(base, model, ending),
    }
}

fn language_model(base: &Base, model: &TypedModel, ending: &Ending) -> Result<Tail> {
    let lost = |node: &str| Error::internal("the model's end is another one at these sizes").at(node);
    let hidden = ending.linear.as_ref().filter(|_| ending.next_token);
    let Some((hidden, layer, _)) = hidden else { return Err(output::refusal(base, ending)) };
    let features = hidden.find(model).ok_or_else(|| lost(&hidden.node))?;
    let layer = layer.find(model).ok_or_else(|| lost(&layer.node))?;
    Ok(Tail { features, logits: None, classifier: Some(layer.node), plain: false })
}

fn encoder(model: &mut TypedModel, ending: &Ending, batch: usize) -> Result<Tail> {
    let output = output_of(model, ending)?;
    let features = wired(|| {
        let first = batch_first(model, output, ending.batch_axis)?;
        match ending.kind {
            Kind::Vector | Kind::Classes | Kind::MultiLabel => as_rows(model, first, batch, "features"),
            _ => Ok(first),
        }
    })?;
    Ok(Tail { features, logits: None, classifier: None, plain: false })
}

fn classifier(base: &Base, model: &mut TypedModel, ending: &Ending, batch: usize) -> Result<Tail> {
    let output = output_of(model, ending)?;
    let Some((place, form)) = &ending.scores else { return Err(output::refusal(base, ending)) };
    let at = |model: &TypedModel, place: &Place| {
        let lost = || Error::internal("the model's end is another one at these sizes").at(&place.node);
        place.find(model).ok_or_else(lost)
    };
    let scores = at(model, place)?;
    let linear = match &ending.linear {
        Some((features, node, plain)) => Some((at(model, features)?, at(model, node)?.node, *plain)),
        None => None,
    };
    let logits = wired(|| {
        let axis = if scores == output { ending.batch_axis } else { 0 };
        let first = batch_first(model, scores, axis)?;
        let rows = as_rows(model, first, batch, "scores")?;
        in_form(model, rows, *form)
    })?;
    let features = match linear {
        Some((features, _, _)) => wired(|| as_rows(model, features, batch, "features"))?,
        None => logits,
    };
    let classifier = linear.map(|(_, node, _)| node);
    Ok(Tail { features, logits: Some(logits), classifier, plain: linear.is_some_and(|(_, _, plain)| plain) })
}

fn wired(work: impl FnOnce() -> TractResult<OutletId>) -> Result<OutletId> {
    guarded(ErrorKind::UnsupportedModel, "cannot bring the model's output into the usual form", work)
}

fn output_of(model: &TypedModel, ending: &Ending) -> Result<OutletId> {
    model.outputs.get(ending.output).copied().ok_or_else(|| Error::unsupported("the model has no such output"))
}

/// The value with its axis `batch_axis` moved to the front.
fn batch_first(model: &mut TypedModel, outlet: OutletId, batch_axis: usize) -> TractResult<OutletId> {
    match batch_axis {
        0 => Ok(outlet),
        axis => Ok(model.wire_node("acclimate.batch_first", AxisOp::Move(axis, 0), &[outlet])?[0]),
    }
}

/// The value as `[batch, numbers]`.
fn as_rows(model: &mut TypedModel, outlet: OutletId, batch: usize, name: &str) -> TractResult<OutletId> {
    let shape = model.outlet_fact(outlet)?.shape.to_tvec();
    let width = model.outlet_fact(outlet)?.shape.volume().to_usize()? / batch.max(1);
    let rows: TVec<TDim> = tvec![batch.to_dim(), width.to_dim()];
    if shape == rows {
        return Ok(outlet);
    }
    Ok(model.wire_node(format!("acclimate.{name}"), AxisOp::Reshape(0, shape, rows), &[outlet])?[0])
}

/// Scores of which a softmax may be taken.
fn in_form(model: &mut TypedModel, rows: OutletId, form: Form) -> TractResult<OutletId> {
    match form {
        Form::Scores => Ok(rows),
        Form::Log => {
            let kept = with(model, "clamp", math::max(), rows, &[LEAST])?;
            Ok(model.wire_node("acclimate.log", math::ln(), &[kept])?[0])
        }
        Form::OneScore => with(model, "no_and_yes", math::mul(), rows, &[0.0, 1.0]),
        Form::OneProbability => {
            // 1 − p and p are |c + s·p| of two columns.
            let low = with(model, "above", math::max(), rows, &[LEAST_OF_ONE])?;
            let kept = with(model, "below", math::min(), low, &[1.0 - LEAST_OF_ONE])?;
            let signed = with(model, "signed", math::mul(), kept, &[-1.0, 1.0])?;
            let both = with(model, "no_and_yes", math::add(), signed, &[1.0, 0.0])?;
            Ok(model.wire_node("acclimate.log", math::ln(), &[both])?[0])
        }
    }
}

/// An operator with a row of constants as its second operand.
fn with(
    model: &mut TypedModel,
    name: &str,
    op: impl Into<Box<dyn TypedOp>>,
    rows: OutletId,
    constants: &[f32],
) -> TractResult<OutletId> {
    let constants = Tensor::from_shape(&[1, constants.len()], constants)?;
    let dt = model.outlet_fact(rows)?.datum_type;
    let constants = constants.cast_to_dt(dt)?.into_owned();
    let operand = model.add_const(format!("acclimate.{name}.constant"), constants)?;
    Ok(model.wire_node(format!("acclimate.{name}"), op, &[rows, operand])?[0])
}
