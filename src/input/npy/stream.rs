//! Elements from a stream: all of them, or a row at a time.

use std::io::Read;

use super::RawArray;
use super::header::{Element, Header};
use crate::error::{Error, Result};
use crate::input::array::{NamedArray, element_count};

/// The start of a `.npy` stream, whose elements are still to be read.
#[derive(Debug)]
pub(super) struct Head {
    /// Everything but the elements.
    array: RawArray,
    /// Bytes of the elements.
    needed: usize,
    fortran: bool,
}

impl Head {
    pub fn read(reader: &mut dyn Read, name: &str, available: u64, limit: u64) -> Result<Head> {
        let header = Header::read(reader)?;
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

    pub fn elements(self, reader: &mut dyn Read) -> Result<RawArray> {
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
