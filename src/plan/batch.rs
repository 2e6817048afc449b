//! Examples put together into the tensors of one run, padded to the plan's bucket.

use tract_core::internal::*;

#[cfg(feature = "train")]
use super::frozen;
use crate::base::{Base, Bucket, Dim, Element};
use crate::error::{Error, Result};
use crate::input::{ArrayData, Example, NamedArray};
#[cfg(feature = "train")]
use crate::{base::guarded, error::ErrorKind};

/// The inputs of one run.
#[derive(Clone)]
pub(crate) struct Batch {
    pub tensors: Vec<TValue>,
    /// `[batch, sequence]`, 1 where a position holds a token; empty when the model has no sequence.
    pub mask: Vec<f32>,
}

/// Length of the example's sequence, where the model has one.
pub(crate) fn sequence_length(base: &Base, example: &Example) -> usize {
    let mut length = 0;
    for (ix, port) in base.inputs().iter().enumerate() {
        if let Some(axis) = port.dims.iter().position(|d| *d == Dim::Sequence)
            && let Some(array) = pick(base, ix, example)
        {
            length = length.max(array.shape.get(axis - 1).copied().unwrap_or(0));
        }
    }
    length
}

/// The array meant for input `ix`: the one of that name, else the one at that place.
fn pick<'a>(base: &Base, ix: usize, example: &'a Example) -> Option<&'a NamedArray> {
    let name = &base.inputs()[ix].name;
    match example.arrays.iter().find(|a| a.name == *name) {
        Some(array) => Some(array),
        None if base.inputs().len() == 1 => example.arrays.first(),
        None if base.fed_input() == Some(ix) => example.arrays.iter().find(|a| a.name.is_empty()),
        None => example.arrays.get(ix).filter(|a| a.name.is_empty()),
    }
}

/// Checks one example against the model's inputs.
pub(crate) fn check(base: &Base, example: &Example) -> Result<()> {
    let bucket = base.bucket(1, sequence_length(base, example));
    for (ix, port) in base.inputs().iter().enumerate() {
        let array = pick(base, ix, example).ok_or_else(|| {
            let given: Vec<_> = example.arrays.iter().map(|a| a.name.as_str()).collect();
            Error::bad_data(format!("the model's input {:?} is not given", port.name))
                .because(format!("the example holds {given:?}"))
                .hint("name the arrays as the model names its inputs (see `acclimate inspect`)")
        })?;
        let wanted = row_shape(&port.dims, &bucket);
        let fits = array.shape.len() == wanted.len()
            && array.shape.iter().zip(&wanted).zip(&port.dims[1..]).all(|((have, want), dim)| match dim {
                Dim::Sequence => have <= want,
                _ => have == want,
            });
        if !fits {
            let shown: Vec<String> = port.dims[1..].iter().map(Dim::to_string).collect();
            return Err(Error::bad_data(format!("an example has shape {:?}", array.shape))
                .because(format!("the model's input {:?} takes [{}]", port.name, shown.join(", ")))
                .hint("give one example per input, without a batch dimension"));
        }
        let kind_fits = match (&array.data, port.element) {
            (ArrayData::F32(v), Element::F32) => {
                if let Some(at) = v.iter().position(|x| !x.is_finite()) {
                    return Err(Error::bad_data(format!(
                        "value {at} of the input {:?} is not a finite number",
                        port.name
                    )));
                }
                true
            }
            (ArrayData::F32(_), _) => false,
            (_, Element::Other) => false,
            _ => true,
        };
        if !kind_fits {
            return Err(Error::bad_data(format!("the model's input {:?} takes {}", port.name, port.element.name()))
                .because("the example holds another type"));
        }
    }
    Ok(())
}

fn row_shape(dims: &[Dim], bucket: &Bucket) -> Vec<usize> {
    let size = |d: &Dim| match d {
        Dim::Fixed(n) => *n,
        Dim::Sequence => bucket.sequence,
        Dim::Batch => bucket.batch,
        Dim::Open(_) => 0,
    };
    dims.iter().skip(1).map(size).collect()
}

impl Batch {
    /// Puts `examples` (at most the bucket's batch, already checked) together; a short batch repeats its last example.
    pub fn new(base: &Base, bucket: &Bucket, examples: &[&Example]) -> Result<Batch> {
        let Some(last) = examples.last() else { return Err(Error::internal("a batch without examples")) };
        if examples.len() > bucket.batch {
            return Err(Error::internal("a batch larger than its plan"));
        }
        let rows: Vec<&Example> = examples.iter().copied().chain(std::iter::repeat(*last)).take(bucket.batch).collect();
        let mut tensors = Vec::with_capacity(base.inputs().len());
        let mut mask = vec![];
        for (ix, port) in base.inputs().iter().enumerate() {
            let row = row_shape(&port.dims, bucket);
            let axis = port.dims.iter().position(|d| *d == Dim::Sequence).map(|a| a - 1);
            let arrays = rows
                .iter()
                .map(|e| pick(base, ix, e).ok_or_else(|| Error::internal("an unchecked example")))
                .collect::<Result<Vec<_>>>()?;
            if axis == Some(0) && row.len() == 1 && mask.is_empty() && bucket.sequence > 0 {
                mask = sequence_mask(base, bucket, &rows, &arrays);
            }
            // A model of a fixed length says by its mask what was filled up.
            if axis.is_none() && row.len() == 1 && mask.is_empty() && port.name.contains("mask") {
                mask = arrays.iter().flat_map(|a| marked(a)).collect();
            }
            let shape = [&[bucket.batch][..], &row].concat();
            tensors.push(stack(&shape, axis, &arrays, port.element)?.into_tvalue());
        }
        Ok(Batch { tensors, mask })
    }
}

