//! Prediction: the base alone, with low-rank inputs (swap at once), or with merged weights (no cost per prediction).

use std::sync::Arc;

use ndarray::ArrayD;
use tract_core::internal::*;

use super::compiled::Compiled;
use super::graph::{Deltas, Ends, adapted};
use super::on_gpu::fuse;
use super::{Batch, Factors, Outputs, array, tail_outputs};
use crate::base::{Base, Bucket, guarded};
use crate::error::{ErrorKind, Result};

/// A compiled forward pass for one bucket; shared by any number of threads.
pub(crate) struct ForwardPlan {
    plan: Arc<Compiled>,
    logits: Option<usize>,
    factors: usize,
}

impl ForwardPlan {
    pub fn new(base: &Base, ends: Ends, bucket: &Bucket, deltas: &Deltas) -> Result<ForwardPlan> {
        let mut graph = adapted(base, ends, bucket, deltas)?;
        guarded(ErrorKind::Internal, "cannot fuse operators", || fuse(base, &mut graph.model))?;
        let factors = graph.model.inputs.len() - graph.own_inputs;
        let plan = Compiled::new(base, graph.model, "forward")?;
        Ok(ForwardPlan { plan, logits: graph.logits, factors })
    }

    /// Bytes of weights that are laid out for this plan alone.
    pub fn bytes(&self) -> u64 {
        self.plan.bytes()
    }

    /// Runs one batch; `factors` are in the plan's site order, empty for a plan without low-rank inputs.
    pub fn run(&self, batch: &Batch, factors: &Factors) -> Result<Outputs> {
        self.run_all(batch, factors).and_then(|values| tail_outputs(values, self.logits))
    }

    /// [`ForwardPlan::run`], with the outputs as they are.
    pub fn run_all(&self, batch: &Batch, factors: &Factors) -> Result<Vec<ArrayD<f32>>> {
        guarded(ErrorKind::Internal, "the forward pass failed", || {
            ensure!(factors.0.len() == self.factors, "{} factors for a plan of {}", factors.0.len(), self.factors);
            let inputs: TVec<TValue> = batch.tensors.iter().chain(&factors.0).cloned().collect();
            let values = self.plan.state()?.run(inputs)?;
            values.iter().map(array).collect()
        })
    }
}
