//! One training micro-batch: a forward plan that saves what the backward plan reads.

use std::sync::Arc;

use ndarray::{Array2, ArrayD};
use tract_core::internal::*;

use super::compiled::{Compiled, State};
use super::graph::{Deltas, Ends, adapted};
use super::{Batch, Factors, Outputs, array, tail_outputs};
use crate::base::{Base, Bucket, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::grad::{Blocked, differentiate};
use crate::sites::Site;

/// Where an input of the backward plan comes from.
#[derive(Debug, Clone, Copy)]
enum Feed {
    Output(usize),
    Input(usize),
}

/// Cotangents of the outputs of one forward pass.
pub(crate) struct Cotangents {
    /// Shape of the features.
    pub features: ArrayD<f32>,
    /// Shape of the logits.
    pub logits: Option<Array2<f32>>,
}

/// Compiled plans for training at one bucket; shared by the workers.
pub(crate) struct TrainPlan {
    forward: Arc<Compiled>,
    backward: Arc<Compiled>,
    feed: Vec<Feed>,
    /// Number of leading outputs that are results; the rest is saved for the backward pass.
    ends: usize,
    logits: Option<usize>,
    /// Sites in plan order with their rank.
    pub sites: Vec<(Site, usize)>,
}

/// Result of taking gradients apart from compiling: which sites can be reached.
pub(crate) struct Reach {
    pub reachable: Vec<String>,
    pub blocked: Vec<Blocked>,
    pub saved_bytes: usize,
}

struct Built {
    forward: TypedModel,
    backward: TypedModel,
    feed: Vec<Feed>,
    ends: usize,
    logits: Option<usize>,
    sites: Vec<(Site, usize)>,
    saved_bytes: usize,
    blocked: Vec<Blocked>,
    obstructed: Vec<bool>,
}

fn build(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)], fused: bool) -> Result<Built> {
    let graph = adapted(base, ends, bucket, &Deltas::Inputs(sites))?;
    let mut forward = graph.model;
    let what = format!("cannot differentiate {}", base.path().display());
    guarded(ErrorKind::UnsupportedModel, what, || {
        if fused {
            crate::ops::fuse(&mut forward)?;
        }
        let wrt: Vec<OutletId> = forward.inputs[graph.own_inputs..].to_vec();
        let ends = forward.outputs.clone();
        let back = differentiate(&forward, &ends, &wrt, fused)?;
        let mut feed = vec![];
        let mut saved_bytes = 0;
        for outlet in &back.saved {
            if let Some(ix) = forward.inputs.iter().position(|i| i == outlet) {
                feed.push(Feed::Input(ix));
                continue;
            }
            let ix = forward.outputs.iter().position(|o| o == outlet).unwrap_or_else(|| {
                forward.outputs.push(*outlet);
                forward.outputs.len() - 1
            });
            let fact = forward.outlet_fact(*outlet)?;
            saved_bytes += fact.shape.volume().to_usize().unwrap_or(0) * fact.datum_type.size_of();
            feed.push(Feed::Output(ix));
        }
        let mut backward = back.model;
        backward.declutter()?;
        Ok(Built {
            forward,
            backward,
            feed,
            ends: ends.len(),
            logits: graph.logits,
            sites: graph.sites,
            saved_bytes,
            blocked: back.blocked,
            obstructed: back.obstructed,
        })
    })
}

