//! `GroupQueryAttention` of ONNX Runtime, as its builder for generation writes it: packed or separate queries, keys and
//! values, a KV cache, rotary embeddings within. It becomes standard operators.
//!
//! ONNX Runtime takes positions from the number of tokens that count, which fits texts padded on the right alone.
//! Here they come from the model's mask, as in other exports: a token's position is the number of those before it
//! that count. A cache that ONNX Runtime would keep for a window alone (`sliding_window_cache`) holds all positions
//! here: the attention looks at the same ones.

use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::super::narrow::integer;
use super::super::roles::words;
use super::emit::{float_attribute, integers};
use super::projection::projection;
use super::unread::{OPTIMUM, Unread, later};
use super::{Constants, Given, Lowering, int, int_or, number};

/// The operator.
pub(in super::super) const GROUP_QUERY: &str = "GroupQueryAttention";
/// Inputs of the node.
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
pub(in super::super) const COS: usize = 7;
const SIN: usize = 8;
const Q_NORM: usize = 14;
const K_NORM: usize = 15;
const INPUTS: usize = 17;
const ATTRIBUTES: &[&str] = &[
    "causal",
    "do_rotary",
    "k_norm_epsilon",
    "k_quant_type",
    "kv_cache_bit_width",
    "kv_num_heads",
    "local_window_size",
    "num_heads",
    "q_norm_epsilon",
    "qk_norm_epsilon",
    "qk_output",
    "rotary_interleaved",
    "scale",
    "sliding_window_cache",
    "smooth_softmax",
    "softcap",
    "v_quant_type",
];

const FLOAT_CACHE: &str = "build it with a KV cache of floats: the model builder without `kv_cache_quant_scheme`";

/// What of a node is not read; none if that does not show in its form.
pub(super) fn unread(node: &NodeProto) -> Option<Unread> {
    let set = |name: &str| int(node, name) > 0;
    let given = |slot: usize| node.input.get(slot).is_some_and(|name| !name.is_empty());
    let kind = |name: &str| node.attribute.iter().any(|a| a.name == name && !a.s.is_empty() && a.s != b"NONE");
    let named = [
        (set("smooth_softmax"), "the attribute smooth_softmax", OPTIMUM),
        (int(node, "rotary_interleaved") != 0, "the attribute rotary_interleaved", OPTIMUM),
        (set("qk_output"), "the attribute qk_output", OPTIMUM),
        (int_or(node, "causal", 1) != 1, "the attribute causal of 0", OPTIMUM),
        (set("kv_cache_bit_width"), "a quantised cache (kv_cache_bit_width)", FLOAT_CACHE),
        (kind("k_quant_type"), "a quantised cache (k_quant_type)", FLOAT_CACHE),
        (kind("v_quant_type"), "a quantised cache (v_quant_type)", FLOAT_CACHE),
        (set("sliding_window_cache") && !set("local_window_size"), "sliding_window_cache and no window", OPTIMUM),
        (given(9), "its input position_ids", OPTIMUM),
        (given(10), "its input attention_bias", OPTIMUM),
        (given(11), "its input head_sink", OPTIMUM),
        (given(12), "its input k_scale", FLOAT_CACHE),
        (given(13), "its input v_scale", FLOAT_CACHE),
        (given(16), "its input query_seqlens", OPTIMUM),
        (given(Q_NORM) != given(K_NORM), "one of its inputs q_norm_weight and k_norm_weight", OPTIMUM),
        (given(1) != given(2), "one of its inputs key and value", OPTIMUM),
        (!given(PAST_KEY) || !given(PAST_VALUE), "no past keys and values", OPTIMUM),
    ];
    let found = named.into_iter().find(|(found, ..)| *found).map(|(_, what, hint)| (what.to_string(), hint));
    let (what, hint) = found.or_else(|| Some((later(node, ATTRIBUTES, INPUTS)?, OPTIMUM)))?;
    Some((format!("a {GROUP_QUERY} with {what}"), hint))
}

