//! Graphs of a language model: tokens → last hidden state, new keys and values; hidden state → scores of the next
//! token.

use tract_core::internal::*;
use tract_core::ops::array::{Slice, TypedConcat};
use tract_core::ops::source::TypedSource;

use crate::base::{Base, Bucket, Task, find_tail, guarded};
use crate::error::{ErrorKind, Result};
use crate::ops::Append;
use crate::plan::graph::{Deltas, put_deltas};

/// Axis of the positions in the tensors of a cache.
const POSITIONS: usize = 2;

/// Tokens, and a cache where the bucket has one, to `[hidden state, new keys and values…]`. Low-rank inputs are the
/// last.
pub(super) fn trunk(base: &Base, bucket: &Bucket, deltas: &Deltas) -> Result<TypedModel> {
    let (mut model, hidden) = start(base, bucket)?;
    let new = guarded(ErrorKind::UnsupportedModel, "cannot find the new keys and values", || {
        let presents = model.outputs[base.outputs().len()..].to_vec();
        let mut new = vec![];
        for (ix, present) in presents.into_iter().enumerate() {
            new.push(match appended(&model, base, ix, present) {
                _ if bucket.past == 0 => present,
                Some((_, rows)) => rows,
                None => {
                    let op = Slice::new(POSITIONS, bucket.past, bucket.past + bucket.sequence);
                    model.wire_node(format!("acclimate.new.{ix}"), op, &[present])?[0]
                }
            });
        }
        Ok(new)
    })?;
    let outputs = [&[hidden][..], &new].concat();
    put_deltas(base, &mut model, &outputs, deltas)?;
    Ok(model)
}

/// One token and a cache of `capacity` rows, whose row of the last input's index becomes its own: `[hidden state,
/// cache…]`. None where the graph does more with its cache than to append to it.
pub(super) fn step(base: &Base, capacity: usize, deltas: &Deltas) -> Result<Option<TypedModel>> {
    let (mut model, hidden) = start(base, &Bucket { batch: 1, sequence: 1, past: capacity - 1 })?;
    let own = base.inputs().len();
    let presents = model.outputs[base.outputs().len()..].to_vec();
    let placed = guarded(ErrorKind::UnsupportedModel, "cannot place the cache", || {
        let position = model.add_source("acclimate.position", i64::scalar_fact())?;
        for (ix, present) in presents.iter().enumerate() {
            let Some((concat, _)) = appended(&model, base, ix, *present) else { return Ok(false) };
            let source = model.inputs[own + ix];
            if model.outlet_successors(source).len() != 1 {
                return Ok(false);
            }
            let mut fact = model.outlet_fact(source)?.clone();
            fact.shape.set(POSITIONS, capacity.to_dim());
            let node = model.node_mut(source.node);
            node.op = Box::new(TypedSource::new(fact.clone()));
            node.outputs[0].fact = fact;
            model.node_mut(concat).op = Box::new(Append);
            model.add_edge(position, InletId::new(concat, 2))?;
        }
        Ok(true)
    })?;
    if !placed {
        return Ok(None);
    }
    let outputs = [&[hidden][..], &presents].concat();
    put_deltas(base, &mut model, &outputs, deltas)?;
    Ok(Some(model))
}

/// Hidden states `[1, rows, width]` to scores `[1, rows, vocabulary]`.
pub(in crate::plan) fn vocabulary(base: &Base, rows: usize) -> Result<TypedModel> {
    let (mut model, hidden) = start(base, &Bucket { batch: 1, sequence: rows, past: 0 })?;
    let output = base.ending()?.output;
    guarded(ErrorKind::UnsupportedModel, "cannot take the vocabulary apart", || {
        let scores = *model.outputs.get(output).context("the model lost an output")?;
        let fact = model.outlet_fact(hidden)?.without_value();
        let source = model.add_source("acclimate.hidden", fact)?;
        for reader in model.outlet_successors(hidden).to_vec() {
            model.add_edge(source, reader)?;
        }
        model.inputs = vec![source];
        model.select_output_outlets(&[scores])?;
        crate::plan::declutter::declutter(&mut model)
    })?;
    Ok(model)
}

/// The graph of a bucket, and its last hidden state.
fn start(base: &Base, bucket: &Bucket) -> Result<(TypedModel, OutletId)> {
    let mut model = base.with_cache(bucket)?;
    let tail = find_tail(base, &mut model, Task::CausalLm)?;
    Ok((model, tail.features))
}

/// The node that makes `present` by appending to the input of cache entry `ix`, and what it appends.
fn appended(model: &TypedModel, base: &Base, ix: usize, present: OutletId) -> Option<(usize, OutletId)> {
    let node = model.node(present.node);
    let concat = node.op_as::<TypedConcat>().is_some_and(|op| op.axis == POSITIONS);
    match (concat, &node.inputs[..]) {
        (true, [past, new]) if model.inputs.get(base.inputs().len() + ix) == Some(past) => Some((node.id, *new)),
        _ => None,
    }
}
