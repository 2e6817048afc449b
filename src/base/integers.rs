//! Integers as ONNX stores them, and what they stand for.

use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::stored;

/// Element types of two four-bit integers a byte.
pub(super) const UINT4: i32 = DataType::Uint4 as i32;
pub(super) const INT4: i32 = DataType::Int4 as i32;

/// Element types of integers of which each takes a byte or more.
const WHOLE: &[i32] = &[
    DataType::Uint8 as i32,
    DataType::Int8 as i32,
    DataType::Uint16 as i32,
    DataType::Int16 as i32,
    DataType::Int32 as i32,
];

/// The float of eight bits that ONNX calls e4m3fn, or e5m2, by the bits of its exponent. The former has no infinities, and one pattern for
/// what is not a number.
fn small_float(bits: u8, exponent_bits: u32) -> f32 {
    let mantissa_bits = 7 - exponent_bits;
    let (exponent, mantissa) = (u32::from(bits & 0x7f) >> mantissa_bits, u32::from(bits) & ((1 << mantissa_bits) - 1));
    let (all, bias) = ((1 << exponent_bits) - 1, (1i32 << (exponent_bits - 1)) - 1);
    let part = mantissa as f32 / (1 << mantissa_bits) as f32;
    let size = match exponent {
        0 => part * f32::powi(2.0, 1 - bias),
        e if e == all && exponent_bits == 5 && mantissa == 0 => f32::INFINITY,
        e if e == all && (exponent_bits == 5 || mantissa == (1 << mantissa_bits) - 1) => f32::NAN,
        e => (1.0 + part) * f32::powi(2.0, e as i32 - bias),
    };
    if bits > 0x7f { -size } else { size }
}

/// The integers of an element type.
pub(super) fn range(kind: i32) -> Option<(f32, f32)> {
    match kind {
        k if k == DataType::Uint8 as i32 => Some((0.0, 255.0)),
        k if k == DataType::Int8 as i32 => Some((-128.0, 127.0)),
        k if k == DataType::Uint16 as i32 => Some((0.0, 65535.0)),
        k if k == DataType::Int16 as i32 => Some((-32768.0, 32767.0)),
        UINT4 => Some((0.0, 15.0)),
        INT4 => Some((-8.0, 7.0)),
        _ => None,
    }
}

pub(super) fn float_tensor(name: String, values: &[f32], dims: &[i64]) -> TensorProto {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto { name, dims: dims.to_vec(), data_type: DataType::Float as i32, raw_data, ..TensorProto::default() }
}

/// The values of a stored tensor of 64-bit integers.
pub(super) fn whole_values(t: &TensorProto) -> Option<Vec<i64>> {
    if t.data_type != DataType::Int64 as i32 {
        return None;
    }
    let raw = stored::raw(t)?;
    Some(match raw.is_empty() {
        true => t.int64_data.clone(),
        false => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
    })
}

