//! Low-rank factors that a fit lends to the passes of a step.

use std::sync::Arc;

use tract_core::internal::*;

use super::{Factors, odd};
use crate::adapter::SiteDelta;
use crate::error::Result;
use crate::sites::SharedFactor;

/// Factors that have the values of deltas for as long as they live: none are copied.
pub(crate) struct LentFactors {
    pub factors: Factors,
    /// `A` and `B` of every delta.
    values: Vec<Arc<Vec<f32>>>,
}

impl LentFactors {
    /// Takes the values out of deltas in plan order.
    pub fn of(deltas: &mut [SiteDelta]) -> Result<LentFactors> {
        let (mut factors, mut values) = (vec![], vec![]);
        for delta in deltas {
            let scale = delta.scale();
            for (factor, scale) in [(&mut delta.a, 1.0), (&mut delta.b, scale)] {
                let taken = Arc::new(std::mem::take(&mut factor.data));
                let tensor = SharedFactor::in_memory(&taken, &factor.shape, scale).map_err(odd)?;
                factors.push(tensor.into_arc_tensor().into_tvalue());
                values.push(taken);
            }
        }
        Ok(LentFactors { factors: Factors(factors), values })
    }

    /// Puts them back.
    pub fn give_back(self, deltas: &mut [SiteDelta]) {
        drop(self.factors);
        let factors = deltas.iter_mut().flat_map(|delta| [&mut delta.a, &mut delta.b]);
        for (factor, values) in factors.zip(self.values) {
            factor.data = Arc::try_unwrap(values).unwrap_or_else(|shared| shared.to_vec());
        }
    }
}
