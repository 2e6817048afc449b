//! A concrete graph of a few examples, on which a model's end is looked at and, where its operators do not tell, tried.

use tract_core::internal::*;

use super::walk::shape;
use crate::base::{Base, Bucket, Dim, Port, guarded};
use crate::error::{ErrorKind, Result};
use crate::input::{ArrayData, Example, NamedArray};

/// Examples of a trial, and of the second one that tells which axis follows their number. No axis is likely to be as
/// long.
const EXAMPLES: usize = 3;
const OTHER: usize = 5;
/// Positions of a model with sequences, or as many as it takes.
const POSITIONS: usize = 16;
/// How far the sum of an example's probabilities may be from one: what eight bits a number leave of it.
const SUM: f32 = 2e-2;

pub(super) struct Trial {
    pub model: TypedModel,
    pub bucket: Bucket,
}

impl Trial {
    pub fn of(base: &Base) -> Result<Trial> {
        let sequence = base.longest(1, POSITIONS).unwrap_or(POSITIONS);
        let at = |batch| {
            let bucket = base.bucket(batch, sequence);
            base.concrete(&bucket).map(|model| Trial { model, bucket })
        };
        // A model whose batch is baked in may still be known at one example.
        at(EXAMPLES).or_else(|e| at(1).map_err(|_| e))
    }

    /// The axis of `output` that follows the number of examples, where there is exactly one.
    pub fn batch_axis(&self, base: &Base, output: usize, port: &Port) -> Option<usize> {
        let shape = shape(&self.model, *self.model.outputs.get(output)?)?;
        let batch = self.bucket.batch;
        if port.dims.first() == Some(&Dim::Batch) && shape.first() == Some(&batch) {
            return Some(0);
        }
        let long: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] == batch).collect();
        if base.fixed_batch().is_some() || batch == 1 {
            // Nothing to try: the leading axis, or the only one that may be it.
            return match long[..] {
                [0, ..] => Some(0),
                [only] if shape.len() == 3 => Some(only),
                _ => None,
            };
        }
        let other = base.concrete(&base.bucket(OTHER, self.bucket.sequence)).ok()?;
        let moved = self::shape(&other, *other.outputs.get(output)?)?;
        let follows: Vec<usize> = long.into_iter().filter(|&axis| moved.get(axis) == Some(&OTHER)).collect();
        let rest = |s: &[usize], axis: usize| [&s[..axis], &s[axis + 1..]].concat();
        match follows[..] {
            [axis] if rest(&shape, axis) == rest(&moved, axis) => Some(axis),
            _ => None,
        }
    }

    /// The values of `outlet` for some random examples, a row an example; none where such cannot be made, or not be
    /// run.
    pub fn rows(&self, base: &Base, outlet: OutletId) -> Vec<Vec<f32>> {
        (0..2).filter_map(|seed| self.values(base, outlet, seed)).flatten().collect()
    }

    fn values(&self, base: &Base, outlet: OutletId, seed: u64) -> Option<Vec<Vec<f32>>> {
        self.values_of(&base.random_examples(&self.bucket, seed).ok()?, outlet)
    }

    /// The values of `outlet` for as many examples as the bucket has, a row an example; none where they cannot be run.
    pub fn values_of(&self, examples: &[Example], outlet: OutletId) -> Option<Vec<Vec<f32>>> {
        let run = || -> TractResult<Vec<Vec<f32>>> {
            let mut model = self.model.clone();
            model.select_output_outlets(&[outlet])?;
            crate::ops::hold_strides(&mut model)?;
            let inputs: TVec<TValue> = (0..model.inputs.len())
                .map(|ix| {
                    let fact = model.input_fact(ix)?;
                    let shape = fact.shape.as_concrete().context("an input of no definite shape")?;
                    Ok(stack(examples, ix, shape)?.cast_to_dt(fact.datum_type)?.into_owned().into_tvalue())
                })
                .collect::<TractResult<_>>()?;
            let values = model.into_optimized()?.into_runnable()?.run(inputs)?.remove(0);
            let values = values.cast_to::<f32>()?.into_owned();
            let plain = values.try_as_plain_ram()?;
            let width = (values.len() / self.bucket.batch).max(1);
            Ok(plain.as_slice::<f32>()?.chunks(width).map(<[f32]>::to_vec).collect())
        };
        guarded(ErrorKind::Internal, "the trial failed", run).ok()
    }
}

/// The arrays of all examples for one input.
fn stack(examples: &[Example], input: usize, shape: &[usize]) -> TractResult<Tensor> {
    let arrays: Vec<&NamedArray> = examples.iter().filter_map(|e| e.arrays.get(input)).collect();
    macro_rules! stacked {
        ($variant:ident) => {{
            let mut all = vec![];
            for array in &arrays {
                match &array.data {
                    ArrayData::$variant(values) => all.extend_from_slice(values),
                    _ => bail!("the examples hold different types"),
                }
            }
            Tensor::from_shape(shape, &all)
        }};
    }
    match arrays.first().map(|a| &a.data) {
        Some(ArrayData::F32(_)) => stacked!(F32),
        Some(ArrayData::I64(_)) => stacked!(I64),
        _ => bail!("an input that no array was made for"),
    }
}

/// Whether rows are probabilities of classes that exclude each other.
pub(super) fn sum_to_one(rows: &[Vec<f32>]) -> bool {
    let one = |row: &Vec<f32>| {
        (row.iter().sum::<f32>() - 1.0).abs() <= SUM && row.iter().all(|p| (-1e-4..=1.0 + SUM).contains(p))
    };
    !rows.is_empty() && rows.iter().all(one)
}

/// Whether all numbers may be probabilities.
pub(super) fn within_one(rows: &[Vec<f32>]) -> bool {
    !rows.is_empty() && rows.iter().flatten().all(|p| (0.0..=1.0).contains(p))
}
