//! Times a model's predictions and training steps on this machine.

use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;

mod beside;
mod memory;
mod part;
mod subject;
mod text;
mod timing;

pub use part::{Figure, Kind, Look, Part, Parted, lay_out, look, part};
use subject::Subject;
pub use text::TextReport;
pub(super) use text::{TextOptions, time_text};
pub(super) use timing::Repeats;
pub use timing::Timing;
use timing::time;

use crate::adapt::fit::{Fit, Recipe, Target, TrainingExample};
use crate::adapter::file::{AdapterFile, write_adapter};
use crate::adapter::{Adapter, Calibrated, Depth, Lineage, SiteDelta, Verdict};
use crate::base::{Base, DeviceChoice, PlacedPlan, Placement};
use crate::disk::{FileAccess, RealDisk};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::input::Example;
use crate::linalg::{MatMut, MatRef, gemm};
use crate::plan::{Deltas, Engine, Factors, SiteKey};
use crate::process::status_bytes;
use crate::profile::record;
pub use crate::profile::{Place, Spent};
use crate::sites::Pattern;

/// Name, unit and values of a measurement.
type Named = (&'static str, &'static str, Vec<f64>);

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
    /// Time after which a measurement makes no more runs, if it has a few.
    pub seconds: Option<f64>,
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
    /// What is to compute.
    pub device: DeviceChoice,
}

impl Options {
    fn repeats(&self) -> Repeats {
        Repeats { runs: self.repeats.max(1), seconds: self.seconds }
    }
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
            seconds: None,
            model_output: None,
            model_input: None,
            profile: false,
            gradient_checkpointing: false,
            mapped: false,
            device: DeviceChoice::Cpu,
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
    /// What computed.
    pub device: Placed,
}

/// What computed the plans.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What was asked for, and what it came to: names.
    pub asked: &'static str,
    pub used: &'static str,
    /// Why the processor computed where a GPU would have been welcome.
    pub why_not: Option<String>,
    /// The plans that were to run on the GPU, each once.
    pub plans: Vec<PlacedPlan>,
}

impl Placed {
    fn of(placement: &Placement) -> Placed {
        let mut plans = vec![];
        for plan in placement.plans() {
            if !plans.contains(&plan) {
                plans.push(plan);
            }
        }
        let (asked, used) = (placement.asked().name(), placement.device().name());
        Placed { asked, used, why_not: placement.why_not().map(String::from), plans }
    }
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
    let subject = Subject::open(path, options)?;
    let repeats = options.repeats();
    // First, so that its peak of memory is its own.
    let text = subject.text_sites(options)?.map(|sites| time_text(&subject.base, &sites, text_options(options)));
    let text = text.transpose()?;
    let steps = match subject.is_language_model {
        true => Steps::default(),
        false => train_steps(&subject.learner(), options)?,
    };
    subject.engine.drop_train_plans();
    let train_peak_rss_bytes = status_bytes("/proc/self/status", "VmHWM:");
    let predict_ms = subject.predictions(&Deltas::Inputs(&[]), &Factors::default(), repeats)?;
    let adapted_predict_ms = subject.predictions(&Deltas::Inputs(&subject.sites), &subject.factors()?, repeats)?;
    let merged_predict_ms = subject.predictions(&Deltas::Merged(&subject.deltas), &Factors::default(), repeats)?;
    let profile = || -> Result<Profile> {
        let runs = repeats.runs;
        let prepare = || -> Result<_> {
            let prediction = subject.prediction(&Deltas::Inputs(&[]))?;
            subject.predict(&prediction, &Factors::default())?;
            Ok(prediction)
        };
        let (result, prediction) = record(prepare, |prediction| {
            let prediction = prediction?;
            (0..runs).try_for_each(|_| subject.predict(&prediction, &Factors::default()))
        });
        result?;
        let training_step = match subject.text_sites(options)? {
            Some(sites) if !sites.is_empty() => text::profile(&subject.base, &sites, &text_options(options))?,
            _ => steps.profile,
        };
        Ok(Profile { runs, prediction, training_step })
    };
    let profile = options.profile.then(profile).transpose()?;
    let flop = subject.flop();
    Ok(Report {
        sites: subject.sites.len(),
        predict_ms,
        adapted_predict_ms,
        merged_predict_ms,
        text,
        gflops_effective: steps.first.as_ref().map(|t| flop / t.median / 1e6),
        train_step_ms: steps.first,
        later_step_ms: steps.later,
        gflops_gemm: GEMM_FLOP / gemm_ms()?.min / 1e6,
        swap_us: swap(&subject.base, subject.deltas.clone())?,
        train_peak_rss_bytes,
        peak_rss_bytes: status_bytes("/proc/self/status", "VmHWM:"),
        anonymous_bytes: status_bytes("/proc/self/smaps_rollup", "Anonymous:"),
        profile,
        device: Placed::of(subject.base.placement()),
    })
}