/// The size of a head of the attention that reads the cache input `past`, where the file tells it.
pub(in super::super) fn head_size(graph: &GraphProto, past: &str) -> Option<i64> {
    let node = graph.node.iter().find(|n| n.op_type == GROUP_QUERY && n.input.iter().any(|i| i == past))?;
    size_of(node, &graph.node, &super::constants(graph, &graph.node))
}

/// The sizes of the heads of all such nodes, by the names of their results.
pub(super) fn head_sizes(nodes: &[NodeProto], constants: &Constants) -> HashMap<String, i64> {
    let one = |n: &NodeProto| Some((n.output.first()?.clone(), size_of(n, nodes, constants)?));
    nodes.iter().filter(|n| n.op_type == GROUP_QUERY).filter_map(one).collect()
}

fn size_of(node: &NodeProto, nodes: &[NodeProto], constants: &Constants) -> Option<i64> {
    let (heads, shared) = (int(node, "num_heads"), int(node, "kv_num_heads"));
    let packed = node.input.get(1).is_none_or(String::is_empty);
    (heads > 0 && shared > 0).then_some(())?;
    let parts = if packed { heads.checked_add(shared.checked_mul(2)?)? } else { heads };
    let width = projection(node.input.first()?, nodes, constants)?.width()?;
    (parts > 0 && width > 0 && width % parts == 0).then(|| width / parts)
}

/// The model's own mask, `[batch, past and new positions]`.
pub(super) fn mask(graph: &GraphProto) -> Option<String> {
    let stored = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    let is_mask = |name: &str| words(name).iter().any(|word| word == "mask") && !stored(name);
    graph.input.iter().map(|i| &i.name).find(|name| is_mask(name)).cloned()
}

/// Rewrites a node.
pub(super) fn group_query(to: &mut Lowering, given: &Given) -> Option<()> {
    let node = given.node;
    let why = "a GroupQueryAttention whose heads' size is not told by the product with a stored weight before it";
    let size = to.head_sizes.get(given.output()?).copied();
    let size = to.wanted(size, why, OPTIMUM)?;
    let (heads, shared) = (int(node, "num_heads"), int(node, "kv_num_heads"));
    let mask = to.mask.clone();
    let mask = to.wanted(mask, "a GroupQueryAttention in a model without an input attention_mask", OPTIMUM)?;
    let [q, k, v] = match (given.input(1), given.input(2)) {
        (Some(k), Some(v)) => [given.input(0)?.to_string(), k.to_string(), v.to_string()],
        _ => to.split(given.input(0)?, &[heads * size, shared * size, shared * size]),
    };
    let [q, k, v] = [(q, heads), (k, shared), (v, shared)].map(|(x, heads)| to.heads(&x, heads, size));
    let (q, k) = match (given.input(Q_NORM), given.input(K_NORM)) {
        (Some(of_q), Some(of_k)) => {
            (to.normalised(&q, of_q, "q_norm_epsilon", node), to.normalised(&k, of_k, "k_norm_epsilon", node))
        }
        _ => (q, k),
    };
    let (q, k) = match int(node, "do_rotary") {
        0 => (q, k),
        _ => {
            let positions = to.positions(&mask, &q);
            let tables = given.input(COS).zip(given.input(SIN));
            let half = tables.and_then(|(cos, _)| to.constants.get(cos)?.dims.get(1).copied());
            let why = "a GroupQueryAttention with rotary embeddings whose cos_cache and sin_cache are not stored";
            let (half, (cos, sin)) = to.wanted(half.zip(tables), why, OPTIMUM)?;
            let (cos, sin) = (to.angles(cos, &positions), to.angles(sin, &positions));
            (to.rotated(&q, &cos, &sin, half, size), to.rotated(&k, &cos, &sin, half, size))
        }
    };
    let counts = to.emit_with("Cast", &[&mask], vec![integer("to", DataType::Bool as i64)]);
    let counts = to.unsqueeze(&counts, &[1, 2]);
    let float = |name: &str| number(node, name).filter(|f| *f != 0.0).map(|f| float_attribute(name, f));
    let mut attributes = vec![integer("is_causal", 1)];
    attributes.extend(float("scale"));
    attributes.extend(float("softcap").filter(|cap| cap.f > 0.0));
    let window = int_or(node, "local_window_size", -1);
    if window > 0 {
        attributes.push(integer("left_window_size", window - 1));
    }
    let inputs = [&q, &k, &v, &counts, given.input(PAST_KEY)?, given.input(PAST_VALUE)?].map(str::to_string);
    let whole = to.fresh();
    let output = |slot: usize| node.output.get(slot).cloned().unwrap_or_default();
    to.nodes.push(NodeProto {
        name: to.at.clone(),
        op_type: "Attention".into(),
        input: inputs.to_vec(),
        output: vec![whole.clone(), output(1), output(2)],
        attribute: attributes,
        ..NodeProto::default()
    });
    let moved = to.emit_with("Transpose", &[&whole], vec![integers("perm", &[0, 2, 1, 3])]);
    let together = to.integers(&[0, 0, heads * size]);
    to.emit_to("Reshape", &[&moved, &together], given.output()?);
    Some(())
}

