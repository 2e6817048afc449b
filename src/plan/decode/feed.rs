//! What a language model is fed with: token ids, which of them count, and their positions.

use tract_core::internal::*;

use crate::base::{Base, Bucket, Dim};
use crate::error::{Error, Result};
use crate::input::Role;

/// Where the tokens of a pass lie among its positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub bucket: &'a Bucket,
    /// Tokens in the cache.
    pub before: usize,
    /// The cache begins with them, and the new ones come behind them, instead of last.
    pub from_start: bool,
}

/// Fails where the model wants an input that nobody has.
pub(super) fn check(base: &Base) -> Result<()> {
    for (port, role) in base.inputs().iter().zip(base.roles()) {
        if *role == Role::Data {
            return Err(Error::unsupported(format!("the model has an input {:?}, which no text fills", port.name))
                .at(base.path().display())
                .hint("export it for text generation, with input_ids, attention_mask and position_ids"));
        }
    }
    match base.fixed_batch() {
        None | Some(1) => Ok(()),
        Some(n) => Err(Error::unsupported(format!("the model reads {n} texts at a time, and one is generated"))
            .at(base.path().display())
            .hint("export it with a batch that is left open")),
    }
}

/// The model's own inputs for `tokens`, in order; what is left of the bucket is padding on the right.
pub(super) fn inputs(base: &Base, model_inputs: &[TypedFact], tokens: &[u32], at: Places) -> TractResult<Vec<TValue>> {
    let Places { bucket, before, from_start } = at;
    let length = |d: &Dim| match d {
        Dim::Total => bucket.past + bucket.sequence,
        _ => bucket.sequence,
    };
    let counts = |slot: usize, total: usize| match slot.checked_sub(total - bucket.sequence) {
        _ if from_start => slot < before + tokens.len(),
        Some(new) => new < tokens.len(),
        None => slot >= total - bucket.sequence - before,
    };
    let last = tokens.last().copied().unwrap_or_default();
    base.inputs()
        .iter()
        .zip(base.roles())
        .zip(model_inputs)
        .map(|((port, role), fact)| {
            let count = port.dims.get(1).map_or(1, length);
            let value = |slot: usize| match role {
                Role::Ids => i64::from(tokens.get(slot).copied().unwrap_or(last)),
                // Padding stays within the table of positions.
                Role::Positions => (before + slot.min(tokens.len().saturating_sub(1))) as i64,
                Role::Mask => counts(slot, count).into(),
                _ => 0,
            };
            let values: Vec<i64> = (0..count).map(value).collect();
            Ok(Tensor::from_shape(&[1, count], &values)?.cast_to_dt(fact.datum_type)?.into_owned().into_tvalue())
        })
        .collect()
}
