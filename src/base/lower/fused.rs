//! Operators that ONNX Runtime's optimiser fuses transformers to (`com.microsoft`), as the standard ones that they
//! were.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

use super::super::narrow::integer;
use super::super::reload::shape;
use super::{Given, Lowering, int};

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

fn number(node: &NodeProto, name: &str) -> Option<f32> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.f)
}

fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
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

/// `Attention` over the packed projection of one input. A weight that is not stored, a cache, or rotary embeddings
/// within: it stays as it is.
pub(super) fn attention(to: &mut Lowering, given: &Given) -> Option<()> {
    let node = given.node;
    let present = node.output.get(1).is_some_and(|name| !name.is_empty());
    let plain = given.input(4).is_none() && given.input(6).is_none() && !present && int(node, "do_rotary") == 0;
    let (x, weight) = (given.input(0)?, given.input(1)?);
    let wide = to.constants.get(weight).filter(|t| plain && t.dims.len() == 2)?.dims[1];
    let widths = packed_widths(node, wide)?;
    let product = to.emit_main("MatMul", &[x.to_string(), weight.to_string()], &[]);
    let product = match given.input(2) {
        Some(bias) => to.emit("Add", &[&product, bias]),
        None => product,
    };
    let projections = to.split(&product, &widths);
    to.attend(given, projections, given.input(3), given.input(5), [None, None])
}

/// `MultiHeadAttention` over projections of their own; what is packed stays as it is.
pub(super) fn multi_head_attention(to: &mut Lowering, given: &Given) -> Option<()> {
    // A cache of a fixed size, and one that is looked up.
    (given.input(8).is_none() && given.input(9).is_none()).then_some(())?;
    let (q, k, v) = (given.input(0)?, given.input(1)?, given.input(2)?);
    let mut projections = [q, k, v].map(str::to_string);
    if let Some(bias) = given.input(3) {
        let wide = to.constants.get(bias).filter(|t| t.dims.len() == 1 && t.dims[0] % 3 == 0)?.dims[0] / 3;
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
        let heads = int(node, "num_heads");
        (heads > 0).then_some(())?;
        let filter = number(node, "mask_filter_value").unwrap_or(MASKED);
        let lengths = mask.filter(|mask| self.lengths.contains(*mask));
        let masked = match mask {
            Some(mask) if lengths.is_none() && self.masks.contains(mask) => Some(self.added(mask, filter)),
            // Nothing tells which of its forms it has.
            Some(_) if lengths.is_none() => return None,
            _ => None,
        };
        let added = match (masked, bias) {
            (Some(masked), Some(bias)) => self.emit("Add", &[&masked, bias]),
            (masked, bias) => masked.or(bias.map(str::to_string)).unwrap_or_default(),
        };
        let mut attributes = vec![integer("q_num_heads", heads), integer("kv_num_heads", heads)];
        attributes.extend(number(node, "scale").filter(|s| *s > 0.0).map(|s| float_attribute("scale", s)));
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