fn text_options(options: &Options) -> TextOptions {
    TextOptions {
        length: options.sequence,
        threads: options.threads.clamp(1, subject::MOST_THREADS),
        repeats: options.repeats(),
        gradient_checkpointing: options.gradient_checkpointing,
    }
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

/// What a classifier's training step is made of.
#[derive(Clone, Copy)]
pub(super) struct Learner<'a> {
    pub engine: &'a Engine,
    pub sites: &'a SiteKey,
    /// Every thread has an equal share of the examples.
    pub parts: &'a [Vec<Example>],
    pub features: usize,
    /// Classes of the base model; 0 where it is an encoder.
    pub base_classes: usize,
    pub threads: usize,
}

impl Learner<'_> {
    /// Classes of the training.
    fn classes(&self) -> usize {
        if self.base_classes > 0 { self.base_classes } else { CLASSES }
    }
}

/// Of `learner` as often as `options` says; nothing where no site is trained.
pub(super) fn train_steps(learner: &Learner, options: &Options) -> Result<Steps> {
    if learner.sites.is_empty() {
        return Ok(Steps::default());
    }
    let examples = training_examples(learner);
    let repeats = options.repeats();
    let recipe = Training::recipe(learner, options, false);
    let timed = |recipe: &Recipe| {
        let mut training = Training::of(learner, &examples, recipe)?;
        Ok::<_, Error>((time(repeats, || training.step())?, training.fit.is_split()?))
    };
    let (first, split) = timed(&recipe)?;
    let later = if split { Some(timed(&Training::recipe(learner, options, true))?.0) } else { None };
    let mut profile = vec![];
    if options.profile {
        learner.engine.drop_train_plans();
        let prepare = || {
            let training = Training::of(learner, &examples, &recipe);
            training.and_then(|mut training| training.step().map(|()| training))
        };
        let steps = |training: Result<Training>| {
            let mut training = training?;
            (0..repeats.runs).try_for_each(|_| training.step())
        };
        let (result, spent) = record(prepare, steps);
        result?;
        profile = spent;
    }
    Ok(Steps { first: Some(first), later, profile })
}

/// Classes that a training of an encoder is of.
const CLASSES: usize = 8;

fn training_examples(learner: &Learner) -> Vec<TrainingExample> {
    let classes = learner.classes().min(CLASSES);
    let example = |(i, e): (usize, &Example)| TrainingExample {
        example: e.clone(),
        target: Target::Class(i % classes),
        weight: 1.0,
        at_ms: 0,
        earlier: false,
        keep: vec![],
    };
    learner.parts.iter().flatten().enumerate().map(example).collect()
}

/// A training whose every step is on all examples.
struct Training<'a> {
    fit: Fit<'a>,
    all: Vec<usize>,
    weights: Vec<f32>,
}

impl<'a> Training<'a> {
    /// With the frozen part's activations kept from one step to the next if it `keeps` them.
    fn recipe(learner: &Learner, options: &Options, keeps: bool) -> Recipe {
        let whole: usize = learner.parts.iter().map(Vec::len).sum();
        let usual = Recipe {
            batch: whole,
            micro_batch: whole.div_ceil(learner.threads),
            gradient_checkpointing: options.gradient_checkpointing,
            ..Recipe::default()
        };
        if keeps { usual } else { Recipe { kept_bytes: 0, ..usual } }
    }

    fn of(learner: &Learner<'a>, examples: &'a [TrainingExample], recipe: &'a Recipe) -> Result<Training<'a>> {
        Training::on(learner, examples, recipe, learner.threads)
    }

    fn on(
        learner: &Learner<'a>,
        examples: &'a [TrainingExample],
        recipe: &'a Recipe,
        threads: usize,
    ) -> Result<Training<'a>> {
        let (features, classes) = (learner.features, learner.classes());
        let columns: Vec<u32> = (0..classes.min(CLASSES) as u32).collect();
        let head = Head {
            features,
            base_classes: learner.base_classes,
            classes,
            normalised: false,
            weight: Array2::zeros((features, columns.len())),
            bias: ndarray::Array1::zeros(columns.len()),
            columns,
        };
        let whole = examples.len();
        let examples = examples.iter().collect();
        let fit = Fit::new(learner.engine, examples, learner.sites, head, recipe, threads)?;
        Ok(Training { fit, all: (0..whole).collect(), weights: vec![1.0; whole] })
    }

    fn step(&mut self) -> Result<()> {
        self.fit.step(&self.all, &self.weights, 1e-4).map(drop)
    }
}

/// FLOP of the product that shows how fast the machine is.
const GEMM_FLOP: f64 = 2.0 * (GEMM.0 * GEMM.1 * GEMM.2) as f64;
const GEMM: (usize, usize, usize) = (512, 384, 1536);

fn gemm_ms() -> Result<Timing> {
    let (m, k, n) = GEMM;
    let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0f32; m * n]);
    time(Repeats::of(20), || {
        gemm(1.0, MatRef::row_major(&a, m, k)?, MatRef::row_major(&b, k, n)?, 0.0, MatMut::row_major(&mut c, m, n)?)
    })
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
    let timing = time(Repeats::of(50), || {
        let file = AdapterFile::open_as(&RealDisk, &path, Some(&base.fingerprint()), FileAccess::Mmap)?;
        Factors::in_file(&Arc::new(file)).map(drop)
    })?;
    Ok(timing.times(1e3))
}
