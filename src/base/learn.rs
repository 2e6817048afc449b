//! Operators of classical learning as scikit-learn's converter writes them, in standard ones: linear layers among them can adapt.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::branches::reads;
use super::integers::float_tensor;
use super::narrow::integer;
use super::onnx::node_name;

/// Opset from which a ReduceMax has its axes as an input.
const AXES_AS_INPUT: i64 = 18;

/// Rewrites what there is to rewrite in `graph`, which is of `opset`; whether there was anything.
pub(super) fn lower(graph: &mut GraphProto, opset: i64) -> bool {
    if !graph.node.iter().any(|n| n.domain == "ai.onnx.ml") {
        return false;
    }
    let mut wanted: HashSet<String> = graph.node.iter().flat_map(reads).collect();
    wanted.extend(graph.output.iter().map(|o| o.name.clone()));
    let mut to = Writer { opset, nodes: vec![], initializers: vec![], node: String::new(), serial: 0 };
    let mut changed = false;
    for (position, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        let mark = (to.nodes.len(), to.initializers.len());
        (to.node, to.serial) = (node_name(position, &node), 0);
        if to.rewrite(&node, &wanted).is_some() {
            changed = true;
        } else {
            to.nodes.truncate(mark.0);
            to.initializers.truncate(mark.1);
            to.nodes.push(node);
        }
    }
    graph.node = to.nodes;
    graph.initializer.extend(to.initializers);
    changed
}

struct Writer {
    opset: i64,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Name of the node that is rewritten.
    node: String,
    serial: usize,
}

impl Writer {
    /// Writes what `node` becomes; none if it stays. `wanted` are the values that something reads.
    fn rewrite(&mut self, node: &NodeProto, wanted: &HashSet<String>) -> Option<()> {
        if node.domain != "ai.onnx.ml" {
            return None;
        }
        let (x, y) = (node.input.first()?.as_str(), node.output.first()?.as_str());
        match node.op_type.as_str() {
            "Scaler" => {
                let x = self.as_float(x);
                let (offset, scale) =
                    (self.row(or(floats(node, "offset"), &[0.0])), self.row(or(floats(node, "scale"), &[1.0])));
                let moved = self.emit("Sub", &[&x, &offset], vec![]);
                self.emit_to("Mul", &[&moved, &scale], y, vec![]);
            }
            // What a softmax gives adds up to one already.
            "Normalizer" if text(node, "norm") == "L1" && self.writer_is(x, "Softmax") => {
                self.emit_to("Identity", &[x], y, vec![]);
            }
            // The runtime divides by the largest size, and not by the largest value.
            "Normalizer" if ["", "MAX"].contains(&text(node, "norm").as_str()) => {
                let x = self.as_float(x);
                let (axes, attribute) = self.axes(1);
                let largest = self.emit(
                    "ReduceMax",
                    &[&[x.as_str()], &axes.as_deref().into_iter().collect::<Vec<_>>()[..]].concat(),
                    attribute,
                );
                self.emit_to("Div", &[&x, &largest], y, vec![]);
            }
            "LinearClassifier" => {
                let scores = node.output.get(1).filter(|_| !wanted.contains(y))?;
                let labels = of(node, "classlabels_ints").map_or(0, |a| a.ints.len());
                let labels = labels.max(of(node, "classlabels_strings").map_or(0, |a| a.strings.len()));
                let end = after(&text(node, "post_transform"))?;
                let z = self.linear(node, x, labels)?;
                self.emit_to(end.0, &[&z], scores, end.1);
            }
            "LinearRegressor" if ["", "NONE"].contains(&text(node, "post_transform").as_str()) => {
                let targets = of(node, "targets").map_or(1, |a| a.i);
                let z = self.linear(node, x, usize::try_from(targets).ok()?)?;
                self.emit_to("Identity", &[&z], y, vec![]);
            }
            "Imputer" => {
                let values = floats(node, "imputed_value_floats");
                if values.is_empty() {
                    return None;
                }
                let replaced = of(node, "replaced_value_float").map_or(0.0, |a| a.f);
                let missing = if replaced.is_nan() {
                    self.emit("IsNaN", &[x], vec![])
                } else {
                    let replaced = self.row(&[replaced]);
                    self.emit("Equal", &[x, &replaced], vec![])
                };
                let values = self.row(values);
                self.emit_to("Where", &[&missing, &values, x], y, vec![]);
            }
            "Binarizer" => {
                let threshold = self.row(&[of(node, "threshold").map_or(0.0, |a| a.f)]);
                let above = self.emit("Greater", &[x, &threshold], vec![]);
                self.emit_to("Cast", &[&above], y, vec![to_float()]);
            }
            "FeatureVectorizer" => {
                let parts: Vec<String> = node.input.iter().map(|i| self.as_float(i)).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                self.emit_to("Concat", &parts, y, vec![integer("axis", 1)]);
            }
            _ => return None,
        }
        Some(())
    }

