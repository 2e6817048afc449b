//! Whether sequences of different lengths may share a plan and a batch.
//!
//! Padding changes no answer only where the model's mask keeps everything from it: attention, means, convolutions, recurrent states and the
//! search for the last token. A mask among the inputs does not show that, so it is found by trying, once, when a home is made
//! ([`Engine::padding_works`]). Without a mask nothing is ever padded.

use super::{Engine, Variant};
use crate::error::Result;
use crate::input::Example;
use crate::input::Role;

/// How sequences of different lengths become one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// They do not: every length has a plan of its own, and only equal lengths share a batch.
    Exact,
    /// To the length of the bucket: the mask is 0 there, and this token stands in the place of the missing ones.
    Masked { pad_id: i64 },
}

/// Largest difference of a feature or a score, relative to the largest of them, that is taken for rounding. Models that quantise their
/// activations by the values of a whole batch differ by a few thousandths.
const ROUNDING: f32 = 1e-2;

impl Padding {
    /// What stands behind the end of a shorter sequence in an input of this role; `None` where nothing may.
    pub fn filler(self, role: Role) -> Option<i64> {
        match (self, role) {
            (Padding::Exact, _) => None,
            (Padding::Masked { pad_id }, Role::Ids) => Some(pad_id),
            (Padding::Masked { .. }, _) => Some(0),
        }
    }
}

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
