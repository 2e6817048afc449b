//! What a `.npy` file says of its elements before they come.

use std::io::Read;

use crate::error::{Error, Result};

pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy itself refuses longer headers when reading untrusted files.
const MAX_HEADER: usize = 10_000;
const MAX_RANK: usize = 32;

/// Element type of a `.npy` array: NumPy's kind letter and the size in bytes, for example `f2`, `i8`, `U12`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Element {
    pub kind: u8,
    pub bytes: usize,
    pub big_endian: bool,
}

impl Element {
    pub fn parse(descr: &str) -> Result<Element> {
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
    pub fn unit(self) -> usize {
        match self.kind {
            b'U' => 4,
            b'S' => 1,
            _ => self.bytes,
        }
    }
}

/// The header's Python dict, as text.
pub(super) struct Header(String);

impl Header {
    pub fn read(reader: &mut dyn Read) -> Result<Header> {
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

    /// Text after `'key':`.
    fn value(&self, key: &str) -> Result<&str> {
        [format!("'{key}'"), format!("\"{key}\"")]
            .iter()
            .find_map(|quoted| self.0.split_once(quoted.as_str()))
            .and_then(|(_, rest)| rest.trim_start().strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| Error::bad_data(format!("an npy header without '{key}'")))
    }

    pub fn descr(&self) -> Result<&str> {
        let value = self.value("descr")?;
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'));
        quote.and_then(|q| value.get(1..).and_then(|v| v.split_once(q))).map(|(descr, _)| descr).ok_or_else(|| {
            Error::bad_data("structured element types are not supported").hint("save each field as an array of its own")
        })
    }

    pub fn fortran_order(&self) -> Result<bool> {
        let value = self.value("fortran_order")?;
        match (value.starts_with("True"), value.starts_with("False")) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Error::bad_data("an npy header with a malformed 'fortran_order'")),
        }
    }

    pub fn shape(&self) -> Result<Vec<usize>> {
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
