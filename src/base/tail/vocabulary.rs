//! Causal language models: rows of scores for the next token, which no later token changes.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::Softmax;

use super::trial::Trial;
use super::walk::{FARTHEST, back, shape};
use super::{Base, Place};
use crate::input::{ArrayData, Example, Role};
use crate::ops::is_constant;

/// Exporters round the size of a vocabulary up to a multiple of at most this.
const ROUNDED_UP: usize = 256;
/// How far scores of one position may differ between two runs: rounding alone.
const SAME: f32 = 1e-4;

/// The last hidden state and the product that makes scores of it, `[batch, positions, vocabulary]`, where the model
/// is a causal language model: it has a KV cache, or as many scores as tokens, none of which depends on a later
/// token.
pub(super) fn hidden_state(base: &Base, trial: &Trial, output: OutletId) -> Option<(Place, Place)> {
    let model = &trial.model;
    let scores = shape(model, output).filter(|s| s.len() == 3 && s[1] == trial.bucket.sequence)?;
    let ids = base.roles.iter().position(|role| *role == Role::Ids)?;
    let tokens = usize::try_from(base.tables(ids).iter().filter_map(|t| t.least(usize::MAX)).min()?).ok()?;
    if base.cache.is_empty() {
        let same = scores[2].abs_diff(tokens) < ROUNDED_UP && (scores[2] == tokens || tokens > ROUNDED_UP);
        (same && is_causal(base, trial, output, ids)).then_some(())?;
    }
    let mut at = output;
    for _ in 0..FARTHEST {
        if let Some(hidden) = product(model, at, trial.bucket.sequence) {
            return Some((Place::of(model, hidden), Place::of(model, OutletId::new(at.node, 0))));
        }
        at = back(model, at)?.from;
    }
    None
}

/// What a matrix product with a constant reads, where that is a vector a position.
fn product(model: &TypedModel, at: OutletId, positions: usize) -> Option<OutletId> {
    let node = model.node(at.node);
    (node.op_is::<EinSum>() && node.inputs.len() == 2).then_some(())?;
    let data: Vec<OutletId> = node.inputs.iter().filter(|i| !is_constant(model, **i)).copied().collect();
    let [data] = data[..] else { return None };
    shape(model, data).filter(|s| s.len() == 3 && s[1] == positions).map(|_| data)
}

/// Whether no position looks at a later one: by the shares of the first attention, which take the model's first layer
/// alone, and where there is none by trying the whole model.
fn is_causal(base: &Base, trial: &Trial, output: OutletId, ids: usize) -> bool {
    let (model, positions) = (&trial.model, trial.bucket.sequence);
    let is_attention = |node: &&TypedNode| {
        let square = shape(model, node.id.into()).is_some_and(|s| s.len() > 2 && s.ends_with(&[positions, positions]));
        node.op_is::<Softmax>() && square
    };
    let order = model.eval_order().unwrap_or_default();
    let Some(attention) = order.into_iter().map(|id| model.node(id)).find(is_attention) else {
        return rows_are_causal(base, trial, output, ids);
    };
    let Some(examples) = unpadded(base, trial) else { return false };
    let Some(shares) = trial.values_of(&examples, attention.id.into()) else { return false };
    let later = |(at, share): (usize, &f32)| at % positions > at / positions % positions && *share > SAME;
    let looks_back = |shares: &Vec<f32>| !shares.iter().enumerate().any(later);
    !shares.is_empty() && shares.iter().all(looks_back)
}

/// Random examples of which every position counts.
fn unpadded(base: &Base, trial: &Trial) -> Option<Vec<Example>> {
    let mut examples = base.random_examples(&trial.bucket, 0).ok()?;
    for example in &mut examples {
        for (array, role) in example.arrays.iter_mut().zip(&base.roles) {
            if let (Role::Mask, ArrayData::I64(values)) = (role, &mut array.data) {
                values.fill(1);
            }
        }
    }
    Some(examples)
}

/// Whether another last token leaves all rows but the last as they are, and changes that one.
fn rows_are_causal(base: &Base, trial: &Trial, output: OutletId, ids: usize) -> bool {
    let run = |change: bool| -> Option<Vec<Vec<f32>>> {
        let mut examples = unpadded(base, trial)?;
        for example in &mut examples {
            let ArrayData::I64(values) = &mut example.arrays.get_mut(ids)?.data else { return None };
            let last = values.last_mut()?;
            *last = if change { (*last == 0).into() } else { *last };
        }
        trial.values_of(&examples, output)
    };
    let (Some(one), Some(other)) = (run(false), run(true)) else { return false };
    let near = |a: &[f32], b: &[f32]| {
        let most = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= SAME * most)
    };
    one.iter().zip(&other).all(|(one, other)| {
        let kept = one.len() - one.len() / trial.bucket.sequence;
        near(&one[..kept], &other[..kept]) && !near(&one[kept..], &other[kept..])
    })
}
