//! Operators that ONNX Runtime's optimiser fuses transformers to (`com.microsoft`), as the standard ones that they
//! were.

use std::collections::HashSet;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

use super::super::narrow::integer;
use super::super::reload::shape;
use super::emit::float_attribute;
use super::unread::{OPTIMUM, UNFUSED, Unread, later};
use super::{Given, Lowering, int, number};

/// What ONNX Runtime adds to the scores of masked keys where the node does not say.
const MASKED: f32 = -10000.0;

/// Whether the node is of ONNX Runtime's own domain.
pub(super) fn is(node: &NodeProto) -> bool {
    node.domain == "com.microsoft"
}

/// Values that count positions: sums, by whatever type they are of.
pub(super) fn lengths(nodes: &[NodeProto]) -> HashSet<String> {
    let mut found: HashSet<String> = HashSet::new();
    for node in nodes {
        let (Some(from), Some(to)) = (node.input.first(), node.output.first()) else { continue };
        let same = ["Cast", "Identity"].contains(&node.op_type.as_str()) && found.contains(from);
        let sum = node.op_type == "ReduceSum" && node.attribute.iter().any(|a| a.name == "keepdims" && a.i == 0);
        if same || sum {
            found.insert(to.clone());
        }
    }
    found
}

/// Inputs of `graph` of two axes, by whatever type they are of: of them a mask is one of each key.
pub(super) fn masks(graph: &GraphProto, nodes: &[NodeProto]) -> HashSet<String> {
    let rows = |i: &&ValueInfoProto| shape(i).is_some_and(|shape| shape.dim.len() == 2);
    let mut found: HashSet<String> = graph.input.iter().filter(rows).map(|i| i.name.clone()).collect();
    for node in nodes.iter().filter(|n| ["Cast", "Identity"].contains(&n.op_type.as_str())) {
        if let (Some(from), Some(to)) = (node.input.first(), node.output.first())
            && found.contains(from)
        {
            found.insert(to.clone());
        }
    }
    found
}

/// `Gemm` with an activation.
pub(super) fn gemm(to: &mut Lowering, given: &Given) -> Option<()> {
    let node = given.node;
    let activation = node.attribute.iter().find(|a| a.name == "activation").map_or(vec![], |a| a.s.clone());
    let activation = ["Relu", "Tanh", "Sigmoid"].into_iter().find(|op| op.as_bytes() == activation)?;
    let own: Vec<AttributeProto> =
        node.attribute.iter().filter(|a| !a.name.starts_with("activation")).cloned().collect();
    let product = to.emit_main("Gemm", &node.input, &own);
    to.emit_to(activation, &[&product], given.output()?);
    Some(())
}

/// Widths of the queries, keys and values that an `Attention` packs into a weight of `wide` columns; none where they
/// are not all of it.
pub(super) fn packed_widths(node: &NodeProto, wide: i64) -> Option<[i64; 3]> {
    let widths = match node.attribute.iter().find(|a| a.name == "qkv_hidden_sizes").map(|a| &a.ints[..]) {
        Some(&[q, k, v]) => [q, k, v],
        _ => [wide / 3; 3],
    };
    let whole = widths.iter().try_fold(0i64, |sum, width| sum.checked_add(*width).filter(|_| *width > 0));
    (whole == Some(wide)).then_some(widths)
}

/// What of an `Attention` is not read; none if that does not show in its form.
pub(super) fn attention_unread(node: &NodeProto) -> Option<Unread> {
    const KNOWN: &[&str] = &[
        "do_rotary",
        "mask_filter_value",
        "num_heads",
        "past_present_share_buffer",
        "qkv_hidden_sizes",
        "rotary_embedding_dim",
        "scale",
        "unidirectional",
    ];
    let given = |slot: usize| node.input.get(slot).is_some_and(|name| !name.is_empty());
    let present = node.output.get(1).is_some_and(|name| !name.is_empty());
    let named = [
        (given(4), "a cache (its input past)"),
        (given(6), "a cache of a fixed size (its input past_sequence_length)"),
        (present, "a cache (its output present)"),
        (int(node, "do_rotary") != 0, "the attribute do_rotary"),
    ];
    let found = named.into_iter().find(|(found, _)| *found).map(|(_, what)| (what.to_string(), OPTIMUM));
    let (what, hint) = found.or_else(|| Some((later(node, KNOWN, 7)?, UNFUSED)))?;
    Some((format!("an Attention of com.microsoft with {what}"), hint))
}

