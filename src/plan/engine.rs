//! Runs any number of examples through the right compiled plan: buckets, caches, threads, and pooling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ndarray::{Array2, Ix3};
#[cfg(feature = "train")]
use ndarray::{ArrayD, Axis};

use super::{Batch, Deltas, Ends, Factors, ForwardPlan, Outputs, Padding, check, sequence_length};
use crate::adapter::{Pooling, SiteDelta};
use crate::base::{Base, Bucket, Task};
use crate::error::{Error, Result};
use crate::input::{Example, text};

#[cfg(feature = "train")]
use super::TrainPlan;

/// Examples per run when many are waiting: large enough for the matrix products, small enough to share among workers.
pub(crate) const MICRO_BATCH: usize = 8;

/// Sites with their ranks: what a plan with low-rank inputs is compiled for.
pub(crate) type SiteKey = Vec<(String, usize)>;

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
    deltas: Vec<SiteDelta>,
    plans: Mutex<HashMap<Bucket, Arc<ForwardPlan>>>,
}

impl Merged {
    pub fn new(deltas: Vec<SiteDelta>) -> Merged {
        Merged { deltas, plans: Mutex::default() }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Base,
    Adapted(SiteKey),
}

/// Pooled features and logits of some examples.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// `[rows, features]`.
    pub features: Array2<f32>,
    /// `[rows, base classes]`; none for an encoder.
    pub logits: Option<Array2<f32>>,
}

/// The base model with its compiled plans; shared by all sessions and threads.
pub(crate) struct Engine {
    pub base: Arc<Base>,
    pub task: Task,
    pub pooling: Pooling,
    /// No example has more positions.
    window: usize,
    padding: Padding,
    ends: Ends,
    forward: Mutex<HashMap<(Key, Bucket), Arc<ForwardPlan>>>,
    #[cfg(feature = "train")]
    train: Mutex<HashMap<(SiteKey, Bucket), Arc<TrainPlan>>>,
}

