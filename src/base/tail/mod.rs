//! Where a model ends: which of its outputs answers, what sort of answer that is, the scores behind it, and the
//! feature vector that a trainable head reads.
//!
//! The end is looked at once, on a graph of a few examples ([`Ending`]), and found again by the names of its nodes in
//! the graph of every bucket ([`find_tail`]), so that all plans of a model agree on it.

mod kind;
mod linear;
mod output;
mod softmax;
mod trial;
mod vocabulary;
mod walk;
mod wire;

use tract_core::internal::*;

pub use kind::Kind;
pub(super) use output::known;
pub(crate) use wire::find_tail;

use super::Base;
use crate::error::{Error, Result};
use kind::Context;
use linear::last_linear;
use softmax::{Squash, sigmoid_behind, softmax_behind};
use trial::Trial;

/// What the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// One row of scores per example: the classes.
    Classification,
    /// A vector, or a sequence of vectors, per example: classes come from a trainable head.
    Encoder,
    /// Scores of the next token at every position: text is generated.
    CausalLm,
}

impl Task {
    /// The word used on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Encoder => "encoder",
            Task::CausalLm => "causal-lm",
        }
    }
}

impl std::str::FromStr for Task {
    type Err = Error;
    fn from_str(s: &str) -> Result<Task> {
        match s {
            "classification" => Ok(Task::Classification),
            "encoder" => Ok(Task::Encoder),
            "causal-lm" => Ok(Task::CausalLm),
            _ => Err(Error::usage(format!("unknown task {s:?}")).hint("use classification, encoder or causal-lm")),
        }
    }
}

/// Outlets of the concrete model that training and prediction look at.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    /// What a head reads: `[batch, features]`, or `[batch, sequence, features]` for an encoder; the last hidden state of a
    /// language model.
    pub features: OutletId,
    /// Scores before any softmax, `[batch, classes]`; none but for a classification.
    pub logits: Option<OutletId>,
    /// Node that turns features into logits, kept out of the LoRA sites because the head corrects its outputs directly.
    pub classifier: Option<usize>,
    /// The scores are the classifier's product with constants added, nothing else.
    pub plain: bool,
}

/// What the caller says of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Position of the output that answers.
    pub output: Option<usize>,
    /// Number of labels that are to be the model's classes, if they fit.
    pub labels: Option<usize>,
}

/// A value of the graph by the name of its node, which is the same at all sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    node: String,
    /// How many nodes of that name come before it.
    nth: usize,
    slot: usize,
}

impl Place {
    fn of(model: &TypedModel, outlet: OutletId) -> Place {
        let node = model.node(outlet.node).name.clone();
        let nth = model.nodes()[..outlet.node].iter().filter(|n| n.name == node).count();
        Place { node, nth, slot: outlet.slot }
    }

    /// The value in another graph of the same model.
    fn find(&self, model: &TypedModel) -> Option<OutletId> {
        let node = model.nodes().iter().filter(|n| n.name == self.node).nth(self.nth)?;
        (self.slot < node.outputs.len()).then(|| OutletId::new(node.id, self.slot))
    }
}

/// How scores that a softmax may be taken of are made of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// They are that value.
    Scores,
    /// Its logarithms.
    Log,
    /// `[0, z]` of the one value `z`.
    OneScore,
    /// `[ln(1 − p), ln p]` of the one value `p`.
    OneProbability,
}

/// The end of a model.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    /// Position of the output that answers.
    pub output: usize,
    /// What it holds.
    pub kind: Kind,
    /// The axis of the output that counts the examples.
    batch_axis: usize,
    /// What the scores are made of; none where nothing is a score.
    scores: Option<(Place, Form)>,
    /// The probabilities that the file has, and what makes them.
    probabilities: Option<(Place, &'static str)>,
    /// What the last linear layer reads, its own node, and whether the scores are its plain product.
    linear: Option<(Place, Place, bool)>,
    /// The scores are those of the next token, and `linear` what makes them of the last hidden state.
    next_token: bool,
}

/// A value at the end of a model, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndPoint {
    /// The node that makes it, by its name in the model.
    pub node: String,
    /// What it was taken for, and why.
    pub form: String,
}

/// What a model's end was taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndReport {
    /// The output that answers.
    pub output: String,
    /// What it holds.
    pub kind: Kind,
    /// The axis of the output that counts the examples: 0, or another one that is moved to the front.
    pub batch_axis: usize,
    /// What is taken for the scores of the classes.
    pub scores: Option<EndPoint>,
    /// What is taken for their probabilities.
    pub probabilities: Option<EndPoint>,
    /// What a head reads.
    pub features: Option<EndPoint>,
}

/// The scores of a model and what a head reads, by the names of the file's nodes that make them; the batch leads.
pub(crate) struct EndInFile {
    pub scores: String,
    pub scores_rank: usize,
    /// The axis of the scores that counts the classes; all others but the first are 1.
    pub classes_axis: usize,
    pub features: String,
    pub features_rank: usize,
}

