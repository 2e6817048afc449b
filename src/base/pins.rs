//! Sizes and values that a graph leaves open, made part of it.

use std::collections::HashSet;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

use super::branches::reads;
use super::reload::{open_name, shape_mut};
use super::standard::prune;
use crate::error::{Error, Result, names};

/// What to pin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pins {
    /// Sizes of open dimensions, by the name that the model gives them.
    pub dims: Vec<(String, usize)>,
    /// Inputs that become constants of one value throughout.
    pub inputs: Vec<(String, f64)>,
    /// The only output that is kept, with what leads to it.
    pub output: Option<String>,
}

impl Pins {
    /// As the command line takes them, each after a space.
    pub(crate) fn options(&self) -> String {
        let dims = self.dims.iter().map(|(name, n)| format!(" --dim {name}={n}"));
        dims.chain(self.inputs.iter().map(|(name, v)| format!(" --input {name}={v}"))).collect()
    }
}

/// Makes the pinned sizes and values part of `graph`.
///
/// # Errors
/// `Usage` when it has no such dimension, input or output.
pub(crate) fn apply(graph: &mut GraphProto, pins: &Pins) -> Result<()> {
    pins.dims.iter().try_for_each(|(name, size)| dimension(graph, name, *size))?;
    pins.inputs.iter().try_for_each(|(name, value)| input(graph, name, *value))?;
    pins.output.iter().try_for_each(|name| keep_output(graph, name))
}

/// Drops all outputs but one, and every node, input and stored tensor that does not lead to it.
fn keep_output(graph: &mut GraphProto, name: &str) -> Result<()> {
    if !graph.output.iter().any(|o| o.name == name) {
        let there: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
        return Err(no_such("output", name, &there));
    }
    graph.output.retain(|o| o.name == name);
    prune(graph);
    let read: HashSet<String> = graph.node.iter().flat_map(reads).collect();
    graph.input.retain(|i| read.contains(&i.name) || i.name == name);
    graph.value_info.clear();
    if graph.input.iter().all(|i| graph.initializer.iter().any(|t| t.name == i.name)) {
        return Err(Error::usage(format!("the output {name:?} depends on no input")).hint("keep another one"));
    }
    Ok(())
}

fn dims_of(input: &mut ValueInfoProto) -> &mut [Dimension] {
    shape_mut(input).map_or(&mut [], |s| &mut s.dim)
}

/// Gives the dimension of that [`open_name`] its size wherever an input has it.
fn dimension(graph: &mut GraphProto, name: &str, size: usize) -> Result<()> {
    let value = i64::try_from(size).map_err(|e| Error::usage(format!("{name:?} of size {size}")).because(e))?;
    let (mut open, mut found) = (vec![], false);
    for input in &mut graph.input {
        let of = input.name.clone();
        let dims = dims_of(input);
        for axis in 0..dims.len() {
            let Some(called) = open_name(&of, dims, axis) else { continue };
            if called == name || (axis == 0 && name == format!("{of}.0")) {
                dims[axis].value = Some(Value::DimValue(value));
                found = true;
            } else if !open.contains(&called) {
                open.push(called);
            }
        }
    }
    if found { Ok(()) } else { Err(no_such("open dimension", name, &open)) }
}

fn no_such(what: &str, name: &str, there: &[String]) -> Error {
    let hint = match there {
        [] => "there is none".to_string(),
        known => {
            let all = format!("there are: {}", known.join(", "));
            names::or_meant(all, name, known.iter().map(String::as_str))
        }
    };
    Error::usage(format!("the model has no {what} {name:?}")).hint(hint)
}

/// Makes the input `name` a constant.
fn input(graph: &mut GraphProto, name: &str, value: f64) -> Result<()> {
    let stored = |i: &ValueInfoProto| graph.initializer.iter().any(|t| t.name == i.name);
    let there: Vec<String> = graph.input.iter().filter(|i| !stored(i)).map(|i| i.name.clone()).collect();
    let Some(at) = graph.input.iter().position(|i| i.name == name && there.contains(&i.name)) else {
        return Err(no_such("input", name, &there));
    };
    if there.len() == 1 {
        return Err(Error::usage(format!("{name:?} is the model's only input")).hint("leave one to be fed"));
    }
    let mut pinned = graph.input.remove(at);
    let kind = match pinned.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => t.elem_type,
        _ => DataType::Undefined as i32,
    };
    let one = scalar(kind, value).map_err(|e| e.at(format!("the input {name:?}")))?;
    let mut parts = vec![];
    for (axis, dim) in dims_of(&mut pinned).iter().enumerate() {
        parts.push(match &dim.value {
            Some(Value::DimValue(n)) if *n > 0 => Part::Fixed(*n),
            Some(Value::DimParam(param)) => like(graph, |d| d.value == Some(Value::DimParam(param.clone())), axis)?,
            // Not even a name: the batch is meant.
            _ => like(graph, |_| true, 0)?,
        });
    }
    let nodes = constant(graph, name, one, &parts);
    graph.node.splice(0..0, nodes);
    Ok(())
}

