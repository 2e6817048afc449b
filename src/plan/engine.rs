//! Runs any number of examples through the right compiled plan: buckets, caches, threads, and pooling.

use std::sync::{Arc, OnceLock};

use ndarray::Array2;

use super::at_once::at_once;
use super::cache::{PlanCache, limit};
use super::pooling::{Rows, pool};
use super::variant::Variant;
use super::{Batch, Deltas, Ends, Factors, ForwardPlan, Padding, SiteKey, TrainPlans, check, sequence_length};
use crate::adapter::Pooling;
use crate::base::{Base, Bucket, Task};
use crate::error::{Error, Result};
use crate::input::{Example, text};
use crate::sync::{in_parallel, on_cores};

/// Examples per run when many are waiting: large enough for the matrix products, small enough to share among workers.
pub(crate) const MICRO_BATCH: usize = 8;

/// Forward plans that are kept: the base and an adapter, one example and [`MICRO_BATCH`] of them, eight lengths.
const FORWARD_PLANS: usize = 32;
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Base,
    Adapted(SiteKey),
}

/// The base model with its compiled plans; shared by all sessions and threads.
pub(crate) struct Engine {
    pub base: Arc<Base>,
    pub task: Task,
    pub pooling: Pooling,
    /// No example has more positions.
    window: usize,
    padding: Padding,
    /// Cores that one example is answered on.
    cores: usize,
    /// See [`at_once`].
    most: OnceLock<usize>,
    pub(super) ends: Ends,
    forward: PlanCache<(Key, Bucket), ForwardPlan>,
    pub(super) train: TrainPlans,
}

impl Engine {
    pub fn new(base: Arc<Base>, task: Task, pooling: Pooling) -> Engine {
        Engine {
            task,
            pooling,
            window: usize::MAX,
            padding: Padding::Exact,
            cores: 1,
            most: OnceLock::new(),
            ends: Ends::Tail(task),
            forward: PlanCache::new(limit(&base, FORWARD_PLANS), ForwardPlan::bytes),
            train: TrainPlans::new(&base),
            base,
        }
    }

    /// The same without the model's own classes: its rows have no logits.
    pub fn without_classes(self) -> Engine {
        Engine { ends: Ends::Features, ..self }
    }

    /// The same for examples of at most `positions` positions.
    pub fn within(self, positions: usize) -> Engine {
        Engine { window: positions, ..self }
    }

    /// The same with sequences padded; they are not otherwise.
    pub fn padded(self, padding: Padding) -> Engine {
        Engine { padding, ..self }
    }

    /// The same on `cores` cores where one example is asked for; on one otherwise.
    pub fn on_cores(self, cores: usize) -> Engine {
        Engine { cores, ..self }
    }

    /// Threads that run plans side by side where `asked` may.
    pub fn threads(&self, asked: usize) -> usize {
        self.base.placement().threads(asked)
    }

    /// How sequences of different lengths become one batch.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// The bucket for `batch` examples, or as many as a pass takes at once, of which the longest has `length`
    /// positions: that length, or where it is padded the next one that plans are compiled for, no longer than examples
    /// are or the model takes.
    pub fn bucket(&self, batch: usize, length: usize) -> Bucket {
        let most = || *self.most.get_or_init(|| at_once(&self.base, usize::MAX));
        let batch = if batch > 1 { batch.min(most()) } else { batch };
        self.bucket_of(batch, length, self.padding)
    }

    fn bucket_of(&self, batch: usize, length: usize, padding: Padding) -> Bucket {
        if length == 0 || padding == Padding::Exact {
            return self.base.bucket(batch, length);
        }
        let rounded = text::bucket(length).min(self.window.max(length));
        // Where no length works out, compiling says why.
        self.base.bucket(batch, self.base.longest(length, rounded).unwrap_or(rounded))
    }

    pub(super) fn forward_plan(&self, variant: &Variant, bucket: &Bucket) -> Result<Arc<ForwardPlan>> {
        let compile = |deltas: Deltas| ForwardPlan::new(&self.base, self.ends, bucket, &deltas);
        let (key, deltas) = match variant {
            Variant::Base => (Key::Base, Deltas::Inputs(&[])),
            Variant::Adapted(sites, _) => (Key::Adapted((*sites).clone()), Deltas::Inputs(sites)),
            Variant::Merged(merged) => {
                return merged.forward.get(bucket.clone(), || compile(Deltas::Merged(&merged.deltas)));
            }
        };
        self.forward.get((key, bucket.clone()), || compile(deltas))
    }

    /// Pooled features and logits of one example.
    pub fn one(&self, variant: &Variant, example: &Example) -> Result<Rows> {
        self.one_padded(variant, example, self.padding)
    }

    /// [`Engine::one`] with this padding instead of the engine's own.
    pub(super) fn one_padded(&self, variant: &Variant, example: &Example, padding: Padding) -> Result<Rows> {
        check(&self.base, example)?;
        let bucket = self.bucket_of(1, sequence_length(&self.base, example), padding);
        on_cores(self.cores, || self.run_batch(variant, &bucket, &[example], padding))
    }