#[cfg(feature = "train")]
impl Batch {
    /// The batch of each row alone.
    pub fn rows(&self, rows: usize) -> Result<Vec<Batch>> {
        let len = self.mask.len() / rows.max(1);
        let parts = guarded(ErrorKind::Internal, "cannot take a batch apart", || frozen::rows(&self.tensors, rows))?;
        let row = |(i, tensors)| Batch { tensors, mask: self.mask[i * len..(i + 1) * len].to_vec() };
        Ok(parts.into_iter().enumerate().map(row).collect())
    }

    /// One batch of these rows.
    pub fn stack(rows: &[&Batch]) -> Result<Batch> {
        let parts: Vec<&[TValue]> = rows.iter().map(|r| &r.tensors[..]).collect();
        let tensors = guarded(ErrorKind::Internal, "cannot put a batch together", || frozen::stack(&parts))?;
        Ok(Batch { tensors, mask: rows.iter().flat_map(|r| r.mask.iter().copied()).collect() })
    }

    /// Size of the tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|t| t.len() * t.datum_type().size_of()).sum()
    }
}

/// From the attention mask when the model takes one, else from the lengths.
fn sequence_mask(base: &Base, bucket: &Bucket, rows: &[&Example], arrays: &[&NamedArray]) -> Vec<f32> {
    let by_name = base.inputs().iter().position(|p| p.name.contains("mask"));
    let mut mask = vec![0f32; bucket.batch * bucket.sequence];
    for (n, (row, array)) in rows.iter().zip(arrays).enumerate() {
        let out = &mut mask[n * bucket.sequence..(n + 1) * bucket.sequence];
        match by_name.and_then(|ix| pick(base, ix, row)).map(|a| &a.data) {
            Some(ArrayData::I64(m)) => out.iter_mut().zip(m).for_each(|(o, m)| *o = (*m != 0) as u8 as f32),
            _ => out.iter_mut().take(array.shape.first().copied().unwrap_or(0)).for_each(|o| *o = 1.0),
        }
    }
    mask
}

/// 1 where an integer mask is not 0.
fn marked(mask: &NamedArray) -> Vec<f32> {
    match &mask.data {
        ArrayData::I64(m) => m.iter().map(|m| f32::from(*m != 0)).collect(),
        _ => vec![],
    }
}

fn stack(shape: &[usize], axis: Option<usize>, rows: &[&NamedArray], element: Element) -> Result<Tensor> {
    let internal = |e: TractError| Error::internal("cannot build an input tensor").because(format!("{e:#}"));
    let row_len: usize = shape[1..].iter().product();
    /// Copies each row to its place; a shorter sequence leaves zeros behind it.
    fn fill<T: Copy + Default, S: Copy>(
        shape: &[usize],
        axis: Option<usize>,
        row_len: usize,
        rows: &[(&[usize], &[S])],
        to: impl Fn(S) -> T,
    ) -> Vec<T> {
        let mut out = vec![T::default(); shape.iter().product()];
        for (n, (row_shape, data)) in rows.iter().enumerate() {
            let target = &mut out[n * row_len..(n + 1) * row_len];
            match axis {
                Some(axis) if data.len() != row_len => {
                    let outer: usize = row_shape[..axis].iter().product();
                    let inner: usize = row_shape[axis + 1..].iter().product();
                    let (have, want) = (row_shape[axis] * inner, shape[axis + 1] * inner);
                    for o in 0..outer {
                        let from = &data[o * have..(o + 1) * have];
                        target[o * want..o * want + have].iter_mut().zip(from).for_each(|(t, f)| *t = to(*f));
                    }
                }
                _ => target.iter_mut().zip(data.iter()).for_each(|(t, f)| *t = to(*f)),
            }
        }
        out
    }
    macro_rules! rows_of {
        ($variant:ident) => {
            rows.iter()
                .map(|r| match &r.data {
                    ArrayData::$variant(v) => Ok((&r.shape[..], &v[..])),
                    _ => Err(Error::bad_data("the examples of a batch hold different types")),
                })
                .collect::<Result<Vec<_>>>()?
        };
    }
    macro_rules! tensor {
        ($variant:ident, $t:ty, $to:expr) => {
            Tensor::from_shape::<$t>(shape, &fill(shape, axis, row_len, &rows_of!($variant), $to)).map_err(internal)
        };
    }
    match (&rows[0].data, element) {
        (ArrayData::F32(_), Element::F32) => tensor!(F32, f32, |v| v),
        (ArrayData::I64(_), Element::I64) => tensor!(I64, i64, |v| v),
        (ArrayData::I64(_), Element::I32) => tensor!(I64, i32, |v| v as i32),
        (ArrayData::I64(_), Element::F32) => tensor!(I64, f32, |v| v as f32),
        (ArrayData::I64(_), Element::Bool) => tensor!(I64, bool, |v| v != 0),
        (ArrayData::U8(_), Element::F32) => tensor!(U8, f32, |v| v as f32),
        (ArrayData::U8(_), Element::I64) => tensor!(U8, i64, |v| v as i64),
        (ArrayData::U8(_), Element::Bool) => tensor!(U8, bool, |v| v != 0),
        (ArrayData::I32(_), Element::I64) => tensor!(I32, i64, |v| v as i64),
        (ArrayData::I32(_), Element::I32) => tensor!(I32, i32, |v| v),
        (ArrayData::I32(_), Element::F32) => tensor!(I32, f32, |v| v as f32),
        _ => Err(Error::bad_data(format!("the model takes {} and the example holds another type", element.name()))),
    }
}