/// `Attention` over the packed projection of one input.
pub(super) fn attention(to: &mut Lowering, given: &Given) -> Option<()> {
    let node = given.node;
    let (x, weight) = (given.input(0)?, given.input(1)?);
    let wide = to.constants.get(weight).filter(|t| t.dims.len() == 2).map(|t| t.dims[1]);
    let widths = wide.and_then(|wide| packed_widths(node, wide));
    let why = "an Attention of com.microsoft whose weights are not a stored tensor of queries, keys and values";
    let widths = to.wanted(widths, why, UNFUSED)?;
    let product = to.emit_main("MatMul", &[x.to_string(), weight.to_string()], &[]);
    let product = match given.input(2) {
        Some(bias) => to.emit("Add", &[&product, bias]),
        None => product,
    };
    let projections = to.split(&product, &widths);
    to.attend(given, projections, given.input(3), given.input(5), [None, None])
}

/// What of a `MultiHeadAttention` is not read; none if that does not show in its form.
pub(super) fn multi_head_unread(node: &NodeProto) -> Option<Unread> {
    const KNOWN: &[&str] = &["mask_filter_value", "num_heads", "scale", "unidirectional"];
    let given = |slot: usize| node.input.get(slot).is_some_and(|name| !name.is_empty());
    let scores = node.output.get(3).is_some_and(|name| !name.is_empty());
    let named = [
        (!given(1), "queries, keys and values packed in one input", UNFUSED),
        (!given(2), "keys and values packed in one input", UNFUSED),
        (given(8), "a cache of a fixed size (its input past_sequence_length)", OPTIMUM),
        (given(9), "a cache that is looked up (its input cache_indirection)", OPTIMUM),
        (scores, "its scores as an output (qk)", UNFUSED),
    ];
    let found = named.into_iter().find(|(found, ..)| *found).map(|(_, what, hint)| (what.to_string(), hint));
    let (what, hint) = found.or_else(|| Some((later(node, KNOWN, 10)?, UNFUSED)))?;
    Some((format!("a MultiHeadAttention with {what}"), hint))
}

/// `MultiHeadAttention` over projections of their own.
pub(super) fn multi_head_attention(to: &mut Lowering, given: &Given) -> Option<()> {
    let (q, k, v) = (given.input(0)?, given.input(1)?, given.input(2)?);
    let mut projections = [q, k, v].map(str::to_string);
    if let Some(bias) = given.input(3) {
        let wide = to.constants.get(bias).filter(|t| t.dims.len() == 1 && t.dims[0] % 3 == 0).map(|t| t.dims[0] / 3);
        let why = "a MultiHeadAttention whose bias is not a stored tensor of three equal parts";
        let wide = to.wanted(wide, why, UNFUSED)?;
        for (part, projection) in projections.iter_mut().enumerate() {
            let part = part as i64;
            let own = to.columns(bias, part * wide, (part + 1) * wide);
            *projection = to.emit("Add", &[projection, &own]);
        }
    }
    to.attend(given, projections, given.input(4), given.input(5), [given.input(6), given.input(7)])
}

