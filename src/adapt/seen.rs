//! What there is to learn from, and what the frozen base says about it.

use ndarray::{Array1, Array2, ArrayView1, Axis};

use super::{Adaptation, FEWEST_EXAMPLES, rehearsal};
use crate::adapt::fit::{Target, TrainingExample};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::input::Example;
use crate::plan::Variant;
use crate::stats::rows::{argmax, softmax};
use crate::train::loss::LossTarget;
use crate::train::solve::HeadData;

/// Weight of an input whose answer is to be kept, beside 1 for one with feedback.
const KEEP_WEIGHT: f32 = 0.5;
/// Consecutive uncorrected inputs that stay on one side.
const KEEP_BLOCK: usize = 4;

/// What there is to learn from.
pub(crate) struct Dataset {
    /// In order of time.
    pub training_examples: Vec<TrainingExample>,
    /// For each training example, whether the answer given at the time agreed with it.
    pub served_right: Vec<bool>,
    /// Inputs without feedback, the latest first.
    pub standing: Vec<Standing>,
    /// Whether something that the active generation learned from has been replaced or ignored since.
    pub revised: bool,
    pub base_classes: usize,
    pub classes: usize,
    /// The class of inputs that are none of the others.
    pub none: Option<usize>,
    pub features: usize,
}

impl Dataset {
    /// The class that all training examples say, if there are enough of them to train.
    pub fn only_class(&self) -> Option<usize> {
        let first = self.training_examples.first()?.target;
        let all = self.training_examples.iter().all(|t| t.target == first);
        (all && self.training_examples.len() >= FEWEST_EXAMPLES)
            .then_some(first)
            .filter(|t| matches!(t, Target::Class(_)))
            .map(Target::class)
    }
}

/// An input whose answer was left standing.
pub(crate) struct Standing {
    pub example: Example,
    /// The base class that was answered.
    pub class: usize,
    /// Whether the base answered, or a generation that the serving one descends from: not one that was rolled back.
    pub trusted: bool,
}

/// What the frozen base says about training examples and other inputs, computed once.
pub(super) struct Seen {
    pub features: Array2<f32>,
    pub logits: Option<Array2<f32>>,
    /// Training split of the answers that are to be kept.
    pub keep: Option<Kept>,
    /// Their validation split.
    pub idle: Option<Idle>,
    /// Features of uncorrected inputs, with the class of the base that was answered.
    pub stood: Vec<(Array1<f32>, usize)>,
}

/// Inputs whose answer is to be kept, with the base's logits.
pub(super) struct Kept {
    pub training_examples: Vec<TrainingExample>,
    pub features: Array2<f32>,
    pub logits: Array2<f32>,
}

/// Uncorrected inputs whose answer, left standing, was the base's own.
pub(super) struct Idle {
    pub examples: Vec<Example>,
    pub features: Array2<f32>,
    pub logits: Array2<f32>,
}

impl Dataset {
    /// Bytes of the inputs that a training of `base` holds beside the dataset's: copies, and synthetic ones.
    pub(crate) fn copied_bytes(&self, base: &Base) -> u64 {
        let standing = || self.standing.iter().map(|s| &s.example);
        let synthetic = match self.corrects_only() && base.takes_any_floats() {
            true => rehearsal::bytes(self.training_examples.iter().map(|l| &l.example).chain(standing())),
            false => 0,
        };
        synthetic + standing().map(Example::bytes).sum::<u64>()
    }

    /// Folds of a training.
    pub(crate) fn folds(&self) -> u32 {
        folds_of(self.training_examples.len())
    }

    /// Whether only the base model's classes are corrected, and none is added.
    pub(super) fn corrects_only(&self) -> bool {
        self.base_classes > 0 && self.classes == self.base_classes
    }
}

/// Folds that so many training examples are cut into.
pub(crate) fn folds_of(training_examples: usize) -> u32 {
    match training_examples {
        n @ 0..=15 => n as u32 / 2,
        16..=149 => 4,
        _ => 2,
    }
}

