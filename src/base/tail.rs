//! Where the model ends: its logits, and the feature vector that a trainable head reads.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::Softmax;

use crate::error::{Error, Result};
use crate::ops::is_constant;

/// What the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One row of scores per example: the classes.
    Classification,
    /// A vector, or a sequence of vectors, per example: classes come from a trainable head.
    Encoder,
}

impl Task {
    /// The word used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Encoder => "encoder",
        }
    }
}

impl std::str::FromStr for Task {
    type Err = Error;
    fn from_str(s: &str) -> Result<Task> {
        match s {
            "classification" => Ok(Task::Classification),
            "encoder" => Ok(Task::Encoder),
            _ => Err(Error::usage(format!("unknown task {s:?}")).hint("use classification or encoder")),
        }
    }
}

/// Outlets of the concrete model that training and prediction look at.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    /// What a head reads: `[batch, features]`, or `[batch, sequence, features]` for an encoder.
    pub features: OutletId,
    /// Scores before any softmax, `[batch, classes]`; none for an encoder.
    pub logits: Option<OutletId>,
    /// Node that turns features into logits, kept out of the LoRA sites because the head corrects its outputs directly.
    pub classifier: Option<usize>,
}

/// The task that the first output, of this name, suggests: a sequence of vectors or a pooled vector per example is an encoder,
/// any other float row per example a classification.
pub(crate) fn guess_task(model: &TypedModel, name: &str) -> Result<Task> {
    let fact =
        model.output_fact(0).map_err(|e| Error::unsupported("the model has no output").because(format!("{e:#}")))?;
    if !fact.datum_type.is_float() {
        return Err(Error::unsupported(format!(
            "the model's first output holds {:?}, not scores or vectors",
            fact.datum_type
        ))
        .hint("export it with its scores (before any argmax) as the first output"));
    }
    match fact.rank() {
        0 | 1 => Err(Error::unsupported("the model's first output has no row per example")
            .hint("export it with a leading batch dimension")),
        3 => Ok(Task::Encoder),
        2 if named_vector(name).unwrap_or_else(|| ends_in_vector(model)) => Ok(Task::Encoder),
        _ => Ok(Task::Classification),
    }
}

/// Whether exporters give this name to a vector (true) or to scores (false); `None` when it tells nothing.
fn named_vector(name: &str) -> Option<bool> {
    let name = name.to_ascii_lowercase();
    let holds = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if holds(&["logit", "prob", "score", "class"]) {
        Some(false)
    } else {
        holds(&["embed", "pooler", "pooled"]).then_some(true)
    }
}

/// Whether the first output is a pooled or normalised vector: behind scales, shifts and moves of axes it is a tanh (BERT's pooler)
/// or one computed value divided by, or times, another (a mean over a mask, `x / ‖x‖`, a layer norm).
fn ends_in_vector(model: &TypedModel) -> bool {
    let Some(&output) = model.outputs.first() else { return false };
    let mut at = output;
    for _ in 0..16 {
        let node = model.node(at.node);
        let is_const = |o: &&OutletId| is_constant(model, **o);
        let computed: Vec<_> = node.inputs.iter().filter(|o| !is_const(o)).collect();
        let binary = node.op_as::<TypedBinOp>().map(|b| b.0.name().to_string());
        match (binary.as_deref(), &computed[..]) {
            (Some("Mul" | "Div"), [_, _]) => return true,
            (Some("Add" | "Sub" | "Mul" | "Div"), [next]) => at = **next,
            (None, [next]) if node.op_is::<AxisOp>() || node.op_is::<Cast>() => at = **next,
            (None, _) => return node.op.name() == "Tanh" || node.op.name() == "RmsNorm",
            _ => return false,
        }
    }
    false
}

/// Finds the tail of a concrete model.
pub(crate) fn find_tail(model: &TypedModel, task: Task) -> Result<Tail> {
    let Some(&output) = model.outputs.first() else { return Err(Error::unsupported("the model has no output")) };
    match task {
        Task::Encoder => Ok(Tail { features: output, logits: None, classifier: None }),
        Task::Classification => {
            let logits = before_softmax(model, output);
            let rank = model.outlet_fact(logits).map(|f| f.rank()).unwrap_or(0);
            let (features, classifier) = match classifier_input(model, logits) {
                Some((features, node)) if rank == 2 => (features, Some(node)),
                _ => (logits, None),
            };
            Ok(Tail { features, logits: Some(logits), classifier })
        }
    }
}