/// Sum of the embeddings of words, positions and segments, normalised.
pub(super) fn embed_layer_normalization(to: &mut Lowering, given: &Given) -> Option<()> {
    let node = given.node;
    let (ids, words, positions) = (given.input(0)?, given.input(2)?, given.input(3)?);
    let gather = |to: &mut Lowering, table: &str, rows: &str| to.emit("Gather", &[table, rows]);
    let mut sum = gather(to, words, ids);
    let places = match given.input(8) {
        Some(rows) => gather(to, positions, rows),
        None => {
            let shape = to.emit("Shape", &[ids]);
            let (zero, one) = (to.integers(&[0]), to.integers(&[1]));
            let length = to.emit("Gather", &[&shape, &one]);
            to.emit("Slice", &[positions, &zero, &length, &zero])
        }
    };
    sum = to.emit("Add", &[&sum, &places]);
    if let (Some(segments), Some(table)) = (given.input(1), given.input(4)) {
        let rows = gather(to, table, segments);
        sum = to.emit("Add", &[&sum, &rows]);
    }
    let name = to.fresh();
    let epsilon = float_attribute("epsilon", number(node, "epsilon").unwrap_or(1e-12));
    let (scale, bias) = (given.input(5)?, given.input(6)?);
    to.push(name, "LayerNormalization", &[&sum, scale, bias], given.output()?, vec![integer("axis", -1), epsilon]);
    let output = |slot: usize| node.output.get(slot).filter(|name| !name.is_empty());
    // Without a mask nothing reads how many positions count.
    if let (Some(lengths), Some(mask)) = (output(1), given.input(7)) {
        let whole = to.emit_with("Cast", &[mask], vec![integer("to", DataType::Int64 as i64)]);
        let counted = to.sums(&whole, 1);
        to.lengths.insert(lengths.clone());
        to.rename(&counted, lengths)?;
    }
    if let Some(whole) = output(2) {
        to.rename(&sum, whole)?;
    }
    Some(())
}

impl Lowering<'_> {
    /// The standard `Attention` of projections `[batch, positions, heads·size]`.
    fn attend(
        &mut self,
        given: &Given,
        projections: [String; 3],
        mask: Option<&str>,
        bias: Option<&str>,
        past: [Option<&str>; 2],
    ) -> Option<()> {
        let node = given.node;
        let op = &node.op_type;
        let heads = Some(int(node, "num_heads")).filter(|heads| *heads > 0);
        let heads = self.wanted(heads, &format!("the operator {op} without its num_heads"), UNFUSED)?;
        let filter = number(node, "mask_filter_value").unwrap_or(MASKED);
        let lengths = mask.filter(|mask| self.lengths.contains(*mask));
        let masked = match mask {
            Some(mask) if lengths.is_none() && self.masks.contains(mask) => Some(self.added(mask, filter)),
            Some(_) if lengths.is_none() => {
                let why = format!(
                    "a mask of this {op} that is neither an input of one number a key nor lengths (its input {})",
                    if op == "Attention" { "mask_index" } else { "key_padding_mask" }
                );
                self.wanted(None, &why, UNFUSED)?
            }
            _ => None,
        };
        let added = match (masked, bias) {
            (Some(masked), Some(bias)) => self.emit("Add", &[&masked, bias]),
            (masked, bias) => masked.or(bias.map(str::to_string)).unwrap_or_default(),
        };
        let mut attributes = vec![integer("q_num_heads", heads), integer("kv_num_heads", heads)];
        attributes.extend(number(node, "scale").filter(|s| *s != 0.0).map(|s| float_attribute("scale", s)));
        if int(node, "unidirectional") != 0 {
            attributes.push(integer("is_causal", 1));
        }
        let mut input = projections.to_vec();
        input.push(added);
        input.extend(past.map(|past| past.unwrap_or_default().to_string()));
        input.push(lengths.unwrap_or_default().to_string());
        while input.last().is_some_and(String::is_empty) {
            input.pop();
        }
        let output = node.output.iter().take(3).cloned().collect();
        let (name, op_type) = (self.fresh(), "Attention".to_string());
        self.nodes.push(NodeProto { name, op_type, input, output, attribute: attributes, ..NodeProto::default() });
        Some(())
    }

    /// What a mask `[batch, keys]` of ones and zeros adds to the scores.
    fn added(&mut self, mask: &str, filter: f32) -> String {
        let counts = self.as_float(mask);
        let one = self.floats(&[1.0], &[]);
        let masked = self.emit("Sub", &[&one, &counts]);
        let filter = self.floats(&[filter], &[]);
        let added = self.emit("Mul", &[&masked, &filter]);
        self.unsqueeze(&added, &[1, 2])
    }
}
