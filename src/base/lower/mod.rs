//! Rewrites of the ONNX graph before the runtime reads it: operators that it has in no form which a gradient passes, or gets
//! wrong, become others of the same values.
//!
//! A quantised model becomes a graph of floats. A quantised tensor is kept as floats that hold whole numbers,
//! `q = round(x/s) + z` within its range, and `(q - z)·s` is what it stands for. The rounding passes the gradient straight through, the
//! clip cuts it off outside the range. Weights are dequantised, so that a low-rank product fits beside them. What cannot be
//! rewritten stays as it is, and the runtime has the last word.

mod backwards;
mod blocks;
mod quantisation;
mod ranges;
mod recurrent;

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::branches::reads;
use super::integers::{float_tensor, range};
use super::narrow::integer;
use super::onnx::node_name;
pub(super) use blocks::{BLOCKS, load as load_blocks, refusal as blocks_refusal};

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

/// Operators that are rewritten and that the runtime itself does not have.
pub(super) fn knows(op: &str) -> bool {
    const OPERATORS: &[&str] = &[
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "QLinearMul",
        "QGemm",
        "QLinearGlobalAveragePool",
        "QLinearAveragePool",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearConcat",
        "QLinearSoftmax",
        recurrent::DYNAMIC_LSTM,
    ];
    OPERATORS.contains(&op)
}

/// Rewrites what there is to rewrite in `graph`, which is of `opset`.
pub(super) fn lower(graph: &mut GraphProto, opset: i64) {
    let needs =
        |n: &NodeProto| n.op_type.contains("uantize") || n.op_type.starts_with('Q') || n.op_type.ends_with("Integer");
    if !graph
        .node
        .iter()
        .any(|n| needs(n) || ["Celu", "Range", "TopK", BLOCKS].contains(&n.op_type.as_str()) || backwards::is(n))
    {
        return;
    }
    let old = std::mem::take(&mut graph.node);
    let mut constants: Constants = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    for node in old.iter().filter(|n| n.op_type == "Constant") {
        let value = node.attribute.iter().find(|a| a.name == "value").and_then(|a| a.t.as_ref());
        if let (Some(t), Some(name)) = (value, node.output.first()) {
            constants.insert(name, t);
        }
    }
    let dynamic = dynamic_products(&old, &constants);
    let mut to = Lowering {
        constants,
        opset,
        nodes: vec![],
        initializers: vec![],
        serial: 0,
        at: String::new(),
        quantised: HashMap::new(),
        dynamic: HashMap::new(),
        rounded: HashMap::new(),
    };
    for (position, node) in old.iter().enumerate() {
        to.at = node_name(position, node);
        if dynamic.absorbed.contains(&position) {
            continue;
        }
        let mark = (to.nodes.len(), to.initializers.len());
        if to.rewrite(node, dynamic.products.get(&position)).is_none() {
            to.nodes.truncate(mark.0);
            to.quantised.retain(|_, q| q.at < mark.0);
            to.rounded.retain(|_, (_, at)| *at < mark.0);
            to.initializers.truncate(mark.1);
            to.nodes.push(node.clone());
        }
    }
    let Lowering { nodes, initializers, .. } = to;
    // What was dequantised goes: it would be kept twice, and the runtime does not read four-bit integers.
    let mut wanted: HashSet<String> = nodes.iter().flat_map(reads).collect();
    wanted.extend(graph.input.iter().chain(&graph.output).map(|v| v.name.clone()));
    graph.initializer.retain(|t| wanted.contains(&t.name));
    graph.initializer.extend(initializers);
    graph.node = nodes;
}

type Constants<'a> = HashMap<&'a str, &'a TensorProto>;

/// An integer product whose operand was quantised on the fly, with the scaling of its result that follows.
struct DynamicProduct {
    /// Scale and zero point of the first operand, scale of the second.
    a: (String, String),
    b_scale: String,
    /// Name of the scaled result.
    result: String,
}

#[derive(Default)]
struct Dynamic {
    products: HashMap<usize, DynamicProduct>,
    /// The nodes that convert and scale a product, which goes straight to floats.
    absorbed: HashSet<usize>,
}

