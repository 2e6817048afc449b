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
use super::super::stored;
use super::unread::{Unread, later};
use super::{Given, Lowering, int, int_or};

/// The operator.
pub(in super::super) const BLOCKS: &str = "MatMulNBits";

const ATTRIBUTES: &[&str] = &["K", "N", "accuracy_level", "bits", "block_size", "weight_prepacked"];
const USUAL: &str = "quantise the original with ONNX Runtime's MatMulNBitsQuantizer to blocks of 4 or 8 bits, in their \
                     usual order (without GPTQ's act-order)";
const NOT_STORED: &str = "its weight, scales and zero points are not stored tensors of the sizes that it states";

/// What of a node is not read; none if that does not show in its form.
pub(super) fn unread(node: &NodeProto) -> Option<Unread> {
    let bits = int_or(node, "bits", 4);
    if bits != 4 && bits != 8 {
        return Some((format!("a {BLOCKS} of {bits} bits; those of 4 and 8 are read"), USUAL));
    }
    let ordered = node.input.get(4).is_some_and(|name| !name.is_empty());
    let named = [
        (ordered, Some("a g_idx, an order of its own for the rows of its weight".to_string())),
        (
            int(node, "weight_prepacked") != 0,
            Some("a weight laid out for one processor (weight_prepacked)".to_string()),
        ),
        (true, later(node, ATTRIBUTES, 6)),
    ];
    let what = named.into_iter().filter(|(found, _)| *found).find_map(|(_, what)| what)?;
    Some((format!("a {BLOCKS} with {what}"), USUAL))
}

/// The reader of those within the graphs of other nodes: the runtime's own makes weights that nothing else can read.
pub(in super::super) fn load(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    bail!("{}", unread(node).map_or_else(|| format!("a {BLOCKS} within a branch or a loop"), |(what, _)| what))
}

/// The bytes of a stored tensor of bytes.
pub(super) fn bytes(t: &TensorProto) -> Option<Vec<u8>> {
    let raw = (t.data_type == DataType::Uint8 as i32).then(|| stored::raw(t)).flatten()?;
    Some(if raw.is_empty() { t.int32_data.iter().map(|v| *v as u8).collect() } else { raw.into_owned() })
}

/// Number of [`bytes`].
pub(super) fn bytes_of(t: &TensorProto) -> Option<usize> {
    let listed = (t.data_type == DataType::Uint8 as i32).then_some(t.int32_data.len())?;
    usize::try_from(stored::raw_len(t)).ok().map(|raw| if raw == 0 { listed } else { raw })
}

/// Of every `row` bytes the first `count` numbers of `bits`, those of a byte from the low bits on.
pub(super) fn first_of_rows(bytes: &[u8], row: usize, count: usize, bits: i64) -> Vec<u8> {
    let numbers = |row: &[u8]| -> Vec<u8> {
        if bits == 8 { row.to_vec() } else { row.iter().flat_map(|b| [b & 15, b >> 4]).collect() }
    };
    bytes.chunks(row).flat_map(|row| numbers(row).into_iter().take(count)).collect()
}

/// Bits of a number, width and rows of the weight, and numbers in a block.
struct Sizes {
    bits: i64,
    k: usize,
    n: usize,
    block: usize,
}

