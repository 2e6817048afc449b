//! Rewrites of the ONNX graph before the runtime reads it: operators that it has in no form which a gradient passes, or gets
//! wrong, become others of the same values.
//!
//! A quantised model becomes a graph of floats. A quantised tensor is kept as floats that hold whole numbers,
//! `q = round(x/s) + z` within its range, and `(q - z)·s` is what it stands for. The rounding passes the gradient straight through, the
//! clip cuts it off outside the range. Weights are dequantised, so that a low-rank product fits beside them. What cannot be
//! rewritten stays as it is, and the runtime has the last word.

mod backwards;
mod blocks;
#[cfg(test)]
mod contrib_tests;
mod emit;
mod fused;
mod group_query;
mod linear;
mod modules;
mod products;
mod projection;
mod quantisation;
mod ranges;
mod recurrent;
mod refusals;
mod simple;
mod table;
mod unread;

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::branches::reads;
use super::onnx::node_name;
use crate::error::{Error, Result};
use products::{DynamicProduct, dynamic_products};
use unread::Unread;

pub(super) use blocks::{BLOCKS, load as load_blocks};
pub(super) use group_query::{COS, GROUP_QUERY, head_size};
pub(super) use modules::packed_modules;
pub(super) use refusals::refusal;
use table::TABLE;

/// Rounding with the straight-through gradient.
pub(super) const ROUND: &str = "AcclimateRound";
/// Identity without a gradient: the scale of a dynamic quantisation follows the data, and is taken as given.
pub(super) const DETACH: &str = "AcclimateDetach";

/// Quantisation by stored numbers.
pub(super) const QUANTISE: &str = "AcclimateQuantise";
/// Quantisation by the range of the data, and what its result stands for.
pub(super) const DYNAMIC: &str = "AcclimateDynamic";

/// How far beyond its range a number still rounds to the last integer of the range.
const EDGE: f32 = 0.499;

/// Which nodes of an operator are rewritten.
type When = fn(&NodeProto) -> bool;
/// Writes what a node becomes. None if it stays after all; what was written of it is dropped then.
type Rewrite = fn(&mut Lowering, &Given) -> Option<()>;

const OPERATORS: &[(&str, When, Rewrite)] = &[
    ("Attention", fused::is, fused::attention),
    (BLOCKS, all, blocks::blocks),
    ("Celu", all, simple::celu),
    ("ConvInteger", all, products::integer_product),
    ("DequantizeLinear", all, linear::dequantise),
    (recurrent::DYNAMIC_LSTM, all, recurrent::dynamic_lstm),
    ("DynamicQuantizeLinear", all, linear::quantise_dynamically),
    ("EmbedLayerNormalization", all, fused::embed_layer_normalization),
    ("FusedGemm", all, fused::gemm),
    ("GRU", backwards::is, backwards::backwards),
    (TABLE, all, table::table),
    (GROUP_QUERY, all, group_query::group_query),
    ("LSTM", backwards::is, backwards::backwards),
    ("MatMulInteger", all, products::integer_product),
    ("MultiHeadAttention", all, fused::multi_head_attention),
    ("QGemm", all, linear::gemm),
    ("QLinearAdd", all, linear::binary),
    ("QLinearAveragePool", linear::channels_first, linear::unary),
    ("QLinearConcat", all, linear::concat),
    ("QLinearConv", all, linear::conv),
    ("QLinearGlobalAveragePool", linear::channels_first, linear::unary),
    ("QLinearLeakyRelu", linear::channels_first, linear::unary),
    ("QLinearMatMul", all, linear::binary),
    ("QLinearMul", all, linear::binary),
    ("QLinearSigmoid", linear::channels_first, linear::unary),
    ("QLinearSoftmax", all, linear::softmax),
    ("QuantizeLinear", linear::without_blocks, linear::quantise),
    ("RNN", backwards::is, backwards::backwards),
    ("Range", all, ranges::stored_range),
    ("TopK", all, simple::top_k),
];

fn all(_: &NodeProto) -> bool {
    true
}

fn rewrite_of(node: &NodeProto) -> Option<Rewrite> {
    OPERATORS.iter().find(|(op, when, _)| *op == node.op_type && when(node)).map(|(_, _, rewrite)| *rewrite)
}

/// Operators of which some node is rewritten.
pub(super) fn knows(op: &str) -> bool {
    OPERATORS.iter().any(|(name, ..)| *name == op)
}