impl Base {
    /// The same model, answering by its output `name`; without a name by the one that looks like the answer, where
    /// `labels` is the number of labels that are to be its classes if one of the outputs has as many.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) listing the outputs with their shapes if none has that name.
    pub fn answering(mut self, name: Option<&str>, labels: Option<usize>) -> Result<Base> {
        let output = name.map(|name| output::by_name(&self, name)).transpose()?;
        self.asked = Asked { output, labels };
        self.ending = Default::default();
        Ok(self)
    }

    /// The output that the caller named.
    pub(crate) fn asked_output(&self) -> Option<usize> {
        self.asked.output
    }

    /// The model's end.
    ///
    /// # Errors
    /// When the model's shapes do not work out at the sizes of a trial.
    pub(crate) fn ending(&self) -> Result<&Ending> {
        if let Some(ending) = self.ending.get() {
            return Ok(ending);
        }
        let ending = Ending::of(self)?;
        Ok(self.ending.get_or_init(|| ending))
    }

    /// What the model's answering output holds.
    ///
    /// # Errors
    /// When the model's shapes do not work out at the sizes of a trial.
    pub fn output_kind(&self) -> Result<Kind> {
        self.ending().map(|e| e.kind)
    }

    /// Name of the output that answers.
    ///
    /// # Errors
    /// As [`Base::output_kind`].
    pub fn output_name(&self) -> Result<String> {
        let ending = self.ending()?;
        Ok(self.outputs.get(ending.output).map(|p| p.name.clone()).unwrap_or_default())
    }

    /// The task of the model: the one that was asked for where the answering output can serve it, else the one that
    /// it suggests.
    ///
    /// # Errors
    /// As [`Base::guess_task`].
    pub fn task(&self, asked: Option<Task>) -> Result<Task> {
        let ending = self.ending()?;
        let serves = match asked {
            None => return self.guess_task(),
            Some(Task::Classification) => {
                matches!(ending.kind, Kind::Classes | Kind::TwoClasses | Kind::Vector | Kind::Regression)
            }
            Some(Task::Encoder) => !matches!(ending.kind, Kind::Integers | Kind::NoRows),
            Some(Task::CausalLm) => ending.next_token,
        };
        asked.filter(|_| serves).ok_or_else(|| output::refusal(self, ending))
    }

    /// The task that the answering output suggests.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedModel`](crate::ErrorKind::UnsupportedModel) saying what the output holds and what
    /// would work, where it is neither scores nor vectors.
    pub fn guess_task(&self) -> Result<Task> {
        let ending = self.ending()?;
        match ending.kind {
            Kind::Classes | Kind::TwoClasses => Ok(Task::Classification),
            _ if ending.next_token => Ok(Task::CausalLm),
            Kind::Vector | Kind::Sequence | Kind::Tokens => Ok(Task::Encoder),
            _ => Err(output::refusal(self, ending)),
        }
    }

    /// The name in the file of what the graph calls `node`: its own, or the one before a dotted suffix.
    fn name_in_file(&self, node: &str) -> String {
        let known = |name: &str| {
            self.onnx.nodes.iter().any(|n| n.name == name) || self.onnx.inputs.iter().any(|input| input == name)
        };
        let mut ends = node.match_indices('.').map(|(at, _)| at).collect::<Vec<_>>();
        ends.push(node.len());
        ends.into_iter().rev().map(|end| &node[..end]).find(|name| known(name)).unwrap_or(node).to_string()
    }

    /// What the model's end was taken for.
    ///
    /// # Errors
    /// As [`Base::output_kind`].
    pub fn end_report(&self) -> Result<EndReport> {
        let ending = self.ending()?;
        let named = |place: &Place| self.name_in_file(&place.node);
        let point = |place: &Place, form: &str| EndPoint { node: named(place), form: form.into() };
        let scores = ending.scores.as_ref().map(|(place, form)| {
            let word = match form {
                Form::Scores if ending.probabilities.is_some() => "what the probabilities are made of",
                Form::Scores => "the output itself",
                Form::Log => "logarithms of the output, whose rows sum to one",
                Form::OneScore => "0 and this score, for no and yes",
                Form::OneProbability => "logarithms of 1 - p and p, for no and yes",
            };
            point(place, word)
        });
        let whole = matches!(ending.kind, Kind::Vector | Kind::Sequence | Kind::Tokens) && !ending.next_token;
        let output = self.typed.outputs.get(ending.output).map(|o| Place::of(&self.typed, *o));
        let features = match (whole, &ending.linear, &ending.scores) {
            (true, ..) => output.map(|place| point(&place, "the output itself")),
            (_, Some((features, layer, _)), _) => {
                Some(point(features, &format!("what the last linear layer reads ({})", named(layer))))
            }
            (_, None, Some((place, _))) => Some(point(place, "the scores: no last linear layer was found")),
            _ => None,
        };
        // What is a vector has scores only for a caller who says that it is a classifier.
        let scores = scores.filter(|_| !whole);
        Ok(EndReport {
            output: self.output_name()?,
            kind: ending.kind,
            batch_axis: ending.batch_axis,
            scores,
            probabilities: ending.probabilities.as_ref().map(|(place, form)| point(place, form)),
            features,
        })
    }
}

