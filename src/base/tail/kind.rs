//! What sort of answer an output holds, by its shape, its name and the operators that it ends in.

use tract_core::internal::*;
use tract_core::ops::array::TypedConcat;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::nn::Softmax;
use tract_core::ops::scan::Scan;

use super::softmax::{sigmoid_behind, softmax_behind};
use super::walk::{Effect, FARTHEST, back, row_sizes, shape};
use crate::ops::is_constant;

/// What an output holds for an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One score, or probability, a class.
    Classes,
    /// One score of a question of yes or no: two classes.
    TwoClasses,
    /// Scores that do not exclude each other, each behind a sigmoid of its own.
    MultiLabel,
    /// A vector.
    Vector,
    /// A vector for each position.
    Sequence,
    /// A row of scores for each position: tags, or the next token.
    Tokens,
    /// One number that is no score.
    Regression,
    /// Boxes, anchors or points, with or without their classes.
    Boxes,
    /// Numbers for each place of a map: a segmentation, or features that are not pooled.
    Map,
    /// Whole numbers: classes, or token ids.
    Integers,
    /// Nothing that belongs to one example of a batch.
    NoRows,
}

impl Kind {
    /// The word in files and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Classes => "classes",
            Kind::TwoClasses => "two_classes",
            Kind::MultiLabel => "multi_label",
            Kind::Vector => "vector",
            Kind::Sequence => "sequence",
            Kind::Tokens => "tokens",
            Kind::Regression => "regression",
            Kind::Boxes => "boxes",
            Kind::Map => "map",
            Kind::Integers => "integers",
            Kind::NoRows => "no_rows",
        }
    }

    /// What that is, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Classes => "one score a class",
            Kind::TwoClasses => "one score of yes or no: two classes",
            Kind::MultiLabel => "independent scores, each behind its own sigmoid (multi-label)",
            Kind::Vector => "one vector an example",
            Kind::Sequence => "one vector a position",
            Kind::Tokens => "scores for every position (tags, or the next token)",
            Kind::Regression => "one number an example that is no score (regression)",
            Kind::Boxes => "boxes, anchors or points (detection)",
            Kind::Map => "numbers for every place of a map (segmentation, or features that are not pooled)",
            Kind::Integers => "whole numbers, not scores",
            Kind::NoRows => "rows that do not belong to one example of the batch",
        }
    }

    /// Whether it is one number an example.
    pub fn is_one_number(self) -> bool {
        matches!(self, Kind::TwoClasses | Kind::Regression)
    }

    /// Whether the classes are the model's own.
    pub fn has_classes(self) -> bool {
        matches!(self, Kind::Classes | Kind::TwoClasses | Kind::MultiLabel)
    }
}

/// What the outputs of one model have in common.
pub(super) struct Context {
    /// Examples in the concrete graph.
    pub batch: usize,
    /// Some input is a picture, or another map.
    pub map_input: bool,
    /// How many labels there are, where that is known.
    pub labels: Option<usize>,
}

/// Most numbers of a row that is made of two axes and still taken for a vector.
const LONGEST_FLATTENED: usize = 1024;
/// Most positions of a sequence that a picture becomes.
const MOST_PATCHES: usize = 2048;

/// The kind of the output `name` at `outlet`, whose batch is at `batch_axis`.
pub(super) fn kind_of(
    model: &TypedModel,
    outlet: OutletId,
    batch_axis: Option<usize>,
    name: &str,
    context: &Context,
) -> Kind {
    let Ok(fact) = model.outlet_fact(outlet) else { return Kind::NoRows };
    if !fact.datum_type.is_float() {
        return Kind::Integers;
    }
    let named = Named::of(name);
    let (Some(shape), Some(axis)) = (shape(model, outlet), batch_axis) else {
        let boxes = fact.rank() == 2 && (4..=7).any(|n| fact.shape[1] == n.to_dim());
        return if boxes || named.boxes { Kind::Boxes } else { Kind::NoRows };
    };
    let row: Vec<usize> = shape.iter().enumerate().filter(|(a, d)| *a != axis && **d != 1).map(|(_, d)| *d).collect();
    // Lines of text or of a signal, read one place after the other.
    let in_line = axis != 0 || !context.map_input || model.nodes().iter().any(|n| n.op_is::<Scan>());
    match row[..] {
        _ if named.boxes => Kind::Boxes,
        [] => one_number(model, outlet, &named, context),
        [width] => one_row(model, outlet, width, &named, context),
        [_, _] if shape.len() > 3 => Kind::Map,
        [_, _] if in_line => {
            let scores = named.scores || ends_in(model, outlet, &is_softmax);
            if scores { Kind::Tokens } else { Kind::Sequence }
        }
        [positions, width] => anchors_or_patches(model, outlet, positions, width, &named),
        _ => Kind::Map,
    }
}

