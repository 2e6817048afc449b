//! Made-up inputs of the right shapes and ranges, for measuring and checking a model without data.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Base, Bucket, Dim, Element, Role};
use crate::error::{Error, Result};
use crate::input::{ArrayData, Example, NamedArray};

/// Indices stay below this when nothing in the graph tells the size of the table they look up.
const DEFAULT_VOCABULARY: i64 = 100;

impl Base {
    /// `bucket.batch` random examples: floats in ±1, indices below the size of the table that they index, masks of
    /// ones (with a padded tail in every second example), zero token types, positions from 0.
    pub fn random_examples(&self, bucket: &Bucket, seed: u64) -> Result<Vec<Example>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..bucket.batch).map(|n| self.random_example(bucket, n, &mut rng)).collect()
    }

    fn random_example(&self, bucket: &Bucket, n: usize, rng: &mut ChaCha8Rng) -> Result<Example> {
        let mut arrays = vec![];
        for (ix, port) in self.inputs.iter().enumerate() {
            let shape: Vec<usize> = port
                .dims
                .iter()
                .skip(1)
                .map(|d| match d {
                    Dim::Fixed(n) => Ok(*n),
                    Dim::Sequence => Ok(bucket.sequence),
                    Dim::Past => Ok(bucket.past),
                    Dim::Total => Ok(bucket.past + bucket.sequence),
                    Dim::Batch => Ok(bucket.batch),
                    Dim::Open(name) => {
                        let open = Error::unsupported(format!("the model leaves the dimension {name:?} open"));
                        Err(self.size_hint(open, bucket))
                    }
                })
                .collect::<Result<_>>()?;
            let count: usize = shape.iter().product();
            let data = match (self.roles[ix], port.element) {
                (_, Element::Other) => {
                    return Err(Error::unsupported(format!(
                        "the input {:?} has a type that cannot be generated",
                        port.name
                    )));
                }
                // A padded tail in every second example, so that masking is exercised.
                (Role::Mask, _) => {
                    let kept = if n % 2 == 1 { count.div_ceil(2) + count / 4 } else { count };
                    ArrayData::I64((0..count).map(|i| (i < kept) as i64).collect())
                }
                (Role::Types, _) => ArrayData::I64(vec![0; count]),
                (Role::Positions, _) => ArrayData::I64((0..count as i64).collect()),
                (Role::Ids | Role::Data, element) => match self.below(ix, bucket.sequence) {
                    Some(size) => ArrayData::I64((0..count).map(|_| rng.random_range(0..size)).collect()),
                    None if element.is_float() => {
                        ArrayData::F32((0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect())
                    }
                    None => ArrayData::I64(vec![0; count]),
                },
            };
            arrays.push(NamedArray { name: port.name.clone(), shape, data });
        }
        Ok(Example { arrays })
    }

    /// Values of input `ix` stay below this: the rows of the smallest table that they index, or what its type holds. None for floats and truths.
    fn below(&self, ix: usize, sequence: usize) -> Option<i64> {
        let rows = self.tables(ix).iter().filter_map(|t| t.least(sequence)).min();
        let held = || Some(self.inputs[ix].element.range()?.1.min(DEFAULT_VOCABULARY));
        rows.or_else(held).map(|size| size.max(1))
    }
}