impl Sizes {
    fn of(node: &NodeProto) -> Option<Sizes> {
        let size = |name: &str| usize::try_from(int(node, name)).ok().filter(|n| *n > 0);
        Some(Sizes { bits: int_or(node, "bits", 4), k: size("K")?, n: size("N")?, block: size("block_size")? })
    }
    /// Blocks of a row.
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }
    /// Numbers in a byte.
    fn each(&self) -> usize {
        if self.bits == 4 { 2 } else { 1 }
    }
    /// Bytes of a row.
    fn row(&self) -> Option<usize> {
        let padded = self.blocks().checked_mul(self.block)?;
        self.block.is_multiple_of(self.each()).then(|| padded / self.each())
    }
    /// The zero points in a row of them for each row of the weight; one, the middle of the range, where there are none.
    fn zeros(&self, stored: Option<&TensorProto>) -> Option<Vec<f32>> {
        let Some(stored) = stored else { return Some(vec![if self.bits == 4 { 8.0 } else { 128.0 }]) };
        let Some(packed) = bytes(stored) else { return numbers(stored) };
        let row = self.blocks().div_ceil(self.each());
        let whole = row.checked_mul(self.n)? == packed.len();
        whole.then(|| first_of_rows(&packed, row, self.blocks(), self.bits).into_iter().map(f32::from).collect())
    }
    /// Whether the last block of a row is as long as the others.
    fn is_whole(&self) -> bool {
        self.k.is_multiple_of(self.block)
    }
    /// The weight without what fills the last block of a row up.
    fn trimmed(&self, stored: Vec<u8>, row: usize) -> Vec<u8> {
        let all = first_of_rows(&stored, row, self.k, self.bits);
        match self.bits {
            8 => all,
            _ => all.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4).collect(),
        }
    }
}

/// `x·Wᵀ + b`
pub(super) fn blocks(to: &mut Lowering, given: &Given) -> Option<()> {
    let stored = Sizes::of(given.node).and_then(|sizes| weight(to, given, &sizes));
    let weight = to.wanted(stored, &format!("a {BLOCKS}: {NOT_STORED}"), USUAL)?;
    let equation = AttributeProto {
        name: "equation".into(),
        r#type: AttributeType::String as i32,
        s: b"...k,nk->...n".to_vec(),
        ..AttributeProto::default()
    };
    let (x, output) = (given.input(0)?, given.output()?);
    let y = to.emit_main("Einsum", &[x.to_string(), weight], &[equation]);
    match given.input(5) {
        Some(bias) => {
            to.emit_to("Add", &[&y, bias], output);
            Some(())
        }
        None => to.rename(&y, output),
    }
}

/// The name of `W [n, k]`: as narrow as it is stored if it is large, else as floats.
fn weight(to: &mut Lowering, given: &Given, sizes: &Sizes) -> Option<String> {
    let stored = |slot: usize| to.constants.get(given.input(slot)?).copied();
    let (packed, scales, row) = (stored(1)?, numbers(stored(2)?)?, sizes.row()?);
    if row.checked_mul(sizes.n)? != bytes_of(packed)? || sizes.blocks().checked_mul(sizes.n)? != scales.len() {
        return None;
    }
    let zeros = match given.input(3) {
        Some(_) => sizes.zeros(Some(stored(3)?)),
        None => sizes.zeros(None),
    };
    let zeros = zeros.filter(|zeros| zeros.len() == scales.len() || zeros.len() == 1)?;
    let dims = vec![i64::try_from(sizes.n).ok()?, i64::try_from(sizes.k).ok()?];
    let data_type = if sizes.bits == 4 { UINT4 } else { DataType::Uint8 as i32 };
    let weight = match sizes.is_whole() {
        // It stays where it lies.
        true => TensorProto { dims: dims.clone(), data_type, ..packed.clone() },
        false => {
            let raw_data = sizes.trimmed(bytes(packed)?, row);
            TensorProto { dims: dims.clone(), data_type, raw_data, ..TensorProto::default() }
        }
    };
    let [scale, zero] = [&scales, &zeros].map(|values| float_tensor(String::new(), values, &[values.len() as i64]));
    let block = i64::try_from(sizes.block).ok()?;
    let name = to.fresh();
    if let Some(narrow) = quantised_weight(&name, &weight, &scale, Some(&zero), 1, block) {
        to.nodes.push(narrow);
        return Some(name);
    }
    Some(to.floats(&dequantised(&weight, &scale, Some(&zero), 1, block)?, &dims))
}