impl TrainPlan {
    /// Differentiates without compiling: which of `sites` a gradient reaches, and what stands in the way of the others.
    pub fn reach(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)]) -> Result<Reach> {
        let built = build(base, ends, bucket, sites, true)?;
        let names =
            built.sites.iter().enumerate().filter(|(i, _)| !built.obstructed[2 * i]).map(|(_, (s, _))| s.name.clone());
        Ok(Reach { reachable: names.collect(), blocked: built.blocked, saved_bytes: built.saved_bytes })
    }

    /// Compiles the plans for `sites`; `fused` chooses the fused backward operators (the composed ones are the reference).
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedModel`] naming the first node between a site and the output that has no gradient.
    pub fn new(base: &Base, ends: Ends, bucket: &Bucket, sites: &[(String, usize)], fused: bool) -> Result<TrainPlan> {
        let built = build(base, ends, bucket, sites, fused)?;
        if let Some(at) = built.obstructed.iter().position(|o| *o) {
            let site = &built.sites[at / 2].0.name;
            let first = built.blocked.first();
            let place = first.map_or_else(String::new, |b| format!("{} ({})", b.node, b.op));
            let reason = first.map_or_else(String::new, |b| b.reason.clone());
            return Err(Error::unsupported(format!("no gradient reaches the site {site}"))
                .at(place)
                .because(reason)
                .hint("sites after that node still train: choose them with --sites, or leave the choice to `acclimate init`"));
        }
        Ok(TrainPlan {
            forward: Compiled::new(built.forward, "training forward")?,
            backward: Compiled::new(built.backward, "backward")?,
            feed: built.feed,
            ends: built.ends,
            logits: built.logits,
            sites: built.sites,
        })
    }

    /// A worker with its own run states; one a thread.
    pub fn worker(self: &Arc<Self>) -> Result<Worker> {
        guarded(ErrorKind::Internal, "cannot start a worker", || {
            Ok(Worker { forward: self.forward.state()?, backward: self.backward.state()?, plan: self.clone() })
        })
    }
}

/// Runs micro-batches on one thread.
pub(crate) struct Worker {
    plan: Arc<TrainPlan>,
    forward: State,
    backward: State,
}

/// What a forward pass left for its backward one.
pub(crate) struct Tape {
    saved: Vec<TValue>,
}

impl Worker {
    /// Forward pass of one micro-batch.
    pub fn forward(&mut self, batch: &Batch, factors: &Factors) -> Result<(Outputs, Tape)> {
        let (values, tape) = self.forward_all(batch, factors)?;
        Ok((tail_outputs(values, self.plan.logits)?, tape))
    }

    /// [`Worker::forward`], with the outputs as they are.
    pub fn forward_all(&mut self, batch: &Batch, factors: &Factors) -> Result<(Vec<ArrayD<f32>>, Tape)> {
        let plan = &self.plan;
        guarded(ErrorKind::Internal, "the forward pass failed", || {
            let inputs: TVec<TValue> = batch.tensors.iter().chain(&factors.0).cloned().collect();
            let values = self.forward.run(inputs.clone())?;
            let ends = values[..plan.ends].iter().map(array).collect::<TractResult<_>>()?;
            let pick = |f: &Feed| match f {
                Feed::Output(ix) => values[*ix].clone(),
                Feed::Input(ix) => inputs[*ix].clone(),
            };
            Ok((ends, Tape { saved: plan.feed.iter().map(pick).collect() }))
        })
    }

    /// Gradients of `A` and `s·B` of every site, in plan order, from the cotangents of the outputs.
    pub fn backward(&mut self, tape: Tape, cotangents: Cotangents) -> Result<Vec<Vec<f32>>> {
        let features = cotangents.features;
        match (cotangents.logits, self.plan.logits) {
            // The features are the logits: one output carries both cotangents.
            (Some(l), Some(0)) => self.backward_all(tape, vec![features + l.into_dyn()]),
            (Some(l), Some(_)) => self.backward_all(tape, vec![features, l.into_dyn()]),
            _ => self.backward_all(tape, vec![features]),
        }
    }

    /// [`Worker::backward`], with one cotangent an output.
    pub fn backward_all(&mut self, tape: Tape, cotangents: Vec<ArrayD<f32>>) -> Result<Vec<Vec<f32>>> {
        let plan = &self.plan;
        guarded(ErrorKind::Internal, "the backward pass failed", || {
            ensure!(cotangents.len() == plan.ends, "{} cotangents for {} outputs", cotangents.len(), plan.ends);
            let mut inputs: TVec<TValue> = tvec!();
            for (ix, c) in cotangents.into_iter().enumerate() {
                let shape = self.backward.input_shape(ix)?;
                inputs.push(c.into_tensor().into_shape(&shape)?.into_tvalue());
            }
            inputs.extend(tape.saved);
            let values = self.backward.run(inputs)?;
            values.into_iter().map(|v| Ok(crate::sites::floats(&v)?.to_vec())).collect()
        })
    }
}
