//! Examples put together into the tensors of one run.

use tract_core::internal::*;

use super::{Padding, convert};
use crate::base::{Base, Bucket, Dim, Element, Port};
use crate::error::{Error, Result};
use crate::input::{ArrayData, ElementType, Example, NamedArray};

/// The inputs of one run.
#[derive(Clone)]
pub(crate) struct Batch {
    pub tensors: Vec<TValue>,
    /// `[batch, sequence]`, 1 where a position holds a token and 0 where it is padding; empty when the model has neither a mask nor an open
    /// sequence.
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
                Dim::Sequence | Dim::Total => have <= want,
                _ => have == want,
            });
        if !fits {
            let shown: Vec<String> = port.dims[1..].iter().map(Dim::to_string).collect();
            return Err(Error::bad_data(format!("an example has shape {:?}", array.shape))
                .because(format!("the model's input {:?} takes [{}]", port.name, shown.join(", ")))
                .hint("give one example per input, without a batch dimension"));
        }
        convert::check(port, array)?;
        indices(base, ix, array, bucket.sequence)?;
    }
    Ok(())
}

/// Values that index a table stay within it.
fn indices(base: &Base, ix: usize, array: &NamedArray, sequence: usize) -> Result<()> {
    let tables = base.tables(ix);
    if tables.is_empty() {
        return Ok(());
    }
    let whole = array.data.cast(ElementType::I64)?;
    let ArrayData::I64(values) = &whole else { return Err(Error::internal("integers of another type")) };
    tables.iter().try_for_each(|t| t.check(&base.inputs()[ix].name, values, &array.shape, sequence))
}

fn row_shape(dims: &[Dim], bucket: &Bucket) -> Vec<usize> {
    let size = |d: &Dim| match d {
        Dim::Fixed(n) => *n,
        Dim::Sequence => bucket.sequence,
        Dim::Past => bucket.past,
        Dim::Total => bucket.past + bucket.sequence,
        Dim::Batch => bucket.batch,
        Dim::Open(_) => 0,
    };
    dims.iter().skip(1).map(size).collect()
}

impl Batch {
    /// Puts `examples` (at most the bucket's batch, already checked) together; a short batch repeats its last example. Where a sequence is
    /// shorter than the bucket's, it is padded as `padding` says.
    pub fn new(base: &Base, bucket: &Bucket, examples: &[&Example], padding: Padding) -> Result<Batch> {
        let Some(last) = examples.last() else { return Err(Error::internal("a batch without examples")) };
        if examples.len() > bucket.batch {
            return Err(Error::internal("a batch larger than its plan"));
        }
        let rows: Vec<&Example> = examples.iter().copied().chain(std::iter::repeat(*last)).take(bucket.batch).collect();
        let mut tensors = Vec::with_capacity(base.inputs().len());
        let mut all = Vec::with_capacity(base.inputs().len());
        for (ix, port) in base.inputs().iter().enumerate() {
            let shape = [&[bucket.batch][..], &row_shape(&port.dims, bucket)].concat();
            let arrays = rows
                .iter()
                .map(|e| pick(base, ix, e).ok_or_else(|| Error::internal("an unchecked example")))
                .collect::<Result<Vec<_>>>()?;
            let axis = port.dims.iter().position(|d| matches!(d, Dim::Sequence | Dim::Total));
            let stacked = stack(&shape, axis, &arrays, port.element, padding.filler(base.roles()[ix]))?;
            tensors.push(convert::tensor(&shape, stacked, port.element)?.into_tvalue());
            all.push(arrays);
        }
        Ok(Batch { tensors, mask: mask(base, bucket, &all)? })
    }
}

/// See [`Batch::mask`]: from the model's mask where it takes one, else from the lengths of the examples.
fn mask(base: &Base, bucket: &Bucket, inputs: &[Vec<&NamedArray>]) -> Result<Vec<f32>> {
    let is_sequence = |p: &Port| p.dims.len() == 2 && p.dims[1] == Dim::Sequence;
    let by_mask = base.mask();
    let Some(ix) = by_mask.or_else(|| base.inputs().iter().position(is_sequence)) else { return Ok(vec![]) };
    let length = match base.inputs()[ix].dims.get(1) {
        Some(Dim::Fixed(n)) => *n,
        _ => bucket.sequence,
    };
    let mut mask = vec![0f32; bucket.batch * length];
    for (row, array) in mask.chunks_exact_mut(length.max(1)).zip(&inputs[ix]) {
        match by_mask {
            Some(_) => row.iter_mut().zip(array.data.to_f32()).for_each(|(m, v)| *m = f32::from(v != 0.0)),
            None => row.iter_mut().take(array.data.len()).for_each(|m| *m = 1.0),
        }
    }
    Ok(mask)
}

/// The rows of an input one after the other, each to its length along `axis`; a shorter sequence is padded with `filler`.
///
/// # Errors
/// When it is shorter, and there is no filler: a fault of who made the bucket.
fn stack(
    shape: &[usize],
    axis: Option<usize>,
    rows: &[&NamedArray],
    element: Element,
    filler: Option<i64>,
) -> Result<ArrayData> {
    let carried = rows.iter().map(|r| convert::carried(&r.data, element)).collect::<Result<Vec<_>>>()?;
    let short = axis.is_some_and(|axis| rows.iter().any(|r| r.shape.get(axis - 1) != Some(&shape[axis])));
    let filler = match (filler, short) {
        (None, true) => return Err(Error::internal("examples of several lengths in a batch that is not padded")),
        (filler, _) => filler.unwrap_or(0),
    };
    macro_rules! joined {
        ($variant:ident, $filler:expr) => {{
            let mut out = vec![$filler; shape.iter().product()];
            let row_len: usize = shape[1..].iter().product();
            for ((target, row), data) in out.chunks_exact_mut(row_len.max(1)).zip(rows).zip(&carried) {
                if let ArrayData::$variant(data) = &**data {
                    lay(target, data, &row.shape, axis.map(|axis| (axis - 1, shape[axis])));
                }
            }
            ArrayData::$variant(out)
        }};
    }
    Ok(if element.is_float() { joined!(F32, filler as f32) } else { joined!(I64, filler) })
}

/// Copies a row of `shape` to `target`, which has `along.1` places along the axis `along.0`; what the row does not reach stays as it is.
fn lay<T: Copy>(target: &mut [T], data: &[T], shape: &[usize], along: Option<(usize, usize)>) {
    let Some((axis, wanted)) = along else { return target.copy_from_slice(data) };
    let inner: usize = shape[axis + 1..].iter().product();
    let (have, want) = (shape[axis] * inner, wanted * inner);
    for (target, from) in target.chunks_exact_mut(want.max(1)).zip(data.chunks_exact(have.max(1))) {
        target[..have].copy_from_slice(from);
    }
}
