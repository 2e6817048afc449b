//! Made-up inputs of the right shapes and ranges, for measuring and checking a model without data.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Base, Bucket, Dim, Element, OnnxNode};
use crate::error::{Error, Result};
use crate::input::{ArrayData, Example, NamedArray};

/// Indices stay below this when nothing in the graph tells the size of the table they look up.
const DEFAULT_VOCABULARY: usize = 100;

impl Base {
    /// `bucket.batch` random examples: floats in ±1, token ids below the size of the embedding table that they index, masks
    /// of ones (with a padded tail in every second example), zero token types.
    pub fn random_examples(&self, bucket: &Bucket, seed: u64) -> Result<Vec<Example>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..bucket.batch).map(|n| self.random_example(bucket, n, &mut rng)).collect()
    }

    fn random_example(&self, bucket: &Bucket, n: usize, rng: &mut ChaCha8Rng) -> Result<Example> {
        let mut arrays = vec![];
        for port in &self.inputs {
            let shape: Vec<usize> = port
                .dims
                .iter()
                .skip(1)
                .map(|d| match d {
                    Dim::Fixed(n) => Ok(*n),
                    Dim::Sequence => Ok(bucket.sequence),
                    Dim::Batch => Ok(bucket.batch),
                    Dim::Open(name) => {
                        let open = Error::unsupported(format!("the model leaves the dimension {name:?} open"));
                        Err(self.size_hint(open, bucket))
                    }
                })
                .collect::<Result<_>>()?;
            let count: usize = shape.iter().product();
            let name = port.name.to_lowercase();
            let data = match port.element {
                Element::F32 => ArrayData::F32((0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()),
                Element::I64 | Element::I32 | Element::Bool => ArrayData::I64(if name.contains("mask") {
                    // A padded tail in every second example, so that masking is exercised.
                    let kept = if n % 2 == 1 { count.div_ceil(2) + count / 4 } else { count };
                    (0..count).map(|i| (i < kept) as i64).collect()
                } else if name.contains("type") || port.element == Element::Bool {
                    vec![0; count]
                } else if name.contains("position") {
                    (0..count as i64).collect()
                } else {
                    let size = self.table_size(&port.name) as i64;
                    (0..count).map(|_| rng.random_range(0..size)).collect()
                }),
                Element::Other => {
                    return Err(Error::unsupported(format!(
                        "the input {:?} has a type that cannot be made up",
                        port.name
                    )));
                }
            };
            arrays.push(NamedArray { name: port.name.clone(), shape, data });
        }
        Ok(Example { arrays })
    }

    /// Rows of the smallest table that the values of `input` index.
    fn table_size(&self, input: &str) -> usize {
        // The values pass unchanged through these.
        const SAME: &[&str] = &["Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten"];
        let mut names = vec![input];
        for node in &self.onnx.nodes {
            if SAME.contains(&node.op.as_str()) && node.inputs.first().is_some_and(|i| names.contains(&i.as_str())) {
                names.extend(node.outputs.iter().map(String::as_str));
            }
        }
        let looks_up = |n: &&OnnxNode| n.op == "Gather" && n.inputs.get(1).is_some_and(|i| names.contains(&i.as_str()));
        let rows = self.onnx.nodes.iter().filter(looks_up);
        let sizes = rows.filter_map(|n| self.stored_rows(&n.inputs[0]));
        sizes.min().unwrap_or(DEFAULT_VOCABULARY).max(1)
    }

    /// Rows of a stored table, also of one that is dequantised first.
    fn stored_rows(&self, table: &str) -> Option<usize> {
        const FROM_STORED: &[&str] = &["DequantizeLinear", "Cast", "Sub", "Mul", "Identity"];
        let mut name = table;
        // A graph without cycles ends.
        loop {
            if let Some(shape) = self.onnx.initializers.get(name) {
                return shape.first().copied();
            }
            let writes = |n: &&OnnxNode| n.outputs.iter().any(|o| o == name) && FROM_STORED.contains(&n.op.as_str());
            name = self.onnx.nodes.iter().find(writes)?.inputs.first()?;
        }
    }
}
