//! Linear quantisation in a graph: the operators that quantise and dequantise, and those that calculate on quantised
//! tensors, which become the operators on what those stand for.

use tract_onnx::pb::{AttributeProto, NodeProto};

use super::super::integers::range;
use super::super::narrow::integer;
use super::{Given, Lowering, int, int_or};

/// Whether `node` has one scale for each channel or tensor.
pub(super) fn without_blocks(node: &NodeProto) -> bool {
    int(node, "block_size") == 0
}

/// Whether the channels of `node` are where those of a float operator are.
pub(super) fn channels_first(node: &NodeProto) -> bool {
    int(node, "channels_last") == 0
}

/// The operator that `QLinear…` calculates.
fn float_op<'a>(given: &Given<'a>) -> Option<&'a str> {
    given.node.op_type.strip_prefix("QLinear")
}

/// What the operand at `slot` stands for; its scale and its zero point come behind it.
fn operand(to: &mut Lowering, given: &Given, slot: usize, axis: i64) -> Option<String> {
    to.dequantise(given.input(slot)?, given.input(slot + 1)?, given.input(slot + 2), axis)
}

/// `QuantizeLinear`
pub(super) fn quantise(to: &mut Lowering, given: &Given) -> Option<()> {
    let (x, axis) = (given.input(0)?, int_or(given.node, "axis", 1));
    let mut q = to.quant(given.input(1)?, given.input(2), axis, to.rank(x))?;
    if let (None, Ok(kind @ 1..)) = (given.input(2), i32::try_from(int(given.node, "output_dtype"))) {
        q.range = range(kind)?;
    }
    to.quantise(x, &q, given.output()?)
}

/// `DequantizeLinear`
pub(super) fn dequantise(to: &mut Lowering, given: &Given) -> Option<()> {
    to.dequantise_to(given.node, given.input(0)?, given.input(1)?, given.input(2), given.output()?)
}

/// `DynamicQuantizeLinear`
pub(super) fn quantise_dynamically(to: &mut Lowering, given: &Given) -> Option<()> {
    to.dynamic_quantise(given.input(0)?, &given.node.output)
}

pub(super) fn conv(to: &mut Lowering, given: &Given) -> Option<()> {
    let x = operand(to, given, 0, 1)?;
    let mut operands = vec![x, operand(to, given, 3, 0)?];
    if let Some(b) = given.input(8) {
        operands.push(to.bias(b, given.input(1)?, given.input(4)?)?);
    }
    let y = to.emit_main("Conv", &operands, &given.node.attribute);
    to.quantise_by(&y, given.input(6)?, given.input(7), given.output()?)
}

/// `QLinearMatMul`, `QLinearAdd`, `QLinearMul`
pub(super) fn binary(to: &mut Lowering, given: &Given) -> Option<()> {
    let operands = [operand(to, given, 0, 1)?, operand(to, given, 3, 1)?];
    let y = to.emit_main(float_op(given)?, &operands, &[]);
    to.quantise_by(&y, given.input(6)?, given.input(7), given.output()?)
}

pub(super) fn gemm(to: &mut Lowering, given: &Given) -> Option<()> {
    let a = operand(to, given, 0, 1)?;
    let mut operands = vec![a, operand(to, given, 3, i64::from(int(given.node, "transB") == 0))?];
    if let Some(c) = given.input(6) {
        operands.push(to.bias(c, given.input(1)?, given.input(4)?)?);
    }
    let y = to.emit_main("Gemm", &operands, &given.node.attribute);
    match given.input(7) {
        Some(scale) => to.quantise_by(&y, scale, given.input(8), given.output()?),
        None => to.rename(&y, given.output()?),
    }
}

/// Pools and activations.
pub(super) fn unary(to: &mut Lowering, given: &Given) -> Option<()> {
    let x = operand(to, given, 0, 1)?;
    let attributes = given.node.attribute.iter();
    let known: Vec<AttributeProto> = attributes.filter(|a| a.name != "channels_last").cloned().collect();
    let y = to.emit_main(float_op(given)?, &[x], &known);
    to.quantise_by(&y, given.input(3)?, given.input(4), given.output()?)
}

pub(super) fn concat(to: &mut Lowering, given: &Given) -> Option<()> {
    let slots = (2..given.node.input.len()).step_by(3);
    let parts: Vec<String> = slots.map(|slot| operand(to, given, slot, 1)).collect::<Option<_>>()?;
    let y = to.emit_main("Concat", &parts, &given.node.attribute);
    to.quantise_by(&y, given.input(0)?, given.input(1), given.output()?)
}

/// Before opset 13 an axis stood for all that follow it, too.
pub(super) fn softmax(to: &mut Lowering, given: &Given) -> Option<()> {
    let (of, last) = (int_or(given.node, "opset", to.opset), -1);
    let axis = int_or(given.node, "axis", if of < 13 { 1 } else { last });
    if axis != last && (of < 13) != (to.opset < 13) {
        return None;
    }
    let x = operand(to, given, 0, 1)?;
    let y = to.emit_main("Softmax", &[x], &[integer("axis", axis)]);
    to.quantise_by(&y, given.input(3)?, given.input(4), given.output()?)
}