/// What the name of an output says of it.
struct Named {
    scores: bool,
    vector: bool,
    boxes: bool,
}

impl Named {
    fn of(name: &str) -> Named {
        let name = name.to_ascii_lowercase();
        let holds = |words: &[&str]| words.iter().any(|w| name.contains(w));
        let scores = holds(&["logit", "prob", "score", "class"]);
        Named {
            scores,
            vector: !scores && holds(&["embed", "pooler", "pooled", "hidden", "feature"]),
            boxes: !scores && holds(&["bbox", "boxes", "landmark", "keypoint"]),
        }
    }
}

/// Whether exporters give this name to a vector.
pub(super) fn names_a_vector(name: &str) -> bool {
    Named::of(name).vector
}

fn one_number(model: &TypedModel, outlet: OutletId, named: &Named, context: &Context) -> Kind {
    let score = named.scores || context.labels == Some(2) || sigmoid_behind(model, outlet).is_some();
    if score { Kind::TwoClasses } else { Kind::Regression }
}

fn one_row(model: &TypedModel, outlet: OutletId, width: usize, named: &Named, context: &Context) -> Kind {
    if softmax_behind(model, outlet, context.batch).is_some() {
        return Kind::Classes;
    }
    if sigmoid_behind(model, outlet).is_some() {
        return Kind::MultiLabel;
    }
    if context.labels == Some(width) {
        return Kind::Classes;
    }
    if is_flattened_map(model, outlet, context.batch) {
        return if named.vector { Kind::Vector } else { Kind::Map };
    }
    let vector = named.vector || !named.scores && ends_in_vector(model, outlet);
    if vector { Kind::Vector } else { Kind::Classes }
}

/// What has a row for each place of a picture: the patches of an encoder, or the anchors of a detector.
fn anchors_or_patches(model: &TypedModel, outlet: OutletId, positions: usize, width: usize, named: &Named) -> Kind {
    let anchors = width == 4 || named.scores || positions > MOST_PATCHES || ends_in(model, outlet, &is_part);
    if anchors && !named.vector { Kind::Boxes } else { Kind::Sequence }
}

/// Whether an operator puts parts together, or makes probabilities of them, as the anchors of a detector are made.
fn is_part(node: &TypedNode) -> bool {
    node.op_is::<TypedConcat>() || node.op_is::<Softmax>() || node.op.name() == "Sigmoid"
}

fn is_softmax(node: &TypedNode) -> bool {
    node.op_is::<Softmax>()
}

/// Whether the output is such an operator's, behind others that keep its numbers apart.
fn ends_in(model: &TypedModel, outlet: OutletId, is: &dyn Fn(&TypedNode) -> bool) -> bool {
    let mut at = outlet;
    for _ in 0..FARTHEST {
        if is(model.node(at.node)) {
            return true;
        }
        match back(model, at) {
            Some(step) if step.effect != Effect::Columns => at = step.from,
            _ => return false,
        }
    }
    false
}

/// Whether the row is a map laid out in one line: of three axes, or of two that are long together.
fn is_flattened_map(model: &TypedModel, outlet: OutletId, batch: usize) -> bool {
    let mut at = outlet;
    for _ in 0..FARTHEST {
        let sizes = shape(model, at).and_then(|s| row_sizes(&s, batch)).unwrap_or_default();
        if sizes.len() > 2 || sizes.len() == 2 && sizes.iter().product::<usize>() > LONGEST_FLATTENED {
            return true;
        }
        match back(model, at) {
            Some(step) if matches!(step.effect, Effect::Linear { .. } | Effect::Clipped { .. }) => at = step.from,
            _ => return false,
        }
    }
    false
}

/// Whether the output is a pooled or normalised vector: behind scales, shifts and moves of axes it is a tanh (BERT's
/// pooler) or one computed value divided by, or times, another (a mean over a mask, `x / ‖x‖`, a layer norm), or the
/// state of a recurrent layer.
fn ends_in_vector(model: &TypedModel, output: OutletId) -> bool {
    let mut at = output;
    for _ in 0..16 {
        let node = model.node(at.node);
        let is_const = |o: &&OutletId| is_constant(model, **o);
        let computed: Vec<_> = node.inputs.iter().filter(|o| !is_const(o)).collect();
        let binary = node.op_as::<TypedBinOp>().map(|b| b.0.name());
        let passes = node.op_is::<AxisOp>() || node.op_is::<Cast>() || node.op.name() == "Identity";
        match (binary, &computed[..]) {
            (Some("Mul" | "Div"), [_, _]) => return true,
            (Some("Add" | "Sub" | "Mul" | "Div"), [next]) => at = **next,
            (None, [next]) if passes => at = **next,
            (None, _) => return ["Tanh", "RmsNorm"].contains(&&*node.op.name()) || node.op_is::<Scan>(),
            _ => return false,
        }
    }
    false
}