/// Where a size of a pinned input comes from.
enum Part {
    Fixed(i64),
    /// This axis of another input.
    Of(String, i64),
}

fn like(graph: &mut GraphProto, same: impl Fn(&Dimension) -> bool, axis: usize) -> Result<Part> {
    let stored: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    for other in graph.input.iter_mut().filter(|i| !stored.contains(&i.name)) {
        let name = other.name.clone();
        if let Some(at) = dims_of(other).iter().position(&same) {
            return Ok(Part::Of(name, at as i64));
        }
    }
    Err(Error::usage(format!("its axis {axis} is open, and no other input has that dimension"))
        .hint("give that dimension a size first, by its name"))
}

fn node(op: &str, name: String, inputs: &[String], attribute: Vec<AttributeProto>) -> NodeProto {
    let (op_type, output) = (op.to_string(), vec![name.clone()]);
    NodeProto {
        name: format!("{name}/pinned"),
        op_type,
        input: inputs.to_vec(),
        output,
        attribute,
        ..Default::default()
    }
}

/// The nodes that make a constant called `name`.
fn constant(graph: &mut GraphProto, name: &str, one: TensorProto, parts: &[Part]) -> Vec<NodeProto> {
    let whole = |dims: Vec<i64>, data: Vec<i64>, name: String| TensorProto {
        name,
        dims,
        data_type: DataType::Int64 as i32,
        int64_data: data,
        ..Default::default()
    };
    let with = |t: TensorProto| AttributeProto {
        name: "value".into(),
        r#type: AttributeType::Tensor as i32,
        t: Some(t),
        ..Default::default()
    };
    if parts.is_empty() {
        return vec![node("Constant", name.into(), &[], vec![with(TensorProto { dims: vec![], ..one })])];
    }
    let (mut nodes, mut sizes) = (vec![], vec![]);
    for (axis, part) in parts.iter().enumerate() {
        let size = format!("{name}/size{axis}");
        match part {
            Part::Fixed(n) => graph.initializer.push(whole(vec![1], vec![*n], size.clone())),
            Part::Of(other, at) => {
                let (shape, index) = (format!("{size}/shape"), format!("{size}/axis"));
                graph.initializer.push(whole(vec![1], vec![*at], index.clone()));
                nodes.push(node("Shape", shape.clone(), std::slice::from_ref(other), vec![]));
                nodes.push(node("Gather", size.clone(), &[shape, index], vec![]));
            }
        }
        sizes.push(size);
    }
    let (all, axis) = (format!("{name}/sizes"), AttributeType::Int as i32);
    let axis = AttributeProto { name: "axis".into(), r#type: axis, i: 0, ..Default::default() };
    nodes.push(node("Concat", all.clone(), &sizes, vec![axis]));
    nodes.push(node("ConstantOfShape", name.into(), &[all], vec![with(one)]));
    nodes
}

/// One number of an element type, as a tensor of one element.
fn scalar(kind: i32, value: f64) -> Result<TensorProto> {
    if !(value as f32).is_finite() {
        return Err(Error::usage(format!("{value} is no number that a model reads")));
    }
    let whole = || match value.fract() == 0.0 && value.abs() < 2f64.powi(53) {
        true => Ok(value as i64),
        false => Err(Error::usage(format!("{value} is no whole number, which this input takes"))),
    };
    let raw_data = match DataType::try_from(kind) {
        Ok(DataType::Float) => (value as f32).to_le_bytes().to_vec(),
        Ok(DataType::Double) => value.to_le_bytes().to_vec(),
        Ok(DataType::Float16) => half::f16::from_f64(value).to_le_bytes().to_vec(),
        Ok(DataType::Int64) => whole()?.to_le_bytes().to_vec(),
        Ok(DataType::Int32) => i32::try_from(whole()?)
            .map_err(|e| Error::usage(format!("{value} does not fit this input")).because(e))?
            .to_le_bytes()
            .to_vec(),
        Ok(DataType::Bool) => vec![u8::from(value != 0.0)],
        _ => return Err(Error::unsupported("a type that no constant is made of").hint("export the model without it")),
    };
    Ok(TensorProto { dims: vec![1], data_type: kind, raw_data, ..Default::default() })
}
