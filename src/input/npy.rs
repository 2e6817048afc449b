//! The NumPy `.npy` format, read and written: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
//!
//! Preamble `\x93NUMPY`, version, header length (u16 in version 1, u32 in 2 and 3), a Python dict as text, then the elements.
//! Whatever the header claims is checked against what can be there before anything is allocated.

use std::io::Read;

use half::f16;

use super::array::{ArrayData, NamedArray, element_count};
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy itself refuses longer headers when reading untrusted files.
const MAX_HEADER: usize = 10_000;
const MAX_RANK: usize = 32;

/// Element type of a `.npy` array: NumPy's kind letter and the size in bytes, for example `f2`, `i8`, `U12`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Element {
    kind: u8,
    bytes: usize,
    big_endian: bool,
}

impl Element {
    fn parse(descr: &str) -> Result<Element> {
        let refuse = |why: &str| {
            Error::bad_data(format!("element type '{descr}' {why}")).hint(
                "save numbers as float16/32/64, int8..64, uint8..64 or bool, and text as a fixed-width string array",
            )
        };
        let mut rest = descr.chars();
        let order = rest.next().ok_or_else(|| refuse("is empty"))?;
        let kind = rest.next().ok_or_else(|| refuse("is not a NumPy type"))?;
        if kind == 'O' {
            return Err(refuse("holds pickled Python objects, which are never read"));
        }
        let size: usize = rest.as_str().parse().map_err(|_| refuse("is not supported"))?;
        let bytes = match (kind, size) {
            ('f', 2 | 4 | 8) | ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1) | ('S', 1..=65_536) => size,
            ('U', 1..=65_536) => size * 4,
            _ => return Err(refuse("is not supported")),
        };
        if !matches!(order, '<' | '>' | '|' | '=') {
            return Err(refuse("has an unknown byte order"));
        }
        Ok(Element { kind: kind as u8, bytes, big_endian: order == '>' })
    }

    /// Width of the unit whose bytes are swapped in a big-endian file.
    fn unit(self) -> usize {
        match self.kind {
            b'U' => 4,
            b'S' => 1,
            _ => self.bytes,
        }
    }
}

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

/// The start of a `.npy` stream, whose elements are still to be read.
#[derive(Debug)]
struct Head {
    /// Everything but the elements.
    array: RawArray,
    /// Bytes of the elements.
    needed: usize,
    fortran: bool,
}

impl Head {
    fn read(reader: &mut dyn Read, name: &str, available: u64, limit: u64) -> Result<Head> {
        let header = read_header(reader)?;
        let element = Element::parse(header.descr()?)?;
        let shape = header.shape()?;
        let fortran = header.fortran_order()?;
        let needed =
            element_count(&shape)?.checked_mul(element.bytes).filter(|&n| n as u64 <= limit).ok_or_else(|| {
                Error::bad_data(format!("an array of shape {shape:?} is larger than the limit of {limit} bytes"))
            })?;
        if needed as u64 > available {
            return Err(Error::bad_data(format!(
                "truncated: shape {shape:?} needs {needed} bytes, at most {available} are there"
            )));
        }
        Ok(Head { array: RawArray { name: name.to_owned(), shape, element, bytes: vec![] }, needed, fortran })
    }