    /// Pooled features and logits of many examples on `threads` threads, at most `micro_batch` at once on each, in
    /// order.
    pub fn many(&self, variant: &Variant, examples: &[&Example], threads: usize, micro_batch: usize) -> Result<Rows> {
        let lengths: Vec<usize> = examples
            .iter()
            .map(|e| check(&self.base, e).map(|()| sequence_length(&self.base, e)))
            .collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|&i| self.bucket(1, lengths[i]));
        let mut jobs: Vec<(Bucket, Vec<usize>)> = vec![];
        for i in order {
            let bucket = self.bucket(micro_batch, lengths[i]);
            match jobs.last_mut() {
                Some((b, rows)) if *b == bucket && rows.len() < bucket.batch => rows.push(i),
                _ => jobs.push((bucket, vec![i])),
            }
        }
        let results = in_parallel(self.threads(threads), &jobs, |(bucket, rows)| {
            let batch: Vec<&Example> = rows.iter().map(|&i| examples[i]).collect();
            self.run_batch(variant, bucket, &batch, self.padding)
        })?;
        let mut all: Option<Rows> = None;
        for ((_, rows), part) in jobs.iter().zip(results) {
            let whole = all.get_or_insert_with(|| Rows {
                features: Array2::zeros((examples.len(), part.features.ncols())),
                logits: part.logits.as_ref().map(|l| Array2::zeros((examples.len(), l.ncols()))),
            });
            for (at, &row) in rows.iter().enumerate() {
                whole.features.row_mut(row).assign(&part.features.row(at));
                if let (Some(all), Some(part)) = (&mut whole.logits, &part.logits) {
                    all.row_mut(row).assign(&part.row(at));
                }
            }
        }
        all.ok_or_else(|| Error::internal("a forward pass over no examples"))
    }

    /// Runs up to a bucket's batch of checked examples.
    fn run_batch(&self, variant: &Variant, bucket: &Bucket, examples: &[&Example], padding: Padding) -> Result<Rows> {
        let plan = self.forward_plan(variant, bucket)?;
        let none = Factors::default();
        let factors = match variant {
            Variant::Adapted(_, factors) => factors,
            _ => &none,
        };
        let batch = Batch::new(&self.base, bucket, examples, padding)?;
        let outputs = plan.run(&batch, factors)?;
        let mut rows = pool(self.pooling, outputs, &batch.mask)?;
        if rows.features.nrows() != bucket.batch || rows.logits.as_ref().is_some_and(|l| l.nrows() != bucket.batch) {
            let what = format!("the model answers {} examples with {} rows", bucket.batch, rows.features.nrows());
            return Err(Error::unsupported(what).at(self.base.path().display()));
        }
        if examples.len() < rows.features.nrows() {
            rows.features = rows.features.slice(ndarray::s![..examples.len(), ..]).to_owned();
            rows.logits = rows.logits.map(|l| l.slice(ndarray::s![..examples.len(), ..]).to_owned());
        }
        if rows.features.iter().chain(rows.logits.iter().flatten()).any(|v| !v.is_finite()) {
            return Err(Error::bad_data("the model answered with a value that is not a finite number")
                .hint("check the input; if an adapter serves, roll it back"));
        }
        Ok(rows)
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::{Keeps, Trains, survey};

    const BOTH: (Trains, Keeps) = (Trains::Both, Keeps::Everything);

    fn engine() -> Engine {
        let base = Base::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx")).unwrap();
        Engine::new(Arc::new(base), Task::Classification, Pooling::None)
    }

    /// The model's convolutions, each with this rank.
    fn sites(engine: &Engine, rank: usize) -> SiteKey {
        let all = survey(&engine.base, engine.task, &engine.bucket(1, 0)).unwrap();
        let inner = all.table.sites.iter().filter(|site| all.classifier.as_ref() != Some(&site.name));
        let mut key: SiteKey = inner.map(|site| (site.name.clone(), rank)).collect();
        key.sort();
        key
    }

    #[test]
    fn forward_plans_of_many_adapters_are_bounded() {
        let (engine, none) = (engine(), Factors::default());
        let bucket = engine.bucket(1, 0);
        let base = engine.forward_plan(&Variant::Base, &bucket).unwrap();
        for rank in 1..=FORWARD_PLANS + 8 {
            engine.forward_plan(&Variant::Adapted(&sites(&engine, rank), &none), &bucket).unwrap();
            // What is in use all the time stays.
            assert!(Arc::ptr_eq(&base, &engine.forward_plan(&Variant::Base, &bucket).unwrap()), "after {rank}");
        }
        assert_eq!(engine.forward.len(), FORWARD_PLANS);
    }

    #[test]
    fn training_plans_of_other_sites_go_when_nobody_trains_with_them() {
        let engine = engine();
        let (one, two, bucket) = (sites(&engine, 1), sites(&engine, 2), engine.bucket(MICRO_BATCH, 0));
        let held = engine.train_plan(&one, BOTH, &bucket).unwrap();
        engine.train_plan(&two, BOTH, &bucket).unwrap();
        assert!(Arc::ptr_eq(&held, &engine.train_plan(&one, BOTH, &bucket).unwrap()), "somebody trains with it");
        assert_eq!(engine.train.len(), 1);
        drop(held);
        engine.train_plan(&two, BOTH, &bucket).unwrap();
        assert_eq!(engine.train.len(), 1);
        engine.drop_train_plans();
        assert_eq!(engine.train.len(), 0);
    }
}
