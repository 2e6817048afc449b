//! The features of a classifier: what its last linear layer reads, whatever stands between that layer and the scores.

use tract_core::internal::*;
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::Conv;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::Softmax;

use super::walk::{FARTHEST, back, row_sizes, shape};
use crate::ops::is_constant;

/// The last linear layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Linear {
    /// What it reads: a vector an example.
    pub features: OutletId,
    /// Its product.
    pub node: usize,
    /// The scores are its product and constants added to it, nothing else.
    pub plain: bool,
}

/// Walks back from `scores` to the product of a vector an example with a constant matrix.
pub(super) fn last_linear(model: &TypedModel, scores: OutletId, batch: usize) -> Option<Linear> {
    let (mut at, mut plain) = (scores, true);
    for _ in 0..FARTHEST {
        if let Some(features) = product(model, at, batch).or_else(|| pointwise(model, at, batch)) {
            plain &= model.node(at.node).op_is::<EinSum>();
            plain &= shape(model, at).is_some_and(|s| s.len() == 2);
            return Some(Linear { features, node: at.node, plain });
        }
        plain &= adds(model, at);
        at = before(model, at)?;
    }
    None
}

/// What a value is made of example by example.
fn before(model: &TypedModel, at: OutletId) -> Option<OutletId> {
    let node = model.node(at.node);
    if node.op_is::<Softmax>() {
        return node.inputs.first().copied();
    }
    back(model, at).map(|step| step.from)
}

/// Whether `at` is another value with a constant added.
fn adds(model: &TypedModel, at: OutletId) -> bool {
    let node = model.node(at.node);
    node.op_is::<Cast>()
        || node.op.name() == "Identity"
        || node.op.name() == "Add" && node.inputs.iter().any(|i| is_constant(model, *i))
}

/// What a matrix product with a constant reads, where that is a vector an example.
fn product(model: &TypedModel, at: OutletId, batch: usize) -> Option<OutletId> {
    let node = model.node(at.node);
    (node.op_is::<EinSum>() && node.inputs.len() == 2).then_some(())?;
    let data: Vec<OutletId> = node.inputs.iter().filter(|i| !is_constant(model, **i)).copied().collect();
    let [data] = data[..] else { return None };
    (is_vector(model, data, batch) && is_vector(model, at, batch)).then_some(data)
}

/// What a convolution of one tap reads, where its map is of one position.
fn pointwise(model: &TypedModel, at: OutletId, batch: usize) -> Option<OutletId> {
    let node = model.node(at.node);
    let conv = node.op_as::<Conv>()?;
    let one_tap = conv.group == 1 && conv.pool_spec.kernel_shape.iter().all(|k| *k == 1);
    let [data, kernel] = [*node.inputs.first()?, *node.inputs.get(1)?];
    let fits = one_tap && is_constant(model, kernel) && !is_constant(model, data);
    (fits && is_vector(model, data, batch) && is_vector(model, at, batch)).then_some(data)
}

fn is_vector(model: &TypedModel, at: OutletId, batch: usize) -> bool {
    shape(model, at).and_then(|s| row_sizes(&s, batch)).is_some_and(|sizes| sizes.len() <= 1)
}
