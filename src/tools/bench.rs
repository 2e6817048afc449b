//! Times a model's predictions and training steps on this machine.

use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;

pub use super::bench_text::TextReport;
use super::bench_text::{TextOptions, time_text};
pub use super::bench_timing::Timing;
use super::bench_timing::time;
use crate::adapt::fit::{Fit, Recipe, Target, TrainingExample, start};
use crate::adapt::select::{TYPICAL_LENGTH, choose};
use crate::adapter::file::{AdapterFile, write_adapter};
use crate::adapter::{Adapter, Calibrated, Depth, Lineage, Pooling, SiteDelta, Verdict};
use crate::base::{Base, Kind, Task};
use crate::disk::{FileAccess, RealDisk};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::input::Example;
use crate::linalg::{MatMut, MatRef, gemm};
use crate::plan::{Batch, Deltas, Ends, Engine, Factors, ForwardPlan, Padding, SiteKey, survey};
use crate::process::status_bytes;
use crate::profile::record;
pub use crate::profile::{Place, Spent};
use crate::sites::Pattern;
use crate::sync::in_parallel;

/// What to time.
#[derive(Debug, Clone)]
pub struct Options {
    /// Examples per prediction and per training step.
    pub batch: usize,
    /// Sequence length, where the model has one.
    pub sequence: usize,
    /// Rank of every site.
    pub rank: usize,
    /// Sites that adapt.
    pub sites: Pattern,
    /// Threads; the batch is shared among them.
    pub threads: usize,
    /// Runs of each measurement, after a warm-up.
    pub repeats: usize,
    /// Name of the output that answers; the one that looks like it when not given.
    pub model_output: Option<String>,
    /// Name of the input that is fed with what is given without a name, where there are several.
    pub model_input: Option<String>,
    /// Whether to say where the time goes.
    pub profile: bool,
    /// Whether training steps keep less between the passes, and compute it a second time.
    pub gradient_checkpointing: bool,
    /// Whether the file is used in place, as in a home: nobody may change it meanwhile.
    pub mapped: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch: 8,
            sequence: 64,
            rank: 8,
            sites: Pattern::default(),
            threads: 1,
            repeats: 12,
            model_output: None,
            model_input: None,
            profile: false,
            gradient_checkpointing: false,
            mapped: false,
        }
    }
}

/// What was measured; times in milliseconds unless named otherwise.
#[derive(Debug, Clone)]
pub struct Report {
    /// Sites that adapted.
    pub sites: usize,
    /// The base model.
    pub predict_ms: Timing,
    /// With low-rank inputs.
    pub adapted_predict_ms: Timing,
    /// With merged weights.
    pub merged_predict_ms: Timing,
    /// Of a causal language model.
    pub text: Option<TextReport>,
    /// Forward, backward and optimiser; none when no site can be trained, and of causal language models.
    pub train_step_ms: Option<Timing>,
    /// A training step in later epochs, when what the layers before the first trained one computed is kept; none when
    /// nothing worth keeping lies before it.
    pub later_step_ms: Option<Timing>,
    /// `4·N·positions` FLOP of the frozen weights at the sites (forward and backward) over the step's median time.
    pub gflops_effective: Option<f64>,
    /// A 512×384×1536 product on one thread, in the same run.
    pub gflops_gemm: f64,
    /// Opening an adapter file, verified, and making it ready to serve, microseconds.
    pub swap_us: Timing,
    /// Peak resident memory from the start of the process, loading the model included, to the last training step.
    pub train_peak_rss_bytes: u64,
    /// Peak resident memory of the process.
    pub peak_rss_bytes: u64,
    /// Memory of the process that no file backs.
    pub anonymous_bytes: u64,
    /// Where the time goes, if asked for.
    pub profile: Option<Profile>,
}

/// Where the time goes, in runs of their own after those that were measured.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Runs that each list is the sum of.
    pub runs: usize,
    /// The base model's predictions.
    pub prediction: Vec<(Place, Spent)>,
    /// Training steps that compute everything; empty when no site can be trained.
    pub training_step: Vec<(Place, Spent)>,
}