/// Probabilities are a softmax of the logits: training works on what goes into it.
fn before_softmax(model: &TypedModel, output: OutletId) -> OutletId {
    let node = model.node(output.node);
    match (node.op_is::<Softmax>() || node.op_is::<AxisOp>(), node.inputs.first()) {
        (true, Some(&input)) if node.op_is::<Softmax>() => input,
        (true, Some(&input)) if model.node(input.node).op_is::<Softmax>() => {
            let same =
                model.outlet_fact(input).map(|f| f.shape.clone()).ok() == Some(node.outputs[0].fact.shape.clone());
            if same { before_softmax(model, input) } else { output }
        }
        _ => output,
    }
}

/// Walks back from the logits over bias additions to the product with a constant matrix.
fn classifier_input(model: &TypedModel, logits: OutletId) -> Option<(OutletId, usize)> {
    let is_const = |o: &OutletId| is_constant(model, *o);
    let mut at = logits;
    for _ in 0..8 {
        let node = model.node(at.node);
        if node.op_is::<EinSum>() && node.inputs.len() == 2 {
            let data: Vec<_> = node.inputs.iter().filter(|i| !is_const(i)).collect();
            let [features] = data[..] else { return None };
            let flat = model.outlet_fact(*features).ok()?.rank() == 2;
            return flat.then_some((*features, node.id));
        }
        let adds = node.op_as::<TypedBinOp>().is_some_and(|b| b.0.name() == "Add");
        if adds || node.op_is::<Cast>() {
            let data: Vec<_> = node.inputs.iter().filter(|i| !is_const(i)).collect();
            let [next] = data[..] else { return None };
            at = *next;
        } else {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_core::ops::math;
    use tract_core::ops::nn::{Reduce, Reducer};

    /// A model of one input `[2, 3, 4]` whose end is wired by `end`.
    fn model(end: impl Fn(&mut TypedModel, OutletId) -> TractResult<TVec<OutletId>>) -> TypedModel {
        let mut model = TypedModel::default();
        let x = model.add_source("x", f32::fact([2, 3, 4])).unwrap();
        let outputs = end(&mut model, x).unwrap();
        model.select_output_outlets(&outputs).unwrap();
        model
    }

    fn mean(m: &mut TypedModel, x: OutletId) -> TractResult<TVec<OutletId>> {
        let sum = m.wire_node("sum", Reduce::new(tvec!(1), Reducer::Sum), &[x])?;
        m.wire_node("row", AxisOp::Rm(1), &sum)
    }

    fn linear(m: &mut TypedModel, x: OutletId) -> TractResult<TVec<OutletId>> {
        let row = mean(m, x)?[0];
        let w = m.add_const("w", Tensor::zero::<f32>(&[4, 5])?)?;
        m.wire_node("linear", EinSum::new("bi,ij->bj".parse()?, f32::datum_type()), &[row, w])
    }

    #[test]
    fn vectors_and_scores_are_told_apart() {
        let normed = model(|m, x| {
            let row = mean(m, x)?;
            let square = m.wire_node("square", math::square(), &row)?;
            let total = m.wire_node("total", Reduce::new(tvec!(1), Reducer::Sum), &square)?;
            let size = m.wire_node("size", math::sqrt(), &total)?;
            m.wire_node("unit", math::div(), &[row[0], size[0]])
        });
        let pooler = model(|m, x| {
            let z = linear(m, x)?;
            m.wire_node("tanh", math::tanh(), &z)
        });
        let scores = model(|m, x| {
            let z = linear(m, x)?[0];
            let bias = m.add_const("bias", Tensor::zero::<f32>(&[1, 5])?)?;
            m.wire_node("biased", math::add(), &[z, bias])
        });
        let pooled_scores = model(mean);
        let hidden = model(|m, x| m.wire_node("tanh", math::tanh(), &[x]));
        for (model, name, task) in [
            (&normed, "output", Task::Encoder),
            (&pooler, "output", Task::Encoder),
            (&hidden, "output", Task::Encoder),
            (&scores, "output", Task::Classification),
            (&pooled_scores, "output", Task::Classification),
            (&pooled_scores, "sentence_embedding", Task::Encoder),
            (&pooler, "logits", Task::Classification),
        ] {
            assert_eq!(guess_task(model, name).unwrap(), task, "{name}");
        }
    }
}
