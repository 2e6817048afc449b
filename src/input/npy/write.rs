//! The writer.

use super::header::MAGIC;
use crate::input::array::{ArrayData, NamedArray};

/// `array` as the bytes of a version 1 `.npy` file: C order, little-endian.
pub fn encode(array: &NamedArray) -> Vec<u8> {
    let (descr, data): (&str, Vec<u8>) = match &array.data {
        ArrayData::F32(v) => ("<f4", v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ArrayData::I64(v) => ("<i8", v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ArrayData::I32(v) => ("<i4", v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ArrayData::U8(v) => ("|u1", v.clone()),
    };
    let dims: String = array.shape.iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((header.len() as u16).to_le_bytes()); // rank ≤ 32: far below 64 KiB
    out.extend(header.as_bytes());
    out.extend(data);
    out
}
