//! The training plans of an engine.

use std::sync::Arc;

use super::SiteKey;
use super::cache::{PlanCache, limit};
use super::engine::Engine;
use super::train::{Keeps, TrainPlan, Trains};
use crate::base::{Base, Bucket};
use crate::error::Result;

/// Training plans that are kept, all of the same sites: as many lengths.
const TRAIN_PLANS: usize = 16;

/// Those that are compiled.
pub(super) struct TrainPlans(PlanCache<(SiteKey, (Trains, Keeps), Bucket), TrainPlan>);

impl TrainPlans {
    pub fn new(base: &Base) -> TrainPlans {
        TrainPlans(PlanCache::new(limit(base, TRAIN_PLANS), TrainPlan::bytes))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Engine {
    /// The plan that trains these factors of `sites` at `bucket`. Those of other sites go, unless somebody trains with
    /// them.
    pub fn train_plan(&self, sites: &SiteKey, way: (Trains, Keeps), bucket: &Bucket) -> Result<Arc<TrainPlan>> {
        self.train.0.retain(|(others, of, _)| others == sites && *of == way);
        self.train.0.get((sites.clone(), way, bucket.clone()), || {
            TrainPlan::of_factors(&self.base, self.ends, bucket, sites, way, true)
        })
    }

    /// Forgets the training plans that nobody uses: they hold packed weights of their own.
    pub fn drop_train_plans(&self) {
        self.train.0.retain(|_| false);
    }
}