impl Base {
    /// The scores and the features as values of the file; none where the scores are made of the file's values otherwise
    /// than by giving them the form `[batch, classes]`.
    ///
    /// # Errors
    /// As [`Base::output_kind`].
    pub(crate) fn end_in_file(&self) -> Result<Option<EndInFile>> {
        let ending = self.ending()?;
        let Some((scores, Form::Scores | Form::OneScore)) = &ending.scores else { return Ok(None) };
        let features = ending.linear.as_ref().map_or(scores, |(features, ..)| features);
        let shape = |place: &Place| {
            let outlet = place.find(&self.typed)?;
            Some(self.typed.outlet_fact(outlet).ok()?.shape.to_tvec())
        };
        let (Some(own), Some(read)) = (shape(scores), shape(features)) else { return Ok(None) };
        let wide: Vec<usize> = (1..own.len()).filter(|axis| own[*axis] != 1.to_dim()).collect();
        if ending.batch_axis != 0 || wide.len() > 1 {
            return Ok(None);
        }
        Ok(Some(EndInFile {
            scores: self.name_in_file(&scores.node),
            scores_rank: own.len(),
            classes_axis: wide.first().copied().unwrap_or(1),
            features: self.name_in_file(&features.node),
            features_rank: read.len(),
        }))
    }
}

impl Ending {
    fn of(base: &Base) -> Result<Ending> {
        let trial = Trial::of(base)?;
        let output = output::choose(base, &trial)?;
        let (mut kind, axis) = output::look(base, &trial, output);
        let outlet = trial.model.outputs[output];
        // A normalised vector, by its operators, that may be one of probabilities.
        if kind == Kind::Vector
            && !base.outputs.get(output).is_some_and(|p| kind::names_a_vector(&p.name))
            && trial::sum_to_one(&trial.rows(base, outlet))
        {
            kind = Kind::Classes;
        }
        let batch_axis = axis.unwrap_or(0);
        let bare =
            Ending { output, kind, batch_axis, scores: None, probabilities: None, linear: None, next_token: false };
        if matches!(kind, Kind::Tokens | Kind::Sequence)
            && let Some((hidden, layer)) = vocabulary::hidden_state(base, &trial, outlet)
        {
            return Ok(Ending { linear: Some((hidden, layer, false)), next_token: true, ..bare });
        }
        let float = trial.model.outlet_fact(outlet).is_ok_and(|f| f.datum_type.is_float());
        if axis.is_none() || !float || matches!(kind, Kind::Sequence | Kind::Tokens | Kind::Boxes | Kind::Map) {
            return Ok(bare);
        }
        let scores = Scores::of(base, &trial, outlet, kind);
        let model = &trial.model;
        let of_product = matches!(scores.form, Form::Scores | Form::OneScore);
        let linear = last_linear(model, scores.outlet, trial.bucket.batch).map(|l| {
            let place = Place::of(model, OutletId::new(l.node, 0));
            (Place::of(model, l.features), place, l.plain && of_product && bare.batch_axis == 0)
        });
        let probabilities = scores.probabilities.map(|(at, form)| (Place::of(model, at), form));
        Ok(Ending { scores: Some((Place::of(model, scores.outlet), scores.form)), probabilities, linear, ..bare })
    }
}

/// What the scores of an output that is a row, or a number, an example are.
struct Scores {
    outlet: OutletId,
    form: Form,
    probabilities: Option<(OutletId, &'static str)>,
}

impl Scores {
    fn of(base: &Base, trial: &Trial, output: OutletId, kind: Kind) -> Scores {
        let (model, batch) = (&trial.model, trial.bucket.batch);
        let number = kind.is_one_number();
        let squash = match (number, kind) {
            (true, _) | (_, Kind::MultiLabel) => sigmoid_behind(model, output),
            _ => softmax_behind(model, output, batch),
        };
        if let Some(Squash { scores, probabilities, form, .. }) = squash {
            let of = if number { Form::OneScore } else { Form::Scores };
            return Scores { outlet: scores, form: of, probabilities: Some((probabilities, form)) };
        }
        let plain = |form| Scores { outlet: output, form, probabilities: None };
        let raw = plain(if number { Form::OneScore } else { Form::Scores });
        // A vector, or what stands behind a linear layer alone, is anything: there is nothing to try.
        if kind == Kind::Vector || last_linear(model, output, batch).is_some_and(|l| l.plain) {
            return raw;
        }
        let rows = trial.rows(base, output);
        match number {
            true if trial::within_one(&rows) => {
                let found = plain(Form::OneProbability);
                Scores { probabilities: Some((output, "numbers between 0 and 1")), ..found }
            }
            false if trial::sum_to_one(&rows) => {
                let found = plain(Form::Log);
                Scores { probabilities: Some((output, "rows that sum to one, as tried")), ..found }
            }
            _ => raw,
        }
    }
}

/// The context in which outputs are looked at.
fn context(base: &Base, trial: &Trial) -> Context {
    Context {
        batch: trial.bucket.batch,
        map_input: base.inputs.iter().any(|p| p.dims.len() == 4),
        labels: base.asked.labels,
    }
}

#[cfg(test)]
mod tests;
