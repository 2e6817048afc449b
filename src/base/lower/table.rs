//! Tables whose rows are looked up, with weights of few bits in blocks (`GatherBlockQuantized`): token embeddings,
//! which often share their bytes with the output layer. The table stays as narrow as it is stored.

use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};

use super::super::integers::{INT4, UINT4, dequantised, float_tensor, numbers, whole_values};
use super::super::narrow::quantised_weight;
use super::super::stored;
use super::blocks::{bytes, bytes_of, first_of_rows};
use super::unread::{Unread, later};
use super::{Constants, Given, Lowering, int, int_or};

/// The operator.
pub(super) const TABLE: &str = "GatherBlockQuantized";
const FLOATS: &str = "build it with embeddings of floats or of 4 or 8 bits: the model builder without \
                      `shared_embeddings=true`, or with `-p int4` or `-p int8`";

/// What of a node is not read; none if that does not show in its form.
pub(super) fn unread(node: &NodeProto) -> Option<Unread> {
    let bits = int_or(node, "bits", 4);
    let what = if bits != 4 && bits != 8 {
        format!("of {bits} bits; those of 4 and 8 are read")
    } else if int(node, "gather_axis") != 0 {
        "along another axis than the first (gather_axis)".to_string()
    } else {
        format!("with {}", later(node, &["bits", "block_size", "gather_axis", "quantize_axis"], 4)?)
    };
    Some((format!("a {TABLE} {what}"), FLOATS))
}

/// Stored tensors in another shape, by the name of that.
pub(super) fn reshaped<'g>(nodes: &[NodeProto], constants: &Constants<'g>) -> HashMap<String, &'g TensorProto> {
    let stored = |n: &NodeProto, slot: usize| constants.get(n.input.get(slot)?.as_str()).copied();
    let one = |n: &NodeProto| {
        whole_values(stored(n, 1)?)?;
        Some((n.output.first()?.clone(), stored(n, 0)?))
    };
    nodes.iter().filter(|n| n.op_type == "Reshape").filter_map(one).collect()
}

/// Rows of a table.
pub(super) fn table(to: &mut Lowering, given: &Given) -> Option<()> {
    let weight = weight(to, given);
    let why =
        format!("a {TABLE} whose table, scales and zero points are not stored, in blocks along the last of two axes");
    let weight = to.wanted(weight, &why, FLOATS)?;
    let (rows, output) = (given.input(1)?, given.output()?);
    let name = to.at.clone();
    to.push(name, "Gather", &[&weight, rows], output, vec![]);
    Some(())
}

/// The name of the table `[rows, width]`: as narrow as it is stored if it is large, else as floats.
fn weight(to: &mut Lowering, given: &Given) -> Option<String> {
    let find = |slot: usize| {
        let name = given.input(slot)?;
        to.constants.get(name).or_else(|| to.reshaped.get(name)).copied()
    };
    let (packed, scale) = (find(0)?, find(2)?);
    let [rows, blocks] = scale.dims[..] else { return None };
    let last = [-1, 1].contains(&int_or(given.node, "quantize_axis", 1));
    let block = Some(int_or(given.node, "block_size", 128)).filter(|block| *block > 0 && last)?;
    let (rows_of, blocks_of) = (usize::try_from(rows).ok()?, usize::try_from(blocks).ok()?);
    let in_bytes = packed.data_type == DataType::Uint8 as i32;
    let bits = if in_bytes { int_or(given.node, "bits", 4) } else { 4 };
    // Four-bit integers of their own type have a zero point of 0.
    let middle = match packed.data_type {
        INT4 | UINT4 => 0.0,
        _ if in_bytes && bits == 4 => 8.0,
        _ if in_bytes => 128.0,
        _ => return None,
    };
    let taken = if in_bytes { bytes_of(packed) } else { usize::try_from(stored::raw_len(packed)).ok() };
    let taken = taken.filter(|n| *n > 0 && rows_of > 0 && n.is_multiple_of(rows_of))?;
    let width = i64::try_from(taken / rows_of * if bits == 4 { 2 } else { 1 }).ok()?;
    (width.checked_add(block - 1)? / block == blocks).then_some(())?;
    let zeros = match given.input(3) {
        None => vec![middle],
        Some(_) => {
            let zero = find(3)?;
            match in_bytes {
                true => {
                    let row = blocks_of.div_ceil(if bits == 4 { 2 } else { 1 });
                    let all = bytes(zero).filter(|all| all.len() == row * rows_of)?;
                    first_of_rows(&all, row, blocks_of, bits).into_iter().map(f32::from).collect()
                }
                false => numbers(zero)?,
            }
        }
    };
    let data_type = match (in_bytes, bits) {
        (true, 4) => UINT4,
        _ => packed.data_type,
    };
    let dims = vec![rows, width];
    let table = TensorProto { dims: dims.clone(), data_type, ..packed.clone() };
    let scales = numbers(scale).filter(|scales| scales.len() == rows_of * blocks_of)?;
    let [scale, zero] = [&scales, &zeros].map(|values| float_tensor(String::new(), values, &[values.len() as i64]));
    let name = to.fresh();
    if let Some(narrow) = quantised_weight(&name, &table, &scale, Some(&zero), 1, block) {
        to.nodes.push(narrow);
        return Some(name);
    }
    Some(to.floats(&dequantised(&table, &scale, Some(&zero), 1, block)?, &dims))
}
