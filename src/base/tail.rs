//! Where the model ends: its logits, and the feature vector that a trainable head reads.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::Softmax;

use crate::error::{Error, Result};

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

/// The task that the outputs suggest: one float row per example is a classification, a sequence of vectors an encoder.
pub(crate) fn guess_task(model: &TypedModel) -> Result<Task> {
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
        _ => Ok(Task::Classification),
    }
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
    let is_const = |o: &OutletId| model.outlet_fact(*o).map(|f| f.konst.is_some()).unwrap_or(false);
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
