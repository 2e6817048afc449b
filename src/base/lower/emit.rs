//! Writing the nodes and the numbers that a rewritten node becomes.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::super::integers::float_tensor;
use super::super::narrow::integer;
use super::Lowering;

/// An attribute of whole numbers.
pub(super) fn integers(name: &str, values: &[i64]) -> AttributeProto {
    let r#type = AttributeType::Ints as i32;
    AttributeProto { name: name.into(), r#type, ints: values.to_vec(), ..AttributeProto::default() }
}

/// An attribute of a number.
pub(super) fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
}

/// Opset from which on axes are an input.
const AXES_AS_INPUT: i64 = 13;

impl Lowering<'_> {
    /// `x` with axes of length 1 at these places.
    pub(super) fn unsqueeze(&mut self, x: &str, axes: &[i64]) -> String {
        if self.opset < AXES_AS_INPUT {
            return self.emit_with("Unsqueeze", &[x], vec![integers("axes", axes)]);
        }
        let axes = self.integers(axes);
        self.emit("Unsqueeze", &[x, &axes])
    }

    /// The sums of `x` along an axis, which goes.
    pub(super) fn sums(&mut self, x: &str, axis: i64) -> String {
        let gone = integer("keepdims", 0);
        if self.opset < AXES_AS_INPUT {
            return self.emit_with("ReduceSum", &[x], vec![integers("axes", &[axis]), gone]);
        }
        let axis = self.integers(&[axis]);
        self.emit_with("ReduceSum", &[x, &axis], vec![gone])
    }

    pub(super) fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("{}.lowered.{}", self.at, self.serial)
    }

    pub(super) fn push(
        &mut self,
        name: String,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        let input = inputs.iter().map(|s| s.to_string()).collect();
        let (op_type, output) = (op.to_string(), vec![output.to_string()]);
        self.nodes.push(NodeProto { name, op_type, input, output, attribute, ..NodeProto::default() });
    }

    pub(super) fn emit_to(&mut self, op: &str, inputs: &[&str], output: &str) {
        let name = self.fresh();
        self.push(name, op, inputs, output, vec![]);
    }

    pub(super) fn emit(&mut self, op: &str, inputs: &[&str]) -> String {
        let output = self.fresh();
        self.push(output.clone(), op, inputs, &output, vec![]);
        output
    }

    /// The node that does the work: it keeps the name of the one that is rewritten.
    pub(super) fn emit_main(&mut self, op: &str, inputs: &[String], attributes: &[AttributeProto]) -> String {
        let (name, output) = (self.at.clone(), self.fresh());
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.push(name, op, &inputs, &output, attributes.to_vec());
        output
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Option<()> {
        self.emit_to("Identity", &[from], to);
        Some(())
    }

    pub(super) fn as_float(&mut self, x: &str) -> String {
        let output = self.fresh();
        self.push(output.clone(), "Cast", &[x], &output, vec![integer("to", DataType::Float as i64)]);
        output
    }

    pub(super) fn floats(&mut self, values: &[f32], dims: &[i64]) -> String {
        let name = self.fresh();
        self.initializers.push(float_tensor(name.clone(), values, dims));
        name
    }

    /// A list of one whole number.
    pub(super) fn integer(&mut self, value: i64) -> String {
        self.integers(&[value])
    }

    pub(super) fn emit_with(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        self.push(output.clone(), op, inputs, &output, attributes);
        output
    }

    /// A list of whole numbers.
    pub(super) fn integers(&mut self, values: &[i64]) -> String {
        let name = self.fresh();
        self.initializers.push(TensorProto {
            name: name.clone(),
            dims: vec![values.len() as i64],
            data_type: DataType::Int64 as i32,
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        name
    }

    /// The columns from `start` on, to before `end`, along the last axis.
    pub(super) fn columns(&mut self, x: &str, start: i64, end: i64) -> String {
        let (start, end, axis) = (self.integers(&[start]), self.integers(&[end]), self.integers(&[-1]));
        self.emit("Slice", &[x, &start, &end, &axis])
    }

    /// The columns of three widths, one after the other.
    pub(super) fn split(&mut self, x: &str, widths: &[i64; 3]) -> [String; 3] {
        let ends = [widths[0], widths[0] + widths[1], widths.iter().sum()];
        let starts = [0, ends[0], ends[1]];
        std::array::from_fn(|part| self.columns(x, starts[part], ends[part]))
    }

    pub(super) fn rank(&self, name: &str) -> Option<usize> {
        self.constants.get(name).map(|t| t.dims.len())
    }
}
