//! What is measured: a model with inputs of one shape, and low-rank deltas.

use std::path::Path;
use std::sync::Arc;

use super::timing::{Repeats, Timing, time};
use super::{Learner, Options};
use crate::adapt::fit::start;
use crate::adapt::select::{TYPICAL_LENGTH, choose};
use crate::adapter::{Pooling, SiteDelta};
use crate::base::{Base, Bucket, Kind, Task};
use crate::error::Result;
use crate::input::Example;
use crate::plan::{Batch, Deltas, Ends, Engine, Factors, ForwardPlan, Padding, SiteKey, Survey, at_once, survey};
use crate::sync::in_parallel;

/// Most threads that a measurement uses.
pub(super) const MOST_THREADS: usize = 256;

pub(super) struct Subject {
    pub base: Arc<Base>,
    pub is_language_model: bool,
    pub threads: usize,
    /// The examples: every thread has an equal share of the batch.
    pub parts: Vec<Vec<Example>>,
    pub engine: Engine,
    pub sites: SiteKey,
    pub deltas: Vec<SiteDelta>,
    pub seen: Survey,
    /// With the scores of all positions.
    task: Task,
    bucket: Bucket,
}

/// A compiled forward pass and what it is fed with.
pub(super) struct Prediction {
    plan: ForwardPlan,
    batches: Vec<Batch>,
}

/// The model at `path`, and whether it is a causal language model.
pub(super) fn open(path: &Path, options: &Options) -> Result<(Arc<Base>, Task)> {
    let opened = match options.mapped {
        true => Base::open_in_home(path, true, &|_| Ok(())),
        false => Base::open(path),
    };
    let base = opened?.answering(options.model_output.as_deref(), None)?;
    let base = base.reading(options.model_input.as_deref())?;
    let base = Arc::new(base.on(options.device.place()?));
    // Independent labels take the time of classes.
    let multi_label = base.output_kind()? == Kind::MultiLabel;
    let task = if multi_label { Task::Classification } else { base.guess_task()? };
    Ok((base, task))
}

impl Subject {
    pub fn open(path: &Path, options: &Options) -> Result<Subject> {
        let (base, guessed) = open(path, options)?;
        let is_language_model = guessed == Task::CausalLm;
        let task = if is_language_model { Task::Encoder } else { guessed };
        let threads = base.placement().threads(options.threads.clamp(1, MOST_THREADS));
        let share = at_once(&base, options.batch.div_ceil(threads));
        let bucket = base.bucket(share, options.sequence);
        let parts: Vec<Vec<Example>> = (0..options.batch.div_ceil(bucket.batch))
            .map(|i| base.random_examples(&bucket, i as u64))
            .collect::<Result<_>>()?;
        let seen = survey(&base, task, &bucket)?;
        let pooling = if seen.sequence { Pooling::Mean } else { Pooling::None };
        let engine = Engine::new(base.clone(), task, pooling);
        let choice = choose(&base, task, &options.sites, options.rank, TYPICAL_LENGTH)?;
        let sites = choice.candidates.all_sites;
        let named: Vec<_> = sites
            .iter()
            .filter_map(|(n, r)| choice.sites.iter().find(|s| s.name == *n).map(|s| (s.clone(), *r)))
            .collect();
        let mut deltas = start(&named, 2.0, 0);
        for (i, v) in deltas.iter_mut().flat_map(|d| d.b.data.iter_mut()).enumerate() {
            *v = ((i % 17) as f32 - 8.0) * 1e-4;
        }
        Ok(Subject { base, is_language_model, threads, parts, engine, sites, deltas, seen, task, bucket })
    }

    /// Its training steps.
    pub fn learner(&self) -> Learner<'_> {
        Learner {
            engine: &self.engine,
            sites: &self.sites,
            parts: &self.parts,
            features: self.seen.features,
            base_classes: self.seen.classes,
            threads: self.threads,
        }
    }

    pub fn factors(&self) -> Result<Factors> {
        Factors::of(&self.deltas)
    }

    /// Sites that adapt as a language model; none where it is something else.
    pub fn text_sites(&self, options: &Options) -> Result<Option<SiteKey>> {
        if !self.is_language_model {
            return Ok(None);
        }
        let choice = choose(&self.base, Task::CausalLm, &options.sites, options.rank, TYPICAL_LENGTH)?;
        Ok(Some(choice.candidates.all_sites))
    }

    /// FLOP of a training step in the frozen weights at the sites, forward and backward: `4·N·positions`.
    pub fn flop(&self) -> f64 {
        let chosen = |name: &str| self.sites.iter().any(|(n, _)| n == name);
        let sites = self.seen.table.sites.iter().zip(&self.seen.macs);
        let macs: u64 = sites.filter(|(s, _)| chosen(&s.name)).map(|(_, m)| *m).sum();
        4.0 * macs as f64 * self.parts.len() as f64
    }

    pub fn prediction(&self, deltas: &Deltas) -> Result<Prediction> {
        let plan = ForwardPlan::new(&self.base, Ends::Tail(self.task), &self.bucket, deltas)?;
        let batch =
            |p: &Vec<Example>| Batch::new(&self.base, &self.bucket, &p.iter().collect::<Vec<_>>(), Padding::Exact);
        Ok(Prediction { plan, batches: self.parts.iter().map(batch).collect::<Result<_>>()? })
    }

    pub fn predict(&self, prediction: &Prediction, factors: &Factors) -> Result<()> {
        in_parallel(self.threads, &prediction.batches, |b| prediction.plan.run(b, factors).map(drop)).map(drop)
    }

    pub fn predictions(&self, deltas: &Deltas, factors: &Factors, repeats: Repeats) -> Result<Timing> {
        let prediction = self.prediction(deltas)?;
        time(repeats, || self.predict(&prediction, factors))
    }
}