impl Engine {
    pub fn new(base: Arc<Base>, task: Task, pooling: Pooling) -> Engine {
        Engine {
            base,
            task,
            pooling,
            window: usize::MAX,
            padding: Padding::Exact,
            ends: Ends::Tail(task),
            forward: Mutex::default(),
            #[cfg(feature = "train")]
            train: Mutex::default(),
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

    /// How sequences of different lengths become one batch.
    #[cfg(feature = "train")]
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// The bucket for `batch` examples of which the longest has `length` positions: that length, or where it is padded the next one that plans
    /// are compiled for, no longer than examples are or the model takes.
    pub fn bucket(&self, batch: usize, length: usize) -> Bucket {
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

    fn forward_plan(&self, variant: &Variant, bucket: &Bucket) -> Result<Arc<ForwardPlan>> {
        let compile = |deltas: Deltas| ForwardPlan::new(&self.base, self.ends, bucket, &deltas).map(Arc::new);
        let (key, deltas) = match variant {
            Variant::Base => (Key::Base, Deltas::Inputs(&[])),
            Variant::Adapted(sites, _) => (Key::Adapted((*sites).clone()), Deltas::Inputs(sites)),
            Variant::Merged(merged) => {
                return cached(&merged.plans, bucket.clone(), || compile(Deltas::Merged(&merged.deltas)));
            }
        };
        cached(&self.forward, (key, bucket.clone()), || compile(deltas))
    }

    /// The plan that trains `sites` at `bucket`.
    #[cfg(feature = "train")]
    pub fn train_plan(&self, sites: &SiteKey, bucket: &Bucket) -> Result<Arc<TrainPlan>> {
        let mut plans = lock(&self.train);
        let key = (sites.clone(), bucket.clone());
        if let Some(plan) = plans.get(&key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(TrainPlan::new(&self.base, self.ends, bucket, sites, true)?);
        plans.insert(key, plan.clone());
        Ok(plan)
    }

    /// Forgets the training plans: they hold packed weights of their own.
    #[cfg(feature = "train")]
    pub fn drop_train_plans(&self) {
        lock(&self.train).clear();
    }

    /// Pooled features and logits of one example.
    pub fn one(&self, variant: &Variant, example: &Example) -> Result<Rows> {
        self.one_padded(variant, example, self.padding)
    }

    /// [`Engine::one`] with this padding instead of the engine's own.
    pub(super) fn one_padded(&self, variant: &Variant, example: &Example, padding: Padding) -> Result<Rows> {
        check(&self.base, example)?;
        let bucket = self.bucket_of(1, sequence_length(&self.base, example), padding);
        self.run_batch(variant, &bucket, &[example], padding)
    }

    /// Pooled features and logits of many examples on `threads` threads, at most `micro_batch` at once on each, in order.
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
        let results = in_parallel(threads, &jobs, |(bucket, rows)| {
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

/// The plan under `key`. The map is held while compiling, so that two threads never compile the same plan.
fn cached<K: Eq + std::hash::Hash, P>(
    plans: &Mutex<HashMap<K, Arc<P>>>,
    key: K,
    compile: impl FnOnce() -> Result<Arc<P>>,
) -> Result<Arc<P>> {
    let mut plans = lock(plans);
    if let Some(plan) = plans.get(&key) {
        return Ok(plan.clone());
    }
    let plan = compile()?;
    plans.insert(key, plan.clone());
    Ok(plan)
}

/// One vector an example.
pub(crate) fn pool(pooling: Pooling, outputs: Outputs, mask: &[f32]) -> Result<Rows> {
    let shape = outputs.features.shape().to_vec();
    let odd = || Error::internal(format!("cannot pool features of shape {shape:?}"));
    let features = match shape.len() {
        3 => {
            let all = outputs.features.into_dimensionality::<Ix3>().map_err(|_| odd())?;
            let weights = pool_weights(pooling, mask, shape[0], shape[1]);
            let mut pooled = Array2::zeros((shape[0], shape[2]));
            for (n, mut row) in pooled.rows_mut().into_iter().enumerate() {
                for (s, w) in weights.row(n).iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    row.scaled_add(*w, &all.slice(ndarray::s![n, s, ..]));
                }
            }
            pooled
        }
        _ => {
            let rows = shape.first().copied().unwrap_or(1);
            let width: usize = shape.iter().skip(1).product();
            outputs.features.into_shape_with_order((rows, width)).map_err(|_| odd())?
        }
    };
    Ok(Rows { features, logits: outputs.logits })
}

/// The cotangent of the unpooled features.
#[cfg(feature = "train")]
pub(crate) fn unpool(pooling: Pooling, shape: &[usize], mask: &[f32], pooled: Array2<f32>) -> Result<ArrayD<f32>> {
    let odd = || Error::internal(format!("cannot spread a gradient over features of shape {shape:?}"));
    if shape.len() != 3 {
        return pooled.into_dyn().into_shape_with_order(shape).map_err(|_| odd());
    }
    let weights = pool_weights(pooling, mask, shape[0], shape[1]);
    let mut out = ndarray::Array3::<f32>::zeros((shape[0], shape[1], shape[2]));
    for (n, mut sequence) in out.axis_iter_mut(Axis(0)).enumerate() {
        for (s, mut row) in sequence.rows_mut().into_iter().enumerate() {
            if weights[[n, s]] != 0.0 {
                row.scaled_add(weights[[n, s]], &pooled.row(n));
            }
        }
    }
    Ok(out.into_dyn())
}

/// `[batch, sequence]`: what each position contributes to the pooled vector.
fn pool_weights(pooling: Pooling, mask: &[f32], batch: usize, sequence: usize) -> Array2<f32> {
    let mut weights = if mask.len() == batch * sequence {
        Array2::from_shape_fn((batch, sequence), |(n, s)| mask[n * sequence + s])
    } else {
        Array2::ones((batch, sequence))
    };
    for mut row in weights.rows_mut() {
        match pooling {
            Pooling::First => row.iter_mut().enumerate().for_each(|(s, w)| *w = (s == 0) as u8 as f32),
            _ => {
                let total = row.sum().max(1.0);
                row /= total;
            }
        }
    }
    weights
}

/// Runs `work` over `jobs` on up to `threads` threads; results keep the order of the jobs.
pub(crate) fn in_parallel<J: Sync, T: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if threads <= 1 || jobs.len() <= 1 {
        return jobs.iter().map(work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut slots: Vec<Option<Result<T>>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let run = || {
            let mut done = vec![];
            loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(job) = jobs.get(i) else { return done };
                done.push((i, work(job)));
            }
        };
        let workers: Vec<_> = (0..threads.min(jobs.len())).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            if let Ok(done) = worker.join() {
                for (i, result) in done {
                    slots[i] = Some(result);
                }
            }
        }
    });
    slots.into_iter().map(|s| s.unwrap_or_else(|| Err(Error::internal("a worker thread stopped")))).collect()
}

/// A poisoned lock only means that another thread failed while it held it; the maps behind it are always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