impl Lowering<'_> {
    /// `[batch, positions, heads·size]` as `[batch, heads, positions, size]`.
    fn heads(&mut self, x: &str, heads: i64, size: i64) -> String {
        let shape = self.integers(&[0, 0, heads, size]);
        let apart = self.emit("Reshape", &[x, &shape]);
        self.emit_with("Transpose", &[&apart], vec![integers("perm", &[0, 2, 1, 3])])
    }

    /// Each head divided by its root mean square, times a weight that all share.
    fn normalised(&mut self, x: &str, weight: &str, own: &str, node: &NodeProto) -> String {
        let epsilon = number(node, own).or_else(|| number(node, "qk_norm_epsilon")).unwrap_or(1e-6);
        let epsilon = float_attribute("epsilon", epsilon);
        self.emit_with("SimplifiedLayerNormalization", &[x, weight], vec![integer("axis", -1), epsilon])
    }

    /// Positions of the new tokens, `[batch, positions]`: how many tokens before each count.
    fn positions(&mut self, mask: &str, q: &str) -> String {
        let whole = self.emit_with("Cast", &[mask], vec![integer("to", DataType::Int64 as i64)]);
        let (axis, one) = (self.integers(&[1]), self.integers(&[1]));
        let counted = self.emit("CumSum", &[&whole, &axis]);
        let before = self.emit("Sub", &[&counted, &one]);
        let zero = self.integers(&[0]);
        // What is padded on the left has none before it, and does not count itself.
        let before = self.emit("Max", &[&before, &zero]);
        let shape = self.emit("Shape", &[q]);
        let two = self.integers(&[2]);
        let new = self.emit("Gather", &[&shape, &two]);
        let start = self.emit("Neg", &[&new]);
        let end = self.integers(&[i64::MAX]);
        self.emit("Slice", &[&before, &start, &end, &axis])
    }

    /// Rows of a table of angles, `[batch, 1, positions, half]`.
    fn angles(&mut self, table: &str, positions: &str) -> String {
        let rows = self.emit("Gather", &[table, positions]);
        self.unsqueeze(&rows, &[1])
    }

    /// Rotary embedding of the first `2·half` of `size` numbers, in halves.
    fn rotated(&mut self, x: &str, cos: &str, sin: &str, half: i64, size: i64) -> String {
        let (first, second) = (self.columns(x, 0, half), self.columns(x, half, 2 * half));
        let parts = [("Sub", &first, &second), ("Add", &second, &first)];
        let [low, high] = parts.map(|(op, a, b)| {
            let (a, b) = (self.emit("Mul", &[a, cos]), self.emit("Mul", &[b, sin]));
            self.emit(op, &[&a, &b])
        });
        let mut all = vec![low, high];
        if 2 * half < size {
            all.push(self.columns(x, 2 * half, size));
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.emit_with("Concat", &all, vec![integer("axis", -1)])
    }
}