/// The values of a tensor that is stored in the file itself, of a type that a quantisation uses.
pub(super) fn numbers(t: &TensorProto) -> Option<Vec<f32>> {
    let raw = stored::raw(t)?;
    let stored = |values: &[i32]| Some(values.iter().map(|v| *v as f32).collect());
    let bytes = || if raw.is_empty() { t.int32_data.iter().map(|v| *v as u8).collect() } else { raw.to_vec() };
    let nibbles = |sign: bool| {
        let value = |n: u8| if sign && n > 7 { n as f32 - 16.0 } else { n as f32 };
        let count = volume(t.dims.iter().copied())?;
        let all = bytes().into_iter().flat_map(|b| [value(b & 15), value(b >> 4)]);
        Some(all.take(usize::try_from(count).ok()?).collect())
    };
    match t.data_type {
        k if k == DataType::Float as i32 && raw.is_empty() => Some(t.float_data.clone()),
        k if k == DataType::Float as i32 => {
            Some(raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        }
        k if k == DataType::Float16 as i32 || k == DataType::Bfloat16 as i32 => {
            let bits: Vec<u16> = match raw.is_empty() {
                true => t.int32_data.iter().map(|v| *v as u16).collect(),
                false => raw.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect(),
            };
            let value = |b: u16| match k == DataType::Float16 as i32 {
                true => half::f16::from_bits(b).to_f32(),
                false => half::bf16::from_bits(b).to_f32(),
            };
            Some(bits.into_iter().map(value).collect())
        }
        INT4 => nibbles(true),
        UINT4 => nibbles(false),
        k if k == DataType::Float8e4m3fn as i32 => Some(bytes().into_iter().map(|b| small_float(b, 4)).collect()),
        k if k == DataType::Float8e5m2 as i32 => Some(bytes().into_iter().map(|b| small_float(b, 5)).collect()),
        k if raw.is_empty() && WHOLE.contains(&k) => stored(&t.int32_data),
        k if k == DataType::Uint8 as i32 => Some(raw.iter().map(|b| *b as f32).collect()),
        k if k == DataType::Int8 as i32 => Some(raw.iter().map(|b| *b as i8 as f32).collect()),
        k if k == DataType::Uint16 as i32 => {
            Some(raw.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b) as f32).collect())
        }
        k if k == DataType::Int16 as i32 => {
            Some(raw.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b) as f32).collect())
        }
        k if k == DataType::Int32 as i32 => {
            Some(raw.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect())
        }
        _ => None,
    }
}

/// `(q - z)·s`, with one scale for the tensor, for each place of `axis`, or for each `block` places of it.
pub(super) fn dequantised(
    q: &TensorProto,
    scale: &TensorProto,
    zero: Option<&TensorProto>,
    axis: i64,
    block: i64,
) -> Option<Vec<f32>> {
    let count = usize::try_from(volume(q.dims.iter().copied())?).ok()?;
    let shape: Vec<usize> = q.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let (values, scales) = (numbers(q)?, numbers(scale)?);
    if values.len() != count || values.is_empty() {
        return None;
    }
    // One scale for all: any axis will do, and a tensor without axes is one of a single place.
    let (shape, axis) = match scales.len() {
        1 => (vec![values.len()], 0),
        _ => (shape, axis),
    };
    let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
    let zeros = zero.map_or_else(|| Some(vec![0.0; scales.len()]), numbers)?;
    let length = *shape.get(axis)?;
    let inner: usize = shape[axis + 1..].iter().product();
    let block = usize::try_from(block).ok()?;
    let (blocks, each) = if block > 0 { (length.div_ceil(block), block) } else { (length, 1) };
    let place = |i: usize| {
        let (outer, at, inside) = (i / (length * inner), i / inner % length, i % inner);
        match (scales.len(), block) {
            (1, _) => 0,
            (_, 0) => at,
            _ => (outer * blocks + at / each) * inner + inside,
        }
    };
    let zero = |place: usize| if let [zero] = zeros[..] { Some(zero) } else { zeros.get(place).copied() };
    let value = |(i, v): (usize, &f32)| Some((v - zero(place(i))?) * scales.get(place(i))?);
    values.iter().enumerate().map(value).collect()
}

/// Values that a tensor declares.
pub(super) fn volume(dims: impl IntoIterator<Item = i64>) -> Option<u64> {
    dims.into_iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(d).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits() {
        let four = [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xed, -104.0),
        ];
        let five = [
            (0x00, 0.0),
            (0x01, f32::powi(2.0, -16)),
            (0x3c, 1.0),
            (0x7b, 57344.0),
            (0x7c, f32::INFINITY),
            (0xbc, -1.0),
        ];
        four.iter().for_each(|(bits, value)| assert_eq!(small_float(*bits, 4), *value, "{bits:x}"));
        five.iter().for_each(|(bits, value)| assert_eq!(small_float(*bits, 5), *value, "{bits:x}"));
        assert!(small_float(0x7f, 4).is_nan() && small_float(0xff, 4).is_nan());
        assert!(small_float(0x7d, 5).is_nan() && small_float(0xff, 5).is_nan());
    }
}
