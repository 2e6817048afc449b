//! Products with weights of few bits in blocks, as ONNX Runtime writes them (`MatMulNBits`): `x·Wᵀ + b`, where a row of `W` is blocks of
//! whole numbers, each block with its scale and its zero point. The weight stays as narrow as it is stored.

use tract_core::internal::*;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::InferenceOp;

use super::super::integers::{UINT4, dequantised, float_tensor, numbers};
use super::super::narrow::quantised_weight;
use super::{Lowering, int, int_or};

/// The operator.
pub(in super::super) const BLOCKS: &str = "MatMulNBits";

/// Why a node of it is not read; none if that does not show in its form.
pub(in super::super) fn refusal(node: &NodeProto) -> Option<String> {
    let bits = int_or(node, "bits", 4);
    if bits != 4 && bits != 8 {
        return Some(format!("a {BLOCKS} of {bits} bits; those of 4 and 8 are read"));
    }
    let ordered = node.input.get(4).is_some_and(|name| !name.is_empty());
    ordered.then(|| format!("a {BLOCKS} with a g_idx, an order of its own for the rows of its weight"))
}

/// The reader of what is left of it: the runtime's own makes weights that nothing else can read.
pub(in super::super) fn load(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let why = "its weight, scales and zero points are not stored tensors of the sizes that it states";
    bail!("{}", refusal(node).unwrap_or_else(|| format!("a {BLOCKS}: {why}")))
}

/// The bytes of a stored tensor of bytes.
fn bytes(t: &TensorProto) -> Option<Vec<u8>> {
    let all =
        || if t.raw_data.is_empty() { t.int32_data.iter().map(|v| *v as u8).collect() } else { t.raw_data.clone() };
    (t.data_type == DataType::Uint8 as i32).then(all)
}

/// Of every `row` bytes the first `count` numbers of `bits`, those of a byte from the low bits on.
fn first_of_rows(bytes: &[u8], row: usize, count: usize, bits: i64) -> Vec<u8> {
    let numbers = |row: &[u8]| -> Vec<u8> {
        if bits == 8 { row.to_vec() } else { row.iter().flat_map(|b| [b & 15, b >> 4]).collect() }
    };
    bytes.chunks(row).flat_map(|row| numbers(row).into_iter().take(count)).collect()
}

impl Lowering<'_> {
    pub(super) fn blocks(&mut self, node: &NodeProto) -> Option<()> {
        let input = |i: usize| node.input.get(i).map(String::as_str).filter(|n| !n.is_empty());
        let size = |name: &str| usize::try_from(int(node, name)).ok().filter(|n| *n > 0);
        if refusal(node).is_some() || int(node, "weight_prepacked") != 0 {
            return None;
        }
        let (bits, k, n, block) = (int_or(node, "bits", 4), size("K")?, size("N")?, size("block_size")?);
        let (blocks, each) = (k.div_ceil(block), if bits == 4 { 2 } else { 1 });
        let row = blocks.checked_mul(block).filter(|_| block % each == 0)? / each;
        let stored = bytes(self.constants.get(input(1)?)?)?;
        let scales = numbers(self.constants.get(input(2)?)?)?;
        if row.checked_mul(n)? != stored.len() || blocks.checked_mul(n)? != scales.len() {
            return None;
        }
        let zeros: Vec<f32> = match input(3) {
            None => vec![if bits == 4 { 8.0 } else { 128.0 }; scales.len()],
            Some(name) => {
                let zeros = self.constants.get(name)?;
                match bytes(zeros) {
                    Some(packed) => {
                        let row = blocks.div_ceil(each);
                        let whole = row.checked_mul(n)? == packed.len();
                        whole.then(|| first_of_rows(&packed, row, blocks, bits).into_iter().map(f32::from).collect())?
                    }
                    None => numbers(zeros)?,
                }
            }
        };
        if zeros.len() != scales.len() {
            return None;
        }
        // What fills the last block up is no part of the weight.
        let raw_data = match (k == blocks * block, bits) {
            (true, _) => stored,
            (false, 8) => first_of_rows(&stored, row, k, bits),
            (false, _) => {
                let all = first_of_rows(&stored, row, k, bits);
                all.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4).collect()
            }
        };
        let dims = vec![i64::try_from(n).ok()?, i64::try_from(k).ok()?];
        let data_type = if bits == 4 { UINT4 } else { DataType::Uint8 as i32 };
        let weight = TensorProto { dims: dims.clone(), data_type, raw_data, ..TensorProto::default() };
        let by_block = [n as i64, blocks as i64];
        let [scale, zero] = [&scales, &zeros].map(|values| float_tensor(String::new(), values, &by_block));
        let block = i64::try_from(block).ok()?;
        let name = self.fresh();
        let name = match quantised_weight(&name, &weight, &scale, Some(&zero), 1, block) {
            Some(narrow) => {
                self.nodes.push(narrow);
                name
            }
            None => self.floats(&dequantised(&weight, &scale, Some(&zero), 1, block)?, &dims),
        };
        let equation = AttributeProto {
            name: "equation".into(),
            r#type: AttributeType::String as i32,
            s: b"...k,nk->...n".to_vec(),
            ..AttributeProto::default()
        };
        let (x, output) = (input(0)?, node.output.first()?);
        let y = self.emit_main("Einsum", &[x.to_string(), name], &[equation]);
        match input(5) {
            Some(bias) => {
                self.emit_to("Add", &[&y, bias], output);
                Some(())
            }
            None => self.rename(&y, output),
        }
    }
}
