//! Whether sequences of different lengths may share a plan and a batch.
//!
//! Padding changes no answer only where the model's mask keeps everything from it: attention, means, convolutions, recurrent states and the
//! search for the last token. A mask among the inputs does not show that, so it is found by trying, once, when a home is made
//! (`padding_trial`). Without a mask nothing is ever padded.

use crate::input::Role;

/// How sequences of different lengths become one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// They do not: every length has a plan of its own, and only equal lengths share a batch.
    Exact,
    /// To the length of the bucket: the mask is 0 there, and this token stands in the place of the missing ones.
    Masked { pad_id: i64 },
}

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
