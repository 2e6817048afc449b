//! The NumPy `.npy` format, read and written: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
//!
//! Preamble `\x93NUMPY`, version, header length (u16 in version 1, u32 in 2 and 3), a Python dict as text, then the elements.
//! Whatever the header claims is checked against what can be there before anything is allocated.

mod header;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::io::Read;

use half::f16;

use super::array::{ArrayData, NamedArray, element_count};
use crate::error::{Error, Result};
use header::Element;
use stream::Head;

pub use stream::RowReader;
pub use write::encode;

/// An array as it lies in a `.npy` file, brought to C order and little-endian, and converted only when asked for.
#[derive(Clone, Debug)]
pub struct RawArray {
    /// Name inside an `.npz`; empty for a lone `.npy`.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    element: Element,
    bytes: Vec<u8>,
}

impl RawArray {
    /// Reads one `.npy` stream. `available` is the most bytes that `reader` can still give, `limit` the most to keep in memory.
    ///
    /// Errors ([`crate::error::ErrorKind::BadData`]): not an npy stream, unsupported element type, more elements than the stream can hold,
    /// larger than `limit`, truncated.
    pub fn read(reader: &mut dyn Read, name: &str, available: u64, limit: u64) -> Result<RawArray> {
        Head::read(reader, name, available, limit)?.elements(reader)
    }

    /// Length of the first dimension (0 for a scalar).
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Size as stored, bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// True for fixed-width text (`U` or `S` in NumPy).
    pub fn is_text(&self) -> bool {
        matches!(self.element.kind, b'U' | b'S')
    }

    /// The whole array, converted: f16, f32 and f64 to f32, u8 kept, every other integer and bool to i64.
    ///
    /// Errors: text elements, a NaN or infinity (its index is named), an unsigned value above `i64::MAX`, a result larger than `limit`.
    pub fn convert(&self, limit: u64) -> Result<NamedArray> {
        let grown = match (self.element.kind, self.element.bytes) {
            (b'f', _) => 4,
            (b'u', 1) => 1,
            _ => 8,
        };
        if (self.bytes.len() / self.element.bytes.max(1)) as u64 > limit / grown {
            return Err(Error::bad_data(format!(
                "an array of shape {:?} is larger than the limit of {limit} bytes",
                self.shape
            )));
        }
        let data = self.decode(&self.bytes, 0)?;
        NamedArray::new(self.name.clone(), self.shape.clone(), data)
    }

    /// Row `i` of the first dimension, converted as [`RawArray::convert`] does; its shape lacks that dimension.
    pub fn row(&self, i: usize) -> Result<NamedArray> {
        let shape = self.shape.get(1..).unwrap_or_default().to_vec();
        let per_row = element_count(&shape)?;
        let bytes = per_row
            .checked_mul(self.element.bytes)
            .and_then(|size| Some(i.checked_mul(size)?..i.checked_add(1)?.checked_mul(size)?))
            .filter(|_| i < self.rows())
            .and_then(|range| self.bytes.get(range))
            .ok_or_else(|| Error::usage(format!("row {i} of {} asked for", self.rows())))?;
        NamedArray::new(self.name.clone(), shape, self.decode(bytes, i * per_row)?)
    }

    /// Checks that every row converts, without keeping the converted copies.
    pub fn check_rows(&self) -> Result<()> {
        let rows = if self.bytes.is_empty() { 0 } else { self.rows() };
        (0..rows).try_for_each(|i| self.row(i).map(drop))
    }

    /// Elements as text: strings as they are (NUL padding removed), integers in decimal, bool as 0 and 1.
    ///
    /// Errors: floating-point elements, text that is not Unicode.
    pub fn strings(&self) -> Result<Vec<String>> {
        let not_unicode = || Error::bad_data("text that is not valid Unicode");
        match self.element.kind {
            b'S' => {
                let cells = self.bytes.chunks_exact(self.element.bytes);
                cells
                    .map(|c| {
                        std::str::from_utf8(c).map(|s| s.trim_end_matches('\0').to_owned()).map_err(|_| not_unicode())
                    })
                    .collect()
            }
            b'U' => {
                let cells = self.bytes.chunks_exact(self.element.bytes);
                cells
                    .map(|c| {
                        let text: Option<String> =
                            c.as_chunks::<4>().0.iter().map(|b| char::from_u32(u32::from_le_bytes(*b))).collect();
                        text.map(|s| s.trim_end_matches('\0').to_owned()).ok_or_else(not_unicode)
                    })
                    .collect()
            }
            _ => Ok(self.integers()?.into_iter().map(|v| v.to_string()).collect()),
        }
    }

    /// Elements as i64. Errors: floating-point or text elements, an unsigned value above `i64::MAX`.
    pub fn integers(&self) -> Result<Vec<i64>> {
        match self.decode(&self.bytes, 0)? {
            ArrayData::I64(v) => Ok(v),
            ArrayData::U8(v) => Ok(v.into_iter().map(i64::from).collect()),
            _ => Err(Error::bad_data("floating-point numbers where integers are needed")
                .hint("save them with .astype('int64')")),
        }
    }

    /// Converts `bytes`, whose first element is number `first` of the whole array.
    fn decode(&self, bytes: &[u8], first: usize) -> Result<ArrayData> {
        fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
        }
        let ints = match (self.element.kind, self.element.bytes) {
            (b'f', size) => {
                let floats: Vec<f32> = match size {
                    2 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
                    4 => each(bytes, f32::from_le_bytes),
                    _ => each(bytes, |b| f64::from_le_bytes(b) as f32),
                };
                return match floats.iter().position(|v| !v.is_finite()) {
                    None => Ok(ArrayData::F32(floats)),
                    Some(at) => Err(Error::bad_data(format!(
                        "a value that is not a finite 32-bit number at index {:?}",
                        unravel(first + at, &self.shape)
                    ))
                    .hint("replace NaN and infinite values before they reach the model")),
                };
            }
            (b'u', 1) => return Ok(ArrayData::U8(bytes.to_vec())),
            (b'b', _) => each(bytes, |[b]: [u8; 1]| i64::from(b != 0)),
            (b'i', 1) => each(bytes, |b| i64::from(i8::from_le_bytes(b))),
            (b'i', 2) => each(bytes, |b| i64::from(i16::from_le_bytes(b))),
            (b'i', 4) => each(bytes, |b| i64::from(i32::from_le_bytes(b))),
            (b'i', _) => each(bytes, i64::from_le_bytes),
            (b'u', 2) => each(bytes, |b| i64::from(u16::from_le_bytes(b))),
            (b'u', 4) => each(bytes, |b| i64::from(u32::from_le_bytes(b))),
            (b'u', _) => {
                let wide = each(bytes, |b| i64::try_from(u64::from_le_bytes(b)));
                let fits: Result<Vec<i64>, _> = wide.into_iter().collect();
                fits.map_err(|e| {
                    Error::bad_data("an unsigned value above the largest 64-bit signed number").because(e)
                })?
            }
            _ => return Err(Error::bad_data("text where numbers are needed")),
        };
        Ok(ArrayData::I64(ints))
    }
}

/// Index of element number `flat` in an array of `shape`, C order.
pub(crate) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&d| {
            let d = d.max(1);
            let i = flat % d;
            flat /= d;
            i
        })
        .collect();
    index.reverse();
    index
}