    /// `x·Wᵀ + b` of a node's coefficients, `rows` of them; it keeps the name of the node.
    fn linear(&mut self, node: &NodeProto, x: &str, rows: usize) -> Option<String> {
        let (weight, bias) = (floats(node, "coefficients"), floats(node, "intercepts"));
        if rows == 0 || weight.is_empty() || weight.len() % rows != 0 || ![0, rows].contains(&bias.len()) {
            return None;
        }
        let dims = [rows as i64, (weight.len() / rows) as i64];
        let x = self.as_float(x);
        let weight = self.stored(weight, &dims);
        let bias = or(bias, &[0.0]);
        let bias = self.stored(bias, &[bias.len() as i64]);
        let output = self.fresh();
        let input = [x, weight, bias].to_vec();
        let (name, op_type, attribute) = (self.node.clone(), "Gemm".to_string(), vec![integer("transB", 1)]);
        self.nodes.push(NodeProto {
            name,
            op_type,
            input,
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        Some(output)
    }

    /// How a reduction says its axis, as an input or as an attribute.
    fn axes(&mut self, axis: i64) -> (Option<String>, Vec<AttributeProto>) {
        if self.opset < AXES_AS_INPUT {
            let (name, r#type) = ("axes".to_string(), AttributeType::Ints as i32);
            return (None, vec![AttributeProto { name, r#type, ints: vec![axis], ..Default::default() }]);
        }
        let name = self.fresh();
        let (dims, data_type) = (vec![1], DataType::Int64 as i32);
        let t = TensorProto { name: name.clone(), dims, data_type, int64_data: vec![axis], ..Default::default() };
        self.initializers.push(t);
        (Some(name), vec![])
    }

    fn writer_is(&self, value: &str, op: &str) -> bool {
        self.nodes.iter().any(|n| n.op_type == op && n.output.iter().any(|o| o == value))
    }

    fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("{}.standard.{}", self.node, self.serial)
    }

    fn emit_to(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        let (name, op_type) = (self.fresh(), op.to_string());
        let input = inputs.iter().map(|i| i.to_string()).collect();
        self.nodes.push(NodeProto {
            name,
            op_type,
            input,
            output: vec![output.to_string()],
            attribute,
            ..Default::default()
        });
    }

    fn emit(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        self.emit_to(op, inputs, &output, attribute);
        output
    }

    fn as_float(&mut self, x: &str) -> String {
        self.emit("Cast", &[x], vec![to_float()])
    }

    fn stored(&mut self, values: &[f32], dims: &[i64]) -> String {
        let name = self.fresh();
        self.initializers.push(float_tensor(name.clone(), values, dims));
        name
    }

    /// One number for each feature, or one for all.
    fn row(&mut self, values: &[f32]) -> String {
        self.stored(values, &[1, values.len() as i64])
    }
}

/// The operator that a transform of scores is, with its attributes; none if there is no standard one.
fn after(transform: &str) -> Option<(&'static str, Vec<AttributeProto>)> {
    match transform {
        "" | "NONE" => Some(("Identity", vec![])),
        "SOFTMAX" => Some(("Softmax", vec![integer("axis", 1)])),
        "LOGISTIC" => Some(("Sigmoid", vec![])),
        _ => None,
    }
}

fn to_float() -> AttributeProto {
    integer("to", DataType::Float as i64)
}

fn of<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

fn floats<'a>(node: &'a NodeProto, name: &str) -> &'a [f32] {
    of(node, name).map_or(&[], |a| &a.floats)
}

/// Those values, or where there are none others.
fn or<'a>(values: &'a [f32], usual: &'a [f32]) -> &'a [f32] {
    if values.is_empty() { usual } else { values }
}

fn text(node: &NodeProto, name: &str) -> String {
    of(node, name).map(|a| String::from_utf8_lossy(&a.s).into_owned()).unwrap_or_default()
}
