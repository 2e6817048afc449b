//! Whether padding changes a model's answers, found by trying.

use super::{Engine, Padding, Variant};
use crate::error::Result;
use crate::input::Example;

/// Largest difference of a feature or a score, relative to the largest of them, that is taken for rounding. Models that quantise their
/// activations by the values of a whole batch differ by a few thousandths.
const ROUNDING: f32 = 1e-2;

impl Engine {
    /// Whether padding with `pad_id` leaves the answers to `examples` as they are. What fails when it is padded does not.
    ///
    /// # Errors
    /// When an example does not run without padding.
    pub fn padding_works(&self, pad_id: i64, examples: &[Example]) -> Result<bool> {
        if self.base.mask().is_none() || !self.base.has_sequence() {
            return Ok(false);
        }
        let padding = Padding::Masked { pad_id };
        for example in examples {
            let exact = self.one_padded(&Variant::Base, example, Padding::Exact)?;
            let Ok(padded) = self.one_padded(&Variant::Base, example, padding) else { return Ok(false) };
            let logits = exact.logits.iter().flatten().zip(padded.logits.iter().flatten());
            if !close(exact.features.iter().zip(&padded.features)) || !close(logits) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn close<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> bool {
    let (mut largest, mut apart) = (f32::MIN_POSITIVE, 0f32);
    for (a, b) in pairs {
        largest = largest.max(a.abs());
        apart = apart.max((a - b).abs());
    }
    apart <= ROUNDING * largest
}
