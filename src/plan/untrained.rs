//! What a build without training has in the place of its plans.

use crate::base::Base;

/// None.
pub(super) struct TrainPlans;

impl TrainPlans {
    pub fn new(_: &Base) -> TrainPlans {
        TrainPlans
    }
}