    /// The next `n` bytes of the elements, little-endian.
    fn take(&self, reader: &mut dyn Read, n: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(n).map_err(|e| Error::bad_data("not enough memory for the array").because(e))?;
        reader.take(n as u64).read_to_end(&mut bytes).map_err(|e| Error::bad_data("damaged array").because(e))?;
        if bytes.len() != n {
            let (shape, there) = (&self.array.shape, bytes.len());
            return Err(Error::bad_data(format!("truncated: shape {shape:?} needs {n} bytes, {there} are there")));
        }
        if self.array.element.big_endian {
            bytes.chunks_exact_mut(self.array.element.unit()).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    fn elements(self, reader: &mut dyn Read) -> Result<RawArray> {
        let mut bytes = self.take(reader, self.needed)?;
        if self.fortran && self.array.shape.len() > 1 {
            bytes = c_order(&bytes, &self.array.shape, self.array.element.bytes);
        }
        Ok(RawArray { bytes, ..self.array })
    }
}

/// A `.npy` stream whose rows are read one after the other, so that only one of them is in memory.
#[derive(Debug)]
pub struct RowReader<R> {
    reader: R,
    head: Head,
    /// The row that comes next.
    next: usize,
}

impl<R: Read> RowReader<R> {
    /// Reads the start of a stream; arguments and errors as of [`RawArray::read`].
    pub fn new(mut reader: R, available: u64, limit: u64) -> Result<RowReader<R>> {
        let head = Head::read(&mut reader, "", available, limit)?;
        Ok(RowReader { reader, head, next: 0 })
    }

    /// Dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.head.array.shape
    }

    /// All of it, where no row was taken yet.
    pub fn whole(mut self) -> Result<RawArray> {
        self.head.elements(&mut self.reader)
    }

    /// The next row, converted as [`RawArray::convert`] does; its shape lacks the first dimension. A stream in Fortran
    /// order, whose rows do not lie together, is read whole at the first.
    ///
    /// Errors: there is none left, the stream ends, or a value that [`RawArray::convert`] refuses.
    pub fn row(&mut self) -> Result<NamedArray> {
        let Head { array, needed, fortran } = &mut self.head;
        let (i, rows) = (self.next, array.rows());
        if i >= rows {
            return Err(Error::usage(format!("row {i} of {rows} asked for")));
        }
        self.next += 1;
        if *fortran && array.bytes.is_empty() && *needed > 0 {
            let empty = RawArray { bytes: vec![], ..array.clone() };
            *array = Head { array: empty, needed: *needed, fortran: true }.elements(&mut self.reader)?;
        }
        if *fortran {
            return array.row(i);
        }
        let size = *needed / rows;
        let bytes = self.head.take(&mut self.reader, size)?;
        let array = &self.head.array;
        let data = array.decode(&bytes, i * (size / array.element.bytes.max(1)))?;
        NamedArray::new(array.name.clone(), array.shape.get(1..).unwrap_or_default().to_vec(), data)
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

/// Elements of `size` bytes stored first dimension fastest, reordered last dimension fastest.
fn c_order(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut axes: Vec<(usize, usize, usize)> = Vec::with_capacity(shape.len()); // (dimension, source stride, counter)
    let mut stride = 1;
    for &d in shape {
        axes.push((d, stride, 0));
        stride *= d;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut source = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(bytes.get(source * size..(source + 1) * size).unwrap_or_default());
        for (d, stride, counter) in axes.iter_mut().rev() {
            *counter += 1;
            source += *stride;
            if *counter < *d {
                break;
            }
            source -= *stride * *d;
            *counter = 0;
        }
    }
    out
}

/// The header's Python dict, as text.
struct Header(String);

fn read_header(reader: &mut dyn Read) -> Result<Header> {
    let short = |e| Error::bad_data("truncated npy header").because(e);
    let mut start = [0u8; 8];
    reader.read_exact(&mut start).map_err(short)?;
    let [magic @ .., major, _minor] = start;
    if &magic != MAGIC {
        return Err(Error::bad_data("not an npy array: the file does not start with NumPy's magic bytes"));
    }
    let length = match major {
        1 => {
            let mut n = [0u8; 2];
            reader.read_exact(&mut n).map_err(short)?;
            usize::from(u16::from_le_bytes(n))
        }
        2 | 3 => {
            let mut n = [0u8; 4];
            reader.read_exact(&mut n).map_err(short)?;
            u32::from_le_bytes(n) as usize
        }
        v => return Err(Error::bad_data(format!("npy version {v} is unknown"))),
    };
    if length > MAX_HEADER {
        return Err(Error::bad_data(format!("an npy header of {length} bytes; at most {MAX_HEADER} are read")));
    }
    let mut text = vec![0u8; length];
    reader.read_exact(&mut text).map_err(short)?;
    String::from_utf8(text).map(Header).map_err(|e| Error::bad_data("an npy header that is not text").because(e))
}

impl Header {
    /// Text after `'key':`.
    fn value(&self, key: &str) -> Result<&str> {
        [format!("'{key}'"), format!("\"{key}\"")]
            .iter()
            .find_map(|quoted| self.0.split_once(quoted.as_str()))
            .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| Error::bad_data(format!("an npy header without '{key}'")))
    }

    fn descr(&self) -> Result<&str> {
        let value = self.value("descr")?;
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'));
        quote.and_then(|q| value.get(1..).and_then(|v| v.split_once(q))).map(|(descr, _)| descr).ok_or_else(|| {
            Error::bad_data("structured element types are not supported").hint("save each field as an array of its own")
        })
    }

    fn fortran_order(&self) -> Result<bool> {
        let value = self.value("fortran_order")?;
        match (value.starts_with("True"), value.starts_with("False")) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Error::bad_data("an npy header with a malformed 'fortran_order'")),
        }
    }

