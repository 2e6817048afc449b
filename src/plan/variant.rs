//! Which of the possible forward passes is run.

use super::cache::{PlanCache, limit};
use super::decode_plans::DecodePlans;
use super::{Factors, ForwardPlan, SiteKey};
use crate::adapter::SiteDelta;
use crate::base::{Base, Bucket};

/// Plans with merged weights that are kept: each has weights of its own.
const MERGED_PLANS: usize = 8;

/// Which forward pass to run.
#[derive(Clone, Copy)]
pub(crate) enum Variant<'a> {
    /// The base as it is.
    Base,
    /// With low-rank inputs.
    Adapted(&'a SiteKey, &'a Factors),
    /// With deltas merged into the weights.
    Merged(&'a Merged),
}

/// Deltas with the plans that hold them in their weights: both belong to one adapter of one profile, and go with it.
pub(crate) struct Merged {
    pub(super) deltas: Vec<SiteDelta>,
    pub(super) forward: PlanCache<Bucket, ForwardPlan>,
    pub(super) decode: DecodePlans,
}

impl Merged {
    pub fn new(base: &Base, deltas: Vec<SiteDelta>) -> Merged {
        Merged {
            deltas,
            forward: PlanCache::new(limit(base, MERGED_PLANS), ForwardPlan::bytes),
            decode: DecodePlans::new(base),
        }
    }
}