/// Runs the measurements on the model at `path`.
pub fn run(path: &Path, options: &Options) -> Result<Report> {
    let opened = match options.mapped {
        true => Base::open_in_home(path, true, &|_| Ok(())),
        false => Base::open(path),
    };
    let base = opened?.answering(options.model_output.as_deref(), None)?;
    let base = Arc::new(base.reading(options.model_input.as_deref())?);
    // Independent labels take the time of classes.
    let multi_label = base.output_kind()? == Kind::MultiLabel;
    let guessed = if multi_label { Task::Classification } else { base.guess_task()? };
    let is_language_model = guessed == Task::CausalLm;
    // With the scores of all positions.
    let task = if is_language_model { Task::Encoder } else { guessed };
    let threads = options.threads.clamp(1, 256);
    // Every thread takes an equal share of the batch.
    let share = options.batch.div_ceil(threads);
    let bucket = base.bucket(share, options.sequence);
    let parts: Vec<Vec<Example>> = (0..options.batch.div_ceil(bucket.batch))
        .map(|i| base.random_examples(&bucket, i as u64))
        .collect::<Result<_>>()?;
    let engine = Engine::new(base.clone(), task, Pooling::None);
    let seen = survey(&base, task, &bucket)?;
    let engine = if seen.sequence { Engine::new(base.clone(), task, Pooling::Mean) } else { engine };
    let choice = choose(&base, task, &options.sites, options.rank, TYPICAL_LENGTH)?;
    let sites = choice.candidates.all_sites;
    let named: Vec<_> =
        sites.iter().filter_map(|(n, r)| choice.sites.iter().find(|s| s.name == *n).map(|s| (s.clone(), *r))).collect();
    let mut deltas = start(&named, 2.0, 0);
    for (i, v) in deltas.iter_mut().flat_map(|d| d.b.data.iter_mut()).enumerate() {
        *v = ((i % 17) as f32 - 8.0) * 1e-4;
    }
    let factors = Factors::of(&deltas)?;
    let forward = |deltas: &Deltas, factors: &Factors| -> Result<Timing> {
        let plan = ForwardPlan::new(&base, Ends::Tail(task), &bucket, deltas)?;
        let batches = batches(&base, &bucket, &parts)?;
        time(options.repeats, || in_parallel(threads, &batches, |b| plan.run(b, factors)).map(drop))
    };
    // First, so that its peak of memory is its own.
    let text = match is_language_model {
        true => {
            let choice = choose(&base, guessed, &options.sites, options.rank, TYPICAL_LENGTH)?;
            let how = TextOptions {
                length: options.sequence,
                threads,
                repeats: options.repeats,
                gradient_checkpointing: options.gradient_checkpointing,
            };
            Some(time_text(&base, &choice.candidates.all_sites, how)?)
        }
        false => None,
    };
    let steps = match sites.is_empty() || is_language_model {
        true => Steps::default(),
        false => train_steps(&engine, &sites, &parts, seen.features, seen.classes, threads, options)?,
    };
    let (train_step_ms, later_step_ms) = (steps.first, steps.later);
    engine.drop_train_plans();
    let train_peak_rss_bytes = status_bytes("/proc/self/status", "VmHWM:");
    let predict_ms = forward(&Deltas::Inputs(&[]), &Factors::default())?;
    let adapted_predict_ms = forward(&Deltas::Inputs(&sites), &factors)?;
    let merged_predict_ms = forward(&Deltas::Merged(&deltas), &Factors::default())?;
    let chosen = |name: &str| sites.iter().any(|(n, _)| n == name);
    let macs: u64 = seen.table.sites.iter().zip(&seen.macs).filter(|(s, _)| chosen(&s.name)).map(|(_, m)| *m).sum();
    let flop = 4.0 * macs as f64 * parts.len() as f64;
    let profile = || -> Result<Profile> {
        let prepare = || -> Result<_> {
            let plan = ForwardPlan::new(&base, Ends::Tail(task), &bucket, &Deltas::Inputs(&[]))?;
            let batches = batches(&base, &bucket, &parts)?;
            in_parallel(threads, &batches, |b| plan.run(b, &Factors::default()).map(drop))?;
            Ok((plan, batches))
        };
        let (result, prediction) = record(prepare, |prepared| {
            let (plan, batches) = prepared?;
            (0..options.repeats.max(1)).try_for_each(|_| {
                in_parallel(threads, &batches, |b| plan.run(b, &Factors::default()).map(drop)).map(drop)
            })
        });
        result?;
        Ok(Profile { runs: options.repeats.max(1), prediction, training_step: steps.profile })
    };
    let profile = options.profile.then(profile).transpose()?;
    Ok(Report {
        sites: sites.len(),
        predict_ms,
        adapted_predict_ms,
        merged_predict_ms,
        text,
        train_step_ms,
        later_step_ms,
        gflops_effective: train_step_ms.map(|t| flop / t.median / 1e6),
        gflops_gemm: gemm_speed()?,
        swap_us: swap(&base, deltas)?,
        train_peak_rss_bytes,
        peak_rss_bytes: status_bytes("/proc/self/status", "VmHWM:"),
        anonymous_bytes: status_bytes("/proc/self/smaps_rollup", "Anonymous:"),
        profile,
    })
}