/// Finds `Mul(Cast(MatMulInteger(a, b)), a_scale·b_scale)`, with `a` from a `DynamicQuantizeLinear` and `b_scale` a constant.
fn dynamic_products(nodes: &[NodeProto], constants: &Constants) -> Dynamic {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (position, node) in nodes.iter().enumerate() {
        node.input.iter().for_each(|i| readers.entry(i).or_default().push(position));
        writers.extend(node.output.iter().map(|o| (o.as_str(), position)));
    }
    let only_reader = |name: &str, op: &str| match readers.get(name).map(Vec::as_slice) {
        Some(&[position]) if nodes[position].op_type == op => Some(position),
        _ => None,
    };
    let mut found = Dynamic::default();
    for (position, node) in nodes.iter().enumerate() {
        let product = || {
            let quantised = nodes.get(*writers.get(node.input.first()?.as_str())?)?;
            let [_, scale, zero] = &quantised.output[..] else { return None };
            if quantised.op_type != "DynamicQuantizeLinear" || node.input.get(2) != Some(zero) {
                return None;
            }
            let cast = only_reader(node.output.first()?, "Cast")?;
            let mul = only_reader(nodes[cast].output.first()?, "Mul")?;
            let factor = nodes[mul].input.iter().find(|i| **i != nodes[cast].output[0])?;
            let scales = nodes.get(*writers.get(factor.as_str())?).filter(|n| n.op_type == "Mul")?;
            let b_scale = scales.input.iter().find(|i| *i != scale && scales.input.contains(scale))?;
            constants.contains_key(b_scale.as_str()).then(|| {
                let result = nodes[mul].output.first().cloned().unwrap_or_default();
                let a = (scale.clone(), zero.clone());
                ((cast, mul), DynamicProduct { a, b_scale: b_scale.clone(), result })
            })
        };
        if node.op_type.ends_with("Integer")
            && let Some(((cast, mul), product)) = product()
        {
            found.absorbed.extend([cast, mul]);
            found.products.insert(position, product);
        }
    }
    found
}

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