/// Rewrites what there is to rewrite in `graph`, which is of `opset`.
///
/// # Errors
/// Where a node is not rewritten that nothing else reads.
pub(super) fn lower(graph: &mut GraphProto, opset: i64) -> Result<()> {
    if !graph.node.iter().any(|node| rewrite_of(node).is_some()) {
        return Ok(());
    }
    let old = std::mem::take(&mut graph.node);
    let constants = constants(graph, &old);
    let dynamic = dynamic_products(&old, &constants);
    let (head_sizes, mask) = (group_query::head_sizes(&old, &constants), group_query::mask(graph));
    let (lengths, masks) = (fused::lengths(&old), fused::masks(graph, &old));
    let reshaped = table::reshaped(&old, &constants);
    let mut to = Lowering { head_sizes, mask, lengths, masks, reshaped, ..Lowering::new(constants, opset) };
    for (position, node) in old.iter().enumerate().filter(|(position, _)| !dynamic.absorbed.contains(position)) {
        to.node(position, &Given { node, product: dynamic.products.get(&position) });
    }
    to.outcome()?;
    let Lowering { mut nodes, initializers, reshaped, .. } = to;
    // A table that was read in another shape is read as it is stored.
    let mut read: HashSet<String> = nodes.iter().flat_map(reads).collect();
    read.extend(graph.output.iter().map(|v| v.name.clone()));
    nodes.retain(|n| !n.output.iter().any(|o| reshaped.contains_key(o) && !read.contains(o)));
    // What was dequantised goes: it would be kept twice, and the runtime does not read four-bit integers.
    let mut wanted: HashSet<String> = nodes.iter().flat_map(reads).collect();
    wanted.extend(graph.input.iter().chain(&graph.output).map(|v| v.name.clone()));
    graph.initializer.retain(|t| wanted.contains(&t.name));
    graph.initializer.extend(initializers);
    graph.node = nodes;
    Ok(())
}

/// Stored tensors of `graph`, whose nodes are `nodes`: initializers and Constants.
fn constants<'a>(graph: &'a GraphProto, nodes: &'a [NodeProto]) -> Constants<'a> {
    let mut constants: Constants = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    for node in nodes.iter().filter(|n| n.op_type == "Constant") {
        let value = node.attribute.iter().find(|a| a.name == "value").and_then(|a| a.t.as_ref());
        if let (Some(t), Some(name)) = (value, node.output.first()) {
            constants.insert(name, t);
        }
    }
    constants
}

type Constants<'a> = HashMap<&'a str, &'a TensorProto>;

/// Names of the scale and the zero point as floats that broadcast against the tensor, and the range of its integers.
struct Quant {
    scale: String,
    zero: String,
    range: (f32, f32),
    /// Both of them, where they are stored numbers.
    stored: Option<(f32, f32)>,
}

struct Lowering<'a> {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    constants: Constants<'a>,
    opset: i64,
    serial: usize,
    /// Name of the node being rewritten.
    at: String,
    /// What was quantised by stored numbers, by the name of the result.
    quantised: HashMap<String, Quantised>,
    /// What was quantised by the range of its data: by the name of the result, the data, its scale and its zero point.
    dynamic: HashMap<String, [String; 3]>,
    /// What of both was asked for dequantised again, with the position of its node.
    rounded: HashMap<String, (String, usize)>,
    /// Of each attention that reads a cache, by the name of the result: the size of its heads.
    head_sizes: HashMap<String, i64>,
    /// The model's mask.
    mask: Option<String>,
    /// Values that count positions, one number an example, where a mask may stand.
    lengths: HashSet<String>,
    /// Masks `[batch, keys]`.
    masks: HashSet<String>,
    /// Stored tensors in another shape, by the name of that.
    reshaped: HashMap<String, &'a TensorProto>,
    /// Why the node that is being rewritten is not read, and the first node that was refused.
    unread: Option<Unread>,
    refused: Option<Error>,
}

#[derive(Clone)]
struct Quantised {
    x: String,
    scale: f32,
    zero: f32,
    /// Bounds of `x/scale`.
    bounds: (f32, f32),
    /// Position of its node.
    at: usize,
}

impl<'a> Lowering<'a> {
    fn new(constants: Constants<'a>, opset: i64) -> Lowering<'a> {
        Lowering {
            constants,
            opset,
            nodes: vec![],
            initializers: vec![],
            serial: 0,
            at: String::new(),
            quantised: HashMap::new(),
            dynamic: HashMap::new(),
            rounded: HashMap::new(),
            head_sizes: HashMap::new(),
            mask: None,
            lengths: HashSet::new(),
            masks: HashSet::new(),
            reshaped: HashMap::new(),
            unread: None,
            refused: None,
        }
    }

    /// Writes what the node at `position` becomes, or the node itself.
    fn node(&mut self, position: usize, given: &Given) {
        self.at = node_name(position, given.node);
        let (nodes, initializers) = (self.nodes.len(), self.initializers.len());
        if self.rewrite(given).is_none() {
            self.nodes.truncate(nodes);
            self.quantised.retain(|_, q| q.at < nodes);
            self.rounded.retain(|_, (_, at)| *at < nodes);
            self.initializers.truncate(initializers);
            self.nodes.push(given.node.clone());
            self.refuse();
        }
    }

    fn rewrite(&mut self, given: &Given) -> Option<()> {
        given.output()?;
        rewrite_of(given.node)?(self, given)
    }
}

/// A node to rewrite.
struct Given<'a> {
    node: &'a NodeProto,
    /// Where it is a product of integers: what its result is scaled to.
    product: Option<&'a DynamicProduct>,
}

impl<'a> Given<'a> {
    fn input(&self, slot: usize) -> Option<&'a str> {
        self.node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty())
    }
    /// The first output.
    fn output(&self) -> Option<&'a str> {
        self.node.output.first().map(String::as_str)
    }
}

fn int_or(node: &NodeProto, name: &str, default: i64) -> i64 {
    node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.i)
}

fn int(node: &NodeProto, name: &str) -> i64 {
    int_or(node, name, 0)
}

fn number(node: &NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.f)
}
