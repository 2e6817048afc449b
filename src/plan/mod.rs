//! Compiled forward and backward plans, one for each bucket of shapes, and the workers that run them.
//!
//! Everything outside `base`, `sites`, `grad` and `plan` sees ndarray and plain slices only.

mod agreement;
mod at_once;
mod batch;
mod cache;
mod compiled;
mod convert;
#[cfg(feature = "cuda")]
mod cuda;
mod declutter;
mod decode;
mod decode_plans;
mod engine;
#[cfg(feature = "train")]
mod entered;
#[cfg(feature = "train")]
mod footprint;
mod forward;
#[cfg(feature = "train")]
mod frozen;
mod graph;
#[cfg(feature = "train")]
mod lent_factors;
#[cfg(feature = "train")]
mod likelihood;
mod lowering;
mod on_gpu;
mod padding;
mod padding_trial;
#[cfg(feature = "train")]
mod part;
#[cfg(feature = "train")]
mod passing;
mod pooling;
#[cfg(feature = "train")]
mod recompute;
#[cfg(feature = "train")]
mod segments;
#[cfg(feature = "train")]
mod tape;
#[cfg(feature = "train")]
mod texts;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_plans;
#[cfg(all(test, feature = "train"))]
mod train_tests;
#[cfg(not(feature = "train"))]
mod untrained;
mod variant;
#[cfg(feature = "train")]
mod weights;
#[cfg(not(feature = "cuda"))]
mod without_cuda;
#[cfg(feature = "train")]
mod worker;

use ndarray::{Array2, ArrayD};
use tract_core::internal::*;

#[cfg(feature = "cuda")]
use cuda as gpu;
#[cfg(not(feature = "cuda"))]
use without_cuda as gpu;

pub(crate) use at_once::at_once;
pub(crate) use batch::{Batch, check, sequence_length};
pub(crate) use decode::{Decoder, KvCache};
pub(crate) use engine::{Engine, MICRO_BATCH};
#[cfg(feature = "train")]
pub(crate) use entered::EnteredTexts;
pub(crate) use forward::ForwardPlan;
pub(crate) use graph::{Classifier, Deltas, Ends, MergedWeight, Survey, merged_weights, survey};
#[cfg(feature = "train")]
pub(crate) use lent_factors::LentFactors;
pub(crate) use padding::Padding;
pub(crate) use pooling::{Rows, pool, unpool};
#[cfg(feature = "train")]
pub(crate) use texts::{CHUNK, Difference, Passed, TextPasses, TextTrainer};
#[cfg(feature = "train")]
pub(crate) use train::{Keeps, Reach, TrainPlan, Trains};
#[cfg(feature = "train")]
use train_plans::TrainPlans;
#[cfg(not(feature = "train"))]
use untrained::TrainPlans;
pub(crate) use variant::{Merged, Variant};
#[cfg(feature = "train")]
pub(crate) use weights::{SiteWeight, site_weights};
#[cfg(feature = "train")]
pub(crate) use worker::{Cotangents, Worker};

use crate::adapter::SiteDelta;
use crate::adapter::file::AdapterFile;
use crate::error::{Error, Result};
use crate::sites::SharedFactor;

/// What a forward pass answers.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    /// `[batch, features]` or `[batch, sequence, features]`.
    pub features: ArrayD<f32>,
    /// `[batch, classes]`; none for an encoder.
    pub logits: Option<Array2<f32>>,
}

/// A text as tokens, of which those from `start` on are looked at; `start` is at least 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Text {
    pub tokens: Vec<u32>,
    pub start: usize,
}

/// Sites with their ranks: what a plan with low-rank inputs is compiled for.
pub(crate) type SiteKey = Vec<(String, usize)>;

/// `A` and `s·B` of every site in plan order, as the plans take them.
#[derive(Clone, Default)]
pub(crate) struct Factors(Vec<TValue>);

impl Factors {
    /// From deltas in plan order.
    pub fn of(deltas: &[SiteDelta]) -> Result<Factors> {
        let mut values = Vec::with_capacity(2 * deltas.len());
        for d in deltas {
            values.push(factor(&d.a.shape, &d.a.data, 1.0)?);
            values.push(factor(&d.b.shape, &d.b.data, d.scale())?);
        }
        Ok(Factors(values))
    }
    /// Of all sites of an adapter file, read where they lie in it.
    pub fn in_file(file: &Arc<AdapterFile>) -> Result<Factors> {
        let factors = file.sites().enumerate().flat_map(|(site, s)| {
            let scale = s.header.alpha / s.header.rank as f32;
            [(2 * site, s.a.shape, 1.0), (2 * site + 1, s.b.shape, scale)]
        });
        let values = factors.map(|(index, shape, scale)| SharedFactor::in_file(file, index, shape, scale));
        Ok(Factors(
            values.map(|t| t.map(|t| t.into_arc_tensor().into_tvalue())).collect::<TractResult<_>>().map_err(odd)?,
        ))
    }
}

fn odd(e: TractError) -> Error {
    Error::bad_data("a low-rank factor has the wrong size").because(format!("{e:#}"))
}

fn factor(shape: &[usize], data: &[f32], scale: f32) -> Result<TValue> {
    let tensor = if scale == 1.0 {
        Tensor::from_shape(shape, data)
    } else {
        Tensor::from_shape(shape, &data.iter().map(|v| v * scale).collect::<Vec<f32>>())
    };
    tensor.map(|t| t.into_arc_tensor().into_tvalue()).map_err(odd)
}

fn array(value: &TValue) -> TractResult<ArrayD<f32>> {
    Ok(value.to_plain_array_view::<f32>()?.to_owned())
}

/// Names the outputs of a plan cut to the tail: features first, then the logits unless they are the same.
fn tail_outputs(mut values: Vec<ArrayD<f32>>, logits: Option<usize>) -> Result<Outputs> {
    let missing = || Error::internal("the plan lost an output");
    let logits = match logits {
        Some(ix) => {
            let all = values.get(ix).ok_or_else(missing)?.clone();
            let rows = all.shape().first().copied().unwrap_or(1);
            let columns = all.len() / rows.max(1);
            Some(all.into_shape_with_order((rows, columns)).map_err(|e| missing().because(e))?)
        }
        None => None,
    };
    if values.is_empty() {
        return Err(missing());
    }
    Ok(Outputs { features: values.swap_remove(0), logits })
}