    fn shape(&self) -> Result<Vec<usize>> {
        let malformed = || Error::bad_data("an npy header with a malformed 'shape'");
        let inside = self.value("shape")?.strip_prefix('(').and_then(|v| v.split_once(')')).ok_or_else(malformed)?.0;
        let dims = inside.split(',').map(|d| d.trim().trim_end_matches('L')).filter(|d| !d.is_empty());
        let shape: Vec<usize> = dims.map(|d| d.parse().map_err(|_| malformed())).collect::<Result<_>>()?;
        if shape.len() > MAX_RANK {
            return Err(malformed());
        }
        Ok(shape)
    }
}

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Bytes of an npy file with any header fields.
    pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    fn read(bytes: &[u8]) -> Result<RawArray> {
        RawArray::read(&mut &bytes[..], "x", bytes.len() as u64, 1 << 20)
    }

    #[test]
    fn every_numeric_type_converts() {
        let ints = |descr: &str, data: &[u8]| read(&npy(descr, false, "(2,)", data)).unwrap().integers().unwrap();
        assert_eq!(ints("'|i1'", &[255, 1]), [-1, 1]);
        assert_eq!(ints("'|u1'", &[255, 1]), [255, 1]);
        assert_eq!(ints("'|b1'", &[0, 1]), [0, 1]);
        assert_eq!(ints("'<i2'", &[254, 255, 1, 0]), [-2, 1]);
        assert_eq!(ints("'>i2'", &[255, 254, 0, 1]), [-2, 1]);
        assert_eq!(ints("'<u2'", &[254, 255, 1, 0]), [65534, 1]);
        assert_eq!(ints("'<i4'", &[255, 255, 255, 255, 7, 0, 0, 0]), [-1, 7]);
        assert_eq!(ints("'>u4'", &[255, 255, 255, 255, 0, 0, 0, 7]), [4294967295, 7]);
        let mut wide = (-5i64).to_le_bytes().to_vec();
        wide.extend(9i64.to_le_bytes());
        assert_eq!(ints("'<i8'", &wide), [-5, 9]);
        assert!(read(&npy("'<u8'", false, "(2,)", &[255; 16])).unwrap().integers().is_err());

        let floats =
            |descr: &str, data: &[u8]| read(&npy(descr, false, "(1,)", data)).unwrap().convert(1 << 20).unwrap().data;
        assert_eq!(floats("'<f2'", &f16::from_f32(1.5).to_le_bytes()), ArrayData::F32(vec![1.5]));
        assert_eq!(floats("'<f4'", &1.5f32.to_le_bytes()), ArrayData::F32(vec![1.5]));
        assert_eq!(floats("'>f8'", &1.5f64.to_be_bytes()), ArrayData::F32(vec![1.5]));
    }

    #[test]
    fn fortran_order_is_undone() {
        // [[0, 1, 2], [3, 4, 5]] stored column by column
        let a = read(&npy("'|u1'", true, "(2, 3)", &[0, 3, 1, 4, 2, 5])).unwrap();
        assert_eq!(a.integers().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(a.row(1).unwrap().data, ArrayData::U8(vec![3, 4, 5]));
        // element [i, j, k] of shape (2, 3, 4) lies at i + 2 j + 6 k
        let stored: Vec<u8> = (0..24u8)
            .map(|at| {
                let (i, j, k) = (at % 2, at / 2 % 3, at / 6);
                i * 12 + j * 4 + k
            })
            .collect();
        let a = read(&npy("'|u1'", true, "(2, 3, 4)", &stored)).unwrap();
        assert_eq!(a.integers().unwrap(), (0..24).collect::<Vec<i64>>());
    }

    #[test]
    fn text_arrays_become_strings() {
        let unicode: Vec<u8> = "on\0é".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        assert_eq!(read(&npy("'<U2'", false, "(2,)", &unicode)).unwrap().strings().unwrap(), ["on", "\0é"]);
        assert_eq!(read(&npy("'|S3'", false, "(2,)", b"on\0off")).unwrap().strings().unwrap(), ["on", "off"]);
        assert!(read(&npy("'|S1'", false, "(1,)", &[0xff])).unwrap().strings().is_err());
        assert!(read(&npy("'<U1'", false, "(1,)", &[0xff; 4])).unwrap().strings().is_err());
    }

    #[test]
    fn the_first_offending_index_is_named() {
        let mut data: Vec<u8> = [0f32; 12].iter().flat_map(|v| v.to_le_bytes()).collect();
        data[4 * 7..4 * 8].copy_from_slice(&f32::NAN.to_le_bytes());
        let a = read(&npy("'<f4'", false, "(2, 2, 3)", &data)).unwrap();
        for e in [a.convert(1 << 20).unwrap_err(), a.row(1).unwrap_err(), a.check_rows().unwrap_err()] {
            assert!(e.to_string().contains("[1, 0, 1]"), "{e}");
        }
        assert!(a.row(0).is_ok());
        assert!(a.row(2).is_err());
        assert!(read(&npy("'<f8'", false, "(1,)", &1e300f64.to_le_bytes())).unwrap().convert(64).is_err());
    }

    #[test]
    fn hostile_headers_are_refused_before_allocation() {
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (npy("'<f4'", false, "(1152921504606846976,)", &[0; 4]), "larger than the limit"),
            (npy("'<f4'", false, "(4294967296, 4294967296, 4294967296)", &[0; 4]), "overflow"),
            (npy("'<f4'", false, "(99999999999999999999999,)", &[]), "malformed 'shape'"),
            (npy("'<f4'", false, "(-1,)", &[]), "malformed 'shape'"),
            (npy("'<f4'", false, "(100,)", &[0; 8]), "truncated"),
            (npy("'|O'", false, "(1,)", &[0; 8]), "pickled"),
            (npy("'<c8'", false, "(1,)", &[0; 8]), "'<c8'"),
            (npy("[('a', '<f4')]", false, "(1,)", &[0; 8]), "structured"),
            (npy("'<U99999999999'", false, "(1,)", &[0; 8]), "not supported"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "header of 4294967295"),
            (b"\x93NUM".to_vec(), "truncated"),
            (b"PK\x03\x04aaaaaaaaaaaa".to_vec(), "magic"),
            (b"\x93NUMPY\x01\x00\x04\x00{}\n\n".to_vec(), "without 'descr'"),
            (b"\x93NUMPY\x01\x00\x02\x00\xff\xff".to_vec(), "not text"),
        ];
        for (bytes, expected) in cases {
            let e = read(&bytes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData);
            assert!(e.to_string().contains(expected), "{e} lacks {expected}");
        }
    }

    /// A reader that tells how many bytes were asked of it.
    struct Told<'a>(&'a [u8], &'a std::cell::Cell<usize>);

    impl Read for Told<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(to)?;
            self.1.set(self.1.get() + n);
            Ok(n)
        }
    }

    #[test]
    fn rows_are_read_one_at_a_time() {
        let data: Vec<u8> = (0..24).flat_map(|v| (v as f32).to_be_bytes()).collect();
        for (descr, fortran) in [("'>f4'", false), ("'>f4'", true), ("'<i2'", false), ("'|u1'", false)] {
            let bytes = npy(descr, fortran, "(4, 3, 2)", &data);
            let whole = read(&bytes).unwrap();
            let told = std::cell::Cell::new(0);
            let mut rows = RowReader::new(Told(&bytes, &told), bytes.len() as u64, 1 << 20).unwrap();
            let start = told.get();
            for i in 0..4 {
                let (got, expected) = (rows.row().unwrap(), whole.row(i).unwrap());
                assert_eq!((got.shape, got.data), (expected.shape, expected.data), "{descr} {fortran} row {i}");
                let taken = if fortran { 4 } else { i + 1 };
                assert_eq!(told.get() - start, taken * whole.byte_len() / 4);
            }
            assert!(rows.row().is_err());
        }
        let mut bad = data.clone();
        bad[4 * 14..4 * 15].copy_from_slice(&f32::NAN.to_be_bytes());
        let bytes = npy("'>f4'", false, "(4, 3, 2)", &bad);
        let mut rows = RowReader::new(&bytes[..], bytes.len() as u64, 1 << 20).unwrap();
        assert!(rows.row().is_ok() && rows.row().is_ok());
        assert!(rows.row().unwrap_err().to_string().contains("[2, 1, 0]"));
        assert!(rows.row().is_ok());
        assert!(RowReader::new(&bytes[..], 40, 1 << 20).is_err(), "fewer bytes than it says");
    }

    #[test]
    fn empty_arrays_cost_nothing_whatever_their_shape() {
        for shape in ["(4611686018427387904, 0)", "(0, 1099511627776, 1048576)", "(0,)", "(0, 4611686018427387904)"] {
            let a = read(&npy("'<f4'", true, shape, &[])).unwrap();
            a.check_rows().unwrap();
            assert!(a.convert(1 << 20).unwrap().data.is_empty());
            assert_eq!(a.row(0).is_ok(), a.rows() > 0);
        }
        assert_eq!(
            read(&npy("'<f4'", false, "()", &1f32.to_le_bytes())).unwrap().convert(8).unwrap().data,
            ArrayData::F32(vec![1.0])
        );
    }

    #[test]
    fn written_arrays_read_back() {
        for data in [
            ArrayData::F32(vec![1.0, -2.5, 3.0, 0.0, 1e-9, 7.0]),
            ArrayData::I64(vec![1, 2, 3, 4, 5, i64::MIN]),
            ArrayData::U8(vec![0, 1, 2, 3, 4, 255]),
        ] {
            let a = NamedArray::new("a", vec![3, 2], data).unwrap();
            let bytes = encode(&a);
            assert_eq!(read(&bytes).unwrap().convert(1 << 20).unwrap().data, a.data);
            assert_eq!((bytes.len() - a.data.byte_len()) % 64, 0);
        }
    }
}
