//! The KV cache of a causal language model: inputs that hold the keys and values of earlier positions, and outputs that
//! hold them with those of the new positions.
//!
//! Exporters write them as `past_key_values.N.key` and `present.N.key`, `[batch, heads, positions, width]`. They
//! are kept apart from what people feed: a pass over a whole text has an empty cache.

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto, type_proto};

use super::lower::{COS, GROUP_QUERY, head_size};
use super::reload::{shape, shape_mut};
use super::roles::words;
use super::shape::{PAST, TOTAL};
use super::{Base, Bucket, guarded};
use crate::error::{ErrorKind, Result};
use crate::input::Role;

const SEQUENCE: &str = "sequence";
const BATCH: &str = "batch";
/// The input of a merged export that chooses between the graph with a cache and the one without.
const BRANCH: &str = "use_cache_branch";

/// One tensor of keys or values, `[batch, heads, positions, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheEntry {
    /// The input that takes those of earlier positions.
    pub input: String,
    pub heads: usize,
    pub width: usize,
}

/// Finds the cache of the model, and brings its inputs and outputs behind all others, in the same order. The graph is
/// left as it is where there is none.
pub(super) fn arrange(proto: &mut ModelProto) -> Vec<CacheEntry> {
    let Some(graph) = &mut proto.graph else { return vec![] };
    let pairs: Vec<(CacheEntry, String)> = graph.input.iter().filter_map(|i| pair(graph, i)).collect();
    if pairs.is_empty() {
        return vec![];
    }
    let (entries, outputs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    graph.input.sort_by_key(|i| entries.iter().position(|e| e.input == i.name).map_or(0, |at| at + 1));
    graph.output.sort_by_key(|o| outputs.iter().position(|name| *name == o.name).map_or(0, |at| at + 1));
    take_branch(graph);
    let stored: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    for input in graph.input.iter_mut().filter(|i| !stored.contains(&i.name)) {
        let entry = entries.iter().find(|e| e.input == input.name);
        let cached = entry.is_some();
        let total = words(&input.name).iter().any(|word| word == "mask");
        let Some(shape) = shape_mut(input) else { continue };
        let names: &[(usize, &str)] = match (shape.dim.len(), cached, total) {
            (4, true, _) => &[(0, BATCH), (2, PAST)],
            (2, _, true) => &[(0, BATCH), (1, TOTAL)],
            (2, _, false) => &[(0, BATCH), (1, SEQUENCE)],
            _ => &[(0, BATCH)],
        };
        for (axis, name) in names {
            if let Some(dim) = shape.dim.get_mut(*axis).filter(|d| is_open(d)) {
                dim.value = Some(Value::DimParam(name.to_string()));
            }
        }
        if let (Some(entry), Some(dim)) = (entry, shape.dim.get_mut(3)) {
            dim.value = Some(Value::DimValue(entry.width as i64));
        }
    }
    entries
}

/// The entry that `input` takes, with the output that belongs to it.
fn pair(graph: &GraphProto, input: &ValueInfoProto) -> Option<(CacheEntry, String)> {
    let suffix = input.name.strip_prefix("past_key_values").or_else(|| input.name.strip_prefix("past"))?;
    let candidates = [format!("present{suffix}"), format!("present_key_values{suffix}")];
    let output = graph.output.iter().find(|o| candidates.contains(&o.name))?;
    let [_, heads, past, width] = &shape(input)?.dim[..] else { return None };
    let size = || head_size(graph, &input.name).and_then(|n| usize::try_from(n).ok());
    let (heads, width) = (fixed(heads)?, fixed(width).or_else(size)?);
    is_open(past).then(|| (CacheEntry { input: input.name.clone(), heads, width }, output.name.clone()))
}

fn fixed(dim: &Dimension) -> Option<usize> {
    match dim.value {
        Some(Value::DimValue(n)) if n > 0 => usize::try_from(n).ok(),
        _ => None,
    }
}

fn is_open(dim: &Dimension) -> bool {
    fixed(dim).is_none()
}

/// Of a merged export the graph with a cache stays, which takes an empty one as well.
fn take_branch(graph: &mut GraphProto) {
    let is_flag = |i: &ValueInfoProto| {
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(t)), .. }) = &i.r#type else { return false };
        i.name == BRANCH && t.elem_type == DataType::Bool as i32
    };
    let before = graph.input.len();
    graph.input.retain(|i| !is_flag(i));
    if graph.input.len() < before {
        graph.initializer.push(TensorProto {
            name: BRANCH.into(),
            dims: vec![1],
            data_type: DataType::Bool as i32,
            raw_data: vec![1],
            ..Default::default()
        });
    }
}

impl Base {
    /// The KV cache that the model has as inputs and outputs; empty where it has none.
    pub(crate) fn cache(&self) -> &[CacheEntry] {
        &self.cache
    }

    /// The typed graph at the sizes of `bucket`, constants propagated, nothing else rewritten. It has no cache.
    pub(crate) fn concrete(&self, bucket: &Bucket) -> Result<TypedModel> {
        let mut model = self.with_cache(&Bucket { past: 0, ..bucket.clone() })?;
        model.outputs.truncate(self.outputs.len());
        Ok(model)
    }

    /// [`Base::concrete`] with the cache: new keys and values are outputs after the model's own, and earlier ones
    /// inputs after its own if the bucket has any.
    pub(crate) fn with_cache(&self, bucket: &Bucket) -> Result<TypedModel> {
        let mut model = self.at(bucket)?;
        if bucket.past == 0 && !self.cache.is_empty() {
            guarded(ErrorKind::UnsupportedModel, "cannot run the model without earlier positions", || {
                empty(&mut model, self.inputs.len())?;
                model.prop_consts()
            })?;
        }
        Ok(model)
    }

    /// Rows of the table of positions that an input indexes, where there is one: no text may have more.
    pub(crate) fn position_rows(&self) -> Option<usize> {
        let positions = self.roles.iter().position(|r| *r == Role::Positions)?;
        let rows = self.tables(positions).iter().filter_map(|t| t.least(usize::MAX)).min()?;
        usize::try_from(rows).ok()
    }

    /// Rows of the smallest table of angles that an attention with rotary embeddings reads by the mask: no text may
    /// have more positions.
    pub(crate) fn rotary_rows(&self) -> Option<usize> {
        let tables = self.onnx.nodes.iter().filter(|n| n.op == GROUP_QUERY).filter_map(|n| n.inputs.get(COS));
        tables.filter_map(|name| self.onnx.initializers.get(name)?.first().copied()).min()
    }
}

/// Makes the inputs from the one of index `own` on tensors without positions.
fn empty(model: &mut TypedModel, own: usize) -> TractResult<()> {
    for outlet in model.inputs.split_off(own.min(model.inputs.len())) {
        let fact = model.outlet_fact(outlet)?;
        let shape = fact.shape.as_concrete().context("a cache of no definite shape")?.to_vec();
        ensure!(shape.contains(&0), "a cache of {shape:?} where none was to be");
        let none = Tensor::zero_dt(fact.datum_type, &shape)?.into_arc_tensor();
        let node = model.node_mut(outlet.node);
        node.outputs[0].fact = TypedFact::try_from(none.clone())?;
        node.op = Box::new(Const::new(none)?);
    }
    Ok(())
}
