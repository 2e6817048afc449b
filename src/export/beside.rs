//! A head beside the scores that a file has, as nodes of it. Whatever makes those scores of the last layer's product (a
//! temperature, a Gemm's factors, moved axes) stays as it is.

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto,
};

use super::graph::{fresh, position, scores_output, set_classes};
use super::tensors::{tensor, weight_type};
use crate::adapter::HeadDelta;
use crate::base::{Base, EndInFile, prune};
use crate::error::{Error, Result};
use crate::plan::Classifier;

/// Oldest opset whose Gemm broadcasts what it adds.
const OLDEST: i64 = 7;
/// Layers whose first or second input is a vector an example, in the file as in the graph.
const LAYERS: &[&str] = &["MatMul", "Gemm", "Conv"];

/// Makes `[scores | 0] + f·W + b` of the file's scores. They keep their name, so that what reads them reads these; of a
/// model of one score they become the only output, `[0, z]` with what was learned.
///
/// # Errors
/// `UnsupportedModel` that names the node where the scores or the features are no values of the file.
pub(super) fn add_head(
    graph: &mut GraphProto,
    base: &Base,
    classifier: Option<&Classifier>,
    head: &HeadDelta,
) -> Result<()> {
    let one = base.output_kind()?.is_one_number();
    let end =
        base.end_in_file()?.filter(|_| base.onnx().opset >= OLDEST).ok_or_else(|| refusal(base.path().display()))?;
    let missing = || refusal(&end.scores);
    let at = position(graph, &end.scores).ok_or_else(missing)?;
    let name = graph.node[at].output.first().cloned().filter(|name| !name.is_empty()).ok_or_else(missing)?;
    let scores = fresh(graph, &format!("{name}.base"));
    let features = match features(graph, &end, classifier).ok_or_else(|| refusal(&end.features))? {
        read if read == name => scores.clone(),
        read => read,
    };
    let kind = classifier.and_then(|c| {
        let node = position(graph, &c.weight.site).map(|at| &graph.node[at])?;
        Some(weight_type(graph, node.input.get(c.weight.slot)?))
    });
    let mut parts = Parts { graph, nodes: vec![], kind: kind.unwrap_or(tensor_proto::DataType::Float as i32) };
    let (read, own) = (parts.rows(&features, end.features_rank), parts.rows(&scores, end.scores_rank));
    let (weight, bias, spread) = matrices(head, one);
    let bias = parts.stored("head_bias", &[head.classes], &bias);
    let corrections = parts.gemm(&read, (head.features, &weight), &bias);
    let rows = if one { 1 } else { head.base_classes };
    let last = parts.gemm(&own, (rows, &spread), &corrections);
    let last =
        if one || end.scores_rank == 2 { last } else { parts.reshaped(&last, end.scores_rank, end.classes_axis) };
    let mut nodes = parts.nodes;
    // The last one makes what is read under the old name.
    nodes.iter_mut().flat_map(|n| &mut n.output).filter(|o| **o == last).for_each(|o| *o = name.clone());
    graph.node[at].output[0] = scores;
    graph.node.splice(at + 1..at + 1, nodes);
    if one {
        graph.output = vec![scores_output(name, head.classes)];
        prune(graph);
    } else {
        set_classes(graph, &base.output_name()?, head.base_classes, head.classes);
    }
    Ok(())
}

fn refusal(place: impl std::fmt::Display) -> Error {
    Error::unsupported("the model's scores are no value of its file that a head can be added to: it cannot be merged")
        .at(place)
        .hint("keep serving with acclimate, which applies the head beside the model")
}

/// Name of the value that the head reads.
fn features(graph: &GraphProto, end: &EndInFile, classifier: Option<&Classifier>) -> Option<String> {
    if let Some(Classifier { weight, .. }) = classifier {
        let node = &graph.node[position(graph, &weight.site)?];
        return LAYERS.contains(&node.op_type.as_str()).then(|| node.input.get(1 - weight.slot).cloned())?;
    }
    match position(graph, &end.features) {
        Some(at) => graph.node[at].output.first().cloned(),
        None => graph.input.iter().find(|i| i.name == end.features).map(|i| i.name.clone()),
    }
}

/// The head as a full matrix `[features, classes]` and a row, and what puts the base's scores into their columns.
fn matrices(head: &HeadDelta, one: bool) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let classes = head.classes;
    let (mut weight, mut bias) = (vec![0f32; head.features * classes], vec![0f32; classes]);
    for (j, &c) in head.columns.iter().enumerate() {
        for f in 0..head.features {
            weight[f * classes + c as usize] = head.weight.data[f * head.columns.len() + j];
        }
        bias[c as usize] = head.bias[j];
    }
    // The one score is that of the second class; the first one's is 0.
    let columns = if one { 1..2 } else { 0..head.base_classes };
    let spread = columns.flat_map(|own| (0..classes).map(move |c| f32::from(c == own))).collect();
    (weight, bias, spread)
}

/// New nodes, in the order in which they are worked out.
struct Parts<'a> {
    graph: &'a mut GraphProto,
    nodes: Vec<NodeProto>,
    /// Float type of what is stored.
    kind: i32,
}

impl Parts<'_> {
    fn stored(&mut self, what: &str, shape: &[usize], values: &[f32]) -> String {
        let name = fresh(self.graph, &format!("acclimate.{what}"));
        self.graph.initializer.push(tensor(name.clone(), shape, values, self.kind));
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let serial = self.nodes.len();
        let name = fresh(self.graph, &format!("acclimate.beside{serial}.{op}"));
        let output = fresh(self.graph, &format!("{name}.out"));
        let input = inputs.iter().map(ToString::to_string).collect();
        let op_type = op.into();
        self.nodes.push(NodeProto {
            name,
            op_type,
            input,
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        output
    }

    /// `value` as `[batch, numbers]`.
    fn rows(&mut self, value: &str, rank: usize) -> String {
        if rank == 2 {
            return value.into();
        }
        let r#type = AttributeType::Int as i32;
        self.node("Flatten", &[value], vec![AttributeProto { name: "axis".into(), i: 1, r#type, ..Default::default() }])
    }

    /// `x·W + c`, of a matrix of so many rows.
    fn gemm(&mut self, x: &str, (rows, values): (usize, &[f32]), c: &str) -> String {
        let weight = self.stored("head_weight", &[rows, values.len() / rows.max(1)], values);
        self.node("Gemm", &[x, &weight, c], vec![])
    }

    /// `[batch, classes]` with axes of 1 around the classes.
    fn reshaped(&mut self, x: &str, rank: usize, classes_axis: usize) -> String {
        let size = |axis: usize| match axis {
            0 => 0,
            axis if axis == classes_axis => -1,
            _ => 1,
        };
        let name = fresh(self.graph, "acclimate.shape");
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: vec![rank as i64],
            data_type: tensor_proto::DataType::Int64 as i32,
            int64_data: (0..rank).map(size).collect(),
            ..Default::default()
        });
        self.node("Reshape", &[x, &name], vec![])
    }
}