impl Lowering<'_> {
    /// Writes what `node` becomes; none if it stays.
    fn rewrite(&mut self, node: &NodeProto, dynamic: Option<&DynamicProduct>) -> Option<()> {
        let input = |i: usize| node.input.get(i).map(String::as_str).filter(|n| !n.is_empty());
        let output = node.output.first()?.as_str();
        match node.op_type.as_str() {
            "QuantizeLinear" if int(node, "block_size") == 0 => {
                let mut q = self.quant(input(1)?, input(2), int_or(node, "axis", 1), self.rank(input(0)?))?;
                if let (None, Ok(kind @ 1..)) = (input(2), i32::try_from(int(node, "output_dtype"))) {
                    q.range = range(kind)?;
                }
                self.quantise(input(0)?, &q, output)
            }
            "DequantizeLinear" => self.dequantise_to(node, input(0)?, input(1)?, input(2), output),
            "DynamicQuantizeLinear" => self.dynamic_quantise(input(0)?, &node.output),
            "QLinearConv" => {
                let x = self.dequantise(input(0)?, input(1)?, input(2), 1)?;
                let w = self.dequantise(input(3)?, input(4)?, input(5), 0)?;
                let mut operands = vec![x, w];
                if let Some(b) = input(8) {
                    operands.push(self.bias(b, input(1)?, input(4)?)?);
                }
                let y = self.emit_main("Conv", &operands, &node.attribute);
                self.quantise_by(&y, input(6)?, input(7), output)
            }
            "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => {
                let a = self.dequantise(input(0)?, input(1)?, input(2), 1)?;
                let b = self.dequantise(input(3)?, input(4)?, input(5), 1)?;
                let y = self.emit_main(node.op_type.strip_prefix("QLinear")?, &[a, b], &[]);
                self.quantise_by(&y, input(6)?, input(7), output)
            }
            "QGemm" => {
                let a = self.dequantise(input(0)?, input(1)?, input(2), 1)?;
                let b = self.dequantise(input(3)?, input(4)?, input(5), i64::from(int(node, "transB") == 0))?;
                let mut operands = vec![a, b];
                if let Some(c) = input(6) {
                    operands.push(self.bias(c, input(1)?, input(4)?)?);
                }
                let y = self.emit_main("Gemm", &operands, &node.attribute);
                match input(7) {
                    Some(scale) => self.quantise_by(&y, scale, input(8), output),
                    None => self.rename(&y, output),
                }
            }
            "QLinearGlobalAveragePool" | "QLinearAveragePool" | "QLinearSigmoid" | "QLinearLeakyRelu"
                if int(node, "channels_last") == 0 =>
            {
                let x = self.dequantise(input(0)?, input(1)?, input(2), 1)?;
                let known: Vec<AttributeProto> =
                    node.attribute.iter().filter(|a| a.name != "channels_last").cloned().collect();
                let y = self.emit_main(node.op_type.strip_prefix("QLinear")?, &[x], &known);
                self.quantise_by(&y, input(3)?, input(4), output)
            }
            "QLinearConcat" => {
                let mut parts = vec![];
                for i in (2..node.input.len()).step_by(3) {
                    parts.push(self.dequantise(input(i)?, input(i + 1)?, input(i + 2), 1)?);
                }
                let y = self.emit_main("Concat", &parts, &node.attribute);
                self.quantise_by(&y, input(0)?, input(1), output)
            }
            "QLinearSoftmax" => {
                // Before opset 13 an axis stood for all that follow it, too.
                let (of, last) = (int_or(node, "opset", self.opset), -1);
                let axis = int_or(node, "axis", if of < 13 { 1 } else { last });
                if axis != last && (of < 13) != (self.opset < 13) {
                    return None;
                }
                let x = self.dequantise(input(0)?, input(1)?, input(2), 1)?;
                let y = self.emit_main("Softmax", &[x], &[integer("axis", axis)]);
                self.quantise_by(&y, input(3)?, input(4), output)
            }
            BLOCKS => self.blocks(node),
            // Before opset 10 the count is an attribute.
            "TopK" => {
                let k = node.attribute.iter().find(|a| a.name == "k")?.i;
                let count = self.integer(k);
                let mut counted = node.clone();
                counted.attribute.retain(|a| a.name != "k");
                counted.input = vec![input(0)?.to_string(), count];
                counted.name.clone_from(&self.at);
                self.nodes.push(counted);
                Some(())
            }
            "Range" => self.stored_range([input(0)?, input(1)?, input(2)?], output),
            recurrent::DYNAMIC_LSTM => self.dynamic_lstm(node),
            "MatMulInteger" | "ConvInteger" => {
                let op = node.op_type.strip_suffix("Integer")?;
                let axis = if op == "Conv" { 0 } else { -1 };
                let (a, b, result) = match dynamic {
                    Some(d) => {
                        let b = self.dequantise(input(1)?, &d.b_scale, input(3), axis)?;
                        (self.dequantise(input(0)?, &d.a.0, Some(&d.a.1), 1)?, b, d.result.as_str())
                    }
                    None => {
                        let one = self.floats(&[1.0], &[]);
                        (
                            self.dequantise(input(0)?, &one, input(2), 1)?,
                            self.dequantise(input(1)?, &one, input(3), axis)?,
                            output,
                        )
                    }
                };
                let y = self.emit_main(op, &[a, b], &node.attribute);
                self.rename(&y, result)
            }
            _ if backwards::is(node) => self.backwards(node),
            // The runtime leaves out the factor of max(0, x) + min(0, α·(exp(x/α) - 1)).
            "Celu" => {
                let alpha = node.attribute.iter().find(|a| a.name == "alpha").map_or(1.0, |a| a.f);
                let alpha = self.floats(&[alpha], &[]);
                let scaled = self.emit("Div", &[input(0)?, &alpha]);
                let y = self.emit("Elu", &[&scaled]);
                self.emit_to("Mul", &[&y, &alpha], output);
                Some(())
            }
            _ => None,
        }
    }

    fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("{}.lowered.{}", self.at, self.serial)
    }

    fn push(&mut self, name: String, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        let input = inputs.iter().map(|s| s.to_string()).collect();
        let (op_type, output) = (op.to_string(), vec![output.to_string()]);
        self.nodes.push(NodeProto { name, op_type, input, output, attribute, ..NodeProto::default() });
    }

    fn emit_to(&mut self, op: &str, inputs: &[&str], output: &str) {
        let name = self.fresh();
        self.push(name, op, inputs, output, vec![]);
    }

    fn emit(&mut self, op: &str, inputs: &[&str]) -> String {
        let output = self.fresh();
        self.push(output.clone(), op, inputs, &output, vec![]);
        output
    }

    /// The node that does the work: it keeps the name of the one that is rewritten.
    fn emit_main(&mut self, op: &str, inputs: &[String], attributes: &[AttributeProto]) -> String {
        let (name, output) = (self.at.clone(), self.fresh());
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.push(name, op, &inputs, &output, attributes.to_vec());
        output
    }

    fn rename(&mut self, from: &str, to: &str) -> Option<()> {
        self.emit_to("Identity", &[from], to);
        Some(())
    }

    fn as_float(&mut self, x: &str) -> String {
        let output = self.fresh();
        self.push(output.clone(), "Cast", &[x], &output, vec![integer("to", DataType::Float as i64)]);
        output
    }

    fn floats(&mut self, values: &[f32], dims: &[i64]) -> String {
        let name = self.fresh();
        self.initializers.push(float_tensor(name.clone(), values, dims));
        name
    }

    /// A list of one whole number.
    fn integer(&mut self, value: i64) -> String {
        let name = self.fresh();
        self.initializers.push(TensorProto {
            name: name.clone(),
            dims: vec![1],
            data_type: DataType::Int64 as i32,
            int64_data: vec![value],
            ..TensorProto::default()
        });
        name
    }

    fn rank(&self, name: &str) -> Option<usize> {
        self.constants.get(name).map(|t| t.dims.len())
    }
}

fn int_or(node: &NodeProto, name: &str, default: i64) -> i64 {
    node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.i)
}

fn int(node: &NodeProto, name: &str) -> i64 {
    int_or(node, name, 0)
}
