//! A narrow weight in the place of a product's operand.

use tract_core::internal::Arc;

use crate::ops::Packed;

/// A narrow weight in the place of an operand.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub weight: Arc<Packed>,
    /// Whether it stands for the left operand.
    pub left: bool,
}

impl PartialEq for Operand {
    fn eq(&self, other: &Operand) -> bool {
        self.left == other.left && (Arc::ptr_eq(&self.weight, &other.weight) || self.weight == other.weight)
    }
}

impl Eq for Operand {}
