//! Plans of a language model up to the hidden state of a token, as they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tract_core::internal::*;

use super::SiteKey;
use super::cache::{PlanCache, limit};
use super::compiled::Compiled;
use super::on_gpu::fuse;
use crate::base::{Base, Bucket, guarded};
use crate::error::{ErrorKind, Result};

/// Block and step plans that are kept.
pub(super) const PLANS: usize = 12;

/// The plans up to the hidden state, by the sites that have low-rank inputs.
pub(super) struct DecodePlans {
    pub blocks: PlanCache<(SiteKey, Bucket), Plan>,
    pub steps: PlanCache<(SiteKey, usize), Step>,
}

impl DecodePlans {
    pub fn new(base: &Base) -> DecodePlans {
        DecodePlans {
            blocks: PlanCache::new(limit(base, PLANS), Plan::bytes),
            steps: PlanCache::new(limit(base, PLANS), |step| step.plan.as_ref().map_or(0, Plan::bytes)),
        }
    }
}

/// What is known of a way to run the model once it was compared with another one.
#[derive(Default)]
pub(super) struct Tried(AtomicU8);

impl Tried {
    const YES: u8 = 1;
    /// Final, whatever another thread finds.
    const NO: u8 = 2;

    pub fn known(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            Tried::NO => Some(false),
            Tried::YES => Some(true),
            _ => None,
        }
    }

    pub fn set(&self, works: bool) {
        self.0.fetch_max(if works { Tried::YES } else { Tried::NO }, Ordering::Relaxed);
    }
}

pub(super) struct Plan {
    plan: Arc<Compiled>,
    pub inputs: Vec<TypedFact>,
}

/// The plan of a step, where there can be one, and whether it answers as a block does.
pub(super) struct Step {
    pub plan: Option<Plan>,
    pub in_place: Tried,
}

impl Plan {
    pub fn new(base: &Base, mut model: TypedModel, what: &'static str) -> Result<Plan> {
        let inputs = guarded(ErrorKind::Internal, "cannot fuse operators", || {
            fuse(base, &mut model)?;
            (0..model.inputs.len()).map(|ix| model.input_fact(ix).cloned()).collect()
        })?;
        Ok(Plan { plan: Compiled::new(base, model, what)?, inputs })
    }

    pub fn bytes(&self) -> u64 {
        self.plan.bytes()
    }

    pub fn run(&self, inputs: Vec<TValue>) -> TractResult<TVec<TValue>> {
        self.plan.state()?.run(inputs.into())
    }
}