impl Adaptation<'_> {
    pub(super) fn look(&self) -> Result<Seen> {
        let examples: Vec<&Example> = self.dataset.training_examples.iter().map(|l| &l.example).collect();
        let rows = self.rows(&Variant::Base, &examples, self.settings.threads)?;
        let (mut keep, idle) = match self.look_idle()? {
            Some((keep, idle)) => (Some(keep), Some(idle)),
            None => (None, None),
        };
        let (kept, left) = (keep.iter(), idle.iter());
        let kept =
            kept.flat_map(|k| k.features.rows().into_iter().zip(k.training_examples.iter().map(|l| l.target.class())));
        let left = left.flat_map(|i| i.features.rows().into_iter().zip(i.logits.rows().into_iter().filter_map(argmax)));
        let stood = kept.chain(left).map(|(x, class)| (x.to_owned(), class)).collect();
        // Where classes are only corrected, deltas may reach far below the head: what they do elsewhere is rehearsed.
        if self.corrects_only() && self.engine.base.takes_any_floats() {
            let pool: Vec<&Example> =
                examples.into_iter().chain(self.dataset.standing.iter().map(|s| &s.example)).collect();
            keep = joined(keep, self.keep(rehearsal::synthetic(&pool, self.settings.seed))?)?;
        }
        Ok(Seen { features: rows.features, logits: rows.logits, keep, idle, stood })
    }

    /// The training and validation splits of the uncorrected inputs. No input is in both: of those that the base would
    /// answer as they were answered, of every two blocks of consecutive ones one is for training, and the other for
    /// validation. Those that a generation had learned to answer otherwise only teach: a training starts from the
    /// base, and would unlearn what had no need to be said again.
    fn look_idle(&self) -> Result<Option<(Kept, Idle)>> {
        let all: Vec<&Example> = self.dataset.standing.iter().map(|s| &s.example).collect();
        if all.is_empty() || self.dataset.base_classes == 0 {
            return Ok(None);
        }
        let rows = self.rows(&Variant::Base, &all, self.settings.threads)?;
        let Some(logits) = rows.logits else { return Ok(None) };
        let answered = |i: usize| self.dataset.standing[i].class;
        let (stood, mut learned): (Vec<usize>, Vec<usize>) =
            (0..all.len()).partition(|&i| argmax(logits.row(i)) == Some(answered(i)));
        learned.retain(|&i| self.dataset.standing[i].trusted);
        let mut sides: [Vec<usize>; 2] = Default::default();
        for (at, i) in stood.into_iter().enumerate() {
            sides[at / KEEP_BLOCK % 2].push(i);
        }
        let [mut teach, judge] = sides;
        let pick = |side: &[usize]| side.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
        let at = |m: &Array2<f32>, side: &[usize]| m.select(Axis(0), side);
        let mut training_examples = kept_examples(pick(&teach), &at(&logits, &teach));
        training_examples
            .extend(learned.iter().map(|&i| kept_example(all[i].clone(), sure_of(answered(i), logits.ncols()))));
        teach.extend(learned);
        let kept = Kept { training_examples, features: at(&rows.features, &teach), logits: at(&logits, &teach) };
        let idle = Idle { examples: pick(&judge), features: at(&rows.features, &judge), logits: at(&logits, &judge) };
        Ok(Some((kept, idle)))
    }

    /// The base's answers to `examples`, to be kept.
    fn keep(&self, examples: Vec<Example>) -> Result<Option<Kept>> {
        if examples.is_empty() {
            return Ok(None);
        }
        let questions: Vec<&Example> = examples.iter().collect();
        let rows = self.rows(&Variant::Base, &questions, self.settings.threads)?;
        let keep = |logits: Array2<f32>| Kept {
            training_examples: kept_examples(examples, &logits),
            features: rows.features,
            logits,
        };
        Ok(rows.logits.map(keep))
    }

    pub(super) fn base_right(&self, seen: &Seen) -> Vec<bool> {
        let right = |(i, l): (usize, &TrainingExample)| {
            seen.logits.as_ref().and_then(|z| argmax(z.row(i))).is_some_and(|answer| l.target.agrees(answer))
        };
        self.dataset.training_examples.iter().enumerate().map(right).collect()
    }

    pub(super) fn taught<'a>(&'a self, seen: &'a Seen, rows: &[usize]) -> Result<Taught<'a>> {
        let training_examples = rows.iter().map(|&i| &self.dataset.training_examples[i]);
        let all: Vec<&TrainingExample> = training_examples.chain(seen.kept_examples()).collect();
        let join = |m: &Array2<f32>, more: Option<&Array2<f32>>| {
            let own = m.select(Axis(0), rows);
            match more {
                Some(more) => below(&own, more),
                None => Ok(own),
            }
        };
        let keep = seen.keep.as_ref();
        Ok(Taught {
            features: join(&seen.features, keep.map(|k| &k.features))?,
            logits: seen.logits.as_ref().map(|z| join(z, keep.map(|k| &k.logits))).transpose()?,
            targets: all.iter().map(|l| l.target()).collect(),
            weights: all.iter().map(|l| l.weight).collect(),
        })
    }
}

impl Seen {
    pub fn kept_examples(&self) -> impl Iterator<Item = &TrainingExample> {
        self.keep.iter().flat_map(|k| &k.training_examples)
    }
}

fn kept_examples(examples: Vec<Example>, logits: &Array2<f32>) -> Vec<TrainingExample> {
    examples.into_iter().zip(logits.rows()).map(|(example, z)| kept_example(example, softmax(z))).collect()
}

/// Trains to go on answering with these probabilities, [base classes].
fn kept_example(example: Example, keep: Vec<f32>) -> TrainingExample {
    let class = argmax(ArrayView1::from(&keep[..])).unwrap_or_default();
    TrainingExample { example, target: Target::Keep(class), weight: KEEP_WEIGHT, at_ms: 0, earlier: false, keep }
}

fn sure_of(class: usize, classes: usize) -> Vec<f32> {
    (0..classes).map(|c| if c == class { 1.0 } else { 0.0 }).collect()
}

fn joined(first: Option<Kept>, second: Option<Kept>) -> Result<Option<Kept>> {
    let (Some(a), Some(b)) = (&first, &second) else { return Ok(first.or(second)) };
    Ok(Some(Kept {
        features: below(&a.features, &b.features)?,
        logits: below(&a.logits, &b.logits)?,
        training_examples: a.training_examples.iter().chain(&b.training_examples).cloned().collect(),
    }))
}

/// The rows of `b` below those of `a`.
fn below(a: &Array2<f32>, b: &Array2<f32>) -> Result<Array2<f32>> {
    ndarray::concatenate(Axis(0), &[a.view(), b.view()]).map_err(|e| Error::internal("rows of two widths").because(e))
}

/// Rows that teach a head.
pub(super) struct Taught<'a> {
    pub features: Array2<f32>,
    pub logits: Option<Array2<f32>>,
    pub targets: Vec<LossTarget<'a>>,
    pub weights: Vec<f32>,
}

impl<'a> Taught<'a> {
    pub fn data(&'a self) -> HeadData<'a> {
        HeadData {
            features: self.features.view(),
            base: self.logits.as_ref().map(|z| z.view()),
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}