fn batches(base: &Base, bucket: &crate::base::Bucket, parts: &[Vec<Example>]) -> Result<Vec<Batch>> {
    parts.iter().map(|p| Batch::new(base, bucket, &p.iter().collect::<Vec<_>>(), Padding::Exact)).collect()
}

/// Training steps.
#[derive(Default)]
pub(super) struct Steps {
    /// One that computes everything.
    pub first: Option<Timing>,
    /// One that finds the frozen part kept, where there is one.
    pub later: Option<Timing>,
    /// Where the first kind spends its time, if asked for.
    profile: Vec<(Place, Spent)>,
}

pub(super) fn train_steps(
    engine: &Engine,
    sites: &SiteKey,
    parts: &[Vec<Example>],
    features: usize,
    base_classes: usize,
    threads: usize,
    options: &Options,
) -> Result<Steps> {
    const CLASSES: usize = 8;
    let classes = if base_classes > 0 { base_classes } else { CLASSES };
    let training_examples: Vec<TrainingExample> = parts
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, e)| TrainingExample {
            example: e.clone(),
            target: Target::Class(i % classes.min(CLASSES)),
            weight: 1.0,
            at_ms: 0,
            earlier: false,
            keep: vec![],
        })
        .collect();
    let columns: Vec<u32> = (0..classes.min(CLASSES) as u32).collect();
    let head = Head {
        features,
        base_classes,
        classes,
        normalised: false,
        weight: Array2::zeros((features, columns.len())),
        bias: ndarray::Array1::zeros(columns.len()),
        columns,
    };
    let whole = training_examples.len();
    let recipe = Recipe {
        batch: whole,
        micro_batch: whole.div_ceil(threads),
        gradient_checkpointing: options.gradient_checkpointing,
        kept_bytes: 0,
        ..Recipe::default()
    };
    let keeping = Recipe { kept_bytes: Recipe::default().kept_bytes, ..recipe.clone() };
    let all: Vec<usize> = (0..training_examples.len()).collect();
    let weights = vec![1.0; training_examples.len()];
    let fit = |keeps: bool| {
        let recipe = if keeps { &keeping } else { &recipe };
        Fit::new(engine, training_examples.iter().collect(), sites, head.clone(), recipe, threads)
    };
    let step = |fit: &mut Fit| fit.step(&all, &weights, 1e-4).map(drop);
    let timed = |keeps: bool| {
        let mut fit = fit(keeps)?;
        Ok::<_, Error>((time(options.repeats, || step(&mut fit))?, fit.is_split()?))
    };
    let (first, split) = timed(false)?;
    let later = if split { Some(timed(true)?.0) } else { None };
    let mut profile = vec![];
    if options.profile {
        engine.drop_train_plans();
        let prepare = || fit(false).and_then(|mut fit| step(&mut fit).map(|()| fit));
        let steps = |fit: Result<Fit>| {
            let mut fit = fit?;
            (0..options.repeats.max(1)).try_for_each(|_| step(&mut fit))
        };
        let (result, spent) = record(prepare, steps);
        result?;
        profile = spent;
    }
    Ok(Steps { first: Some(first), later, profile })
}

fn gemm_speed() -> Result<f64> {
    let (m, k, n) = (512, 384, 1536);
    let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0f32; m * n]);
    let timing = time(20, || {
        gemm(1.0, MatRef::row_major(&a, m, k)?, MatRef::row_major(&b, k, n)?, 0.0, MatMut::row_major(&mut c, m, n)?)
    })?;
    Ok(2.0 * (m * k * n) as f64 / timing.min / 1e6)
}

fn swap(base: &Base, mut deltas: Vec<SiteDelta>) -> Result<Timing> {
    deltas.sort_by(|a, b| a.name.cmp(&b.name));
    let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder", Path::new("/tmp"), e))?;
    let path = folder.path().join("bench.adapter");
    let depth = Depth::AllSites;
    let adapter = Adapter {
        base: base.fingerprint(),
        task: "classification".into(),
        labels: vec![],
        sites: deltas,
        head: None,
        lineage: Lineage {
            parent: 0,
            seed: 0,
            steps: 0,
            examples: 0,
            depth,
            created_ms: 0,
            learning_rate: 0.0,
            rank: 0,
        },
        verdict: Verdict::of_nothing(depth, "a measurement".into()),
        confusions: None,
        calibrated: Calibrated::default(),
        known: None,
    };
    write_adapter(&RealDisk, &path, &adapter)?;
    let timing = time(50, || {
        let file = AdapterFile::open_as(&RealDisk, &path, Some(&base.fingerprint()), FileAccess::Mmap)?;
        Factors::in_file(&Arc::new(file)).map(drop)
    })?;
    Ok(Timing { min: timing.min * 1e3, median: timing.median * 1e3, cpu: timing.cpu * 1e3 })
}
