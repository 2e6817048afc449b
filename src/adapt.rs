//! The loop that knows the whole story: lessons → a ladder of candidates → the gate → an adapter that may serve.
//!
//! Cheap candidates come first. Every candidate is judged on lessons that did not teach it: the lessons are cut into folds of
//! consecutive blocks, one fit a fold, side by side on the cores. A deeper candidate that falls behind on its first folds is
//! given up. The winner is trained once more on everything, checked against the base on inputs that nobody corrected, and only
//! then handed to the store.

use std::time::{Duration, Instant};

use ndarray::{Array1, Array2, ArrayView1};

use crate::adapter::{Depth, HeadDelta, SiteDelta};
use crate::error::{Error, ErrorKind, Result};
use crate::gate::paired::{Paired, power};
use crate::gate::retention::Retention;
use crate::gate::split::{Folds, SplitOptions};
use crate::gate::{CandidateEvidence, Limits, ServingEvidence, judge};
use crate::input::Example;
use crate::plan::{Engine, Factors, SiteKey, Variant, in_parallel};
use crate::train::fit::{Fit, Fitted, Go, Goal, Lesson, Recipe};
use crate::train::head::{Head, quiet_bias};
use crate::train::loss::{Target, cross_entropy};
use crate::train::solve::{HeadData, L2_GRID, SolveOptions};

/// Fewest lessons with a known answer before a training is worth its time.
pub const FEWEST_LESSONS: usize = 8;
/// Most uncorrected inputs that retention looks at: the latest ones.
pub(crate) const MOST_IDLE: usize = 256;
/// Penalty strengths for a head that corrects the base's own answers.
const GENTLE_GRID: [f32; 9] = [100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01];
/// Weight of an input that nobody corrected, beside 1 for one that somebody spoke about.
const KEEP_WEIGHT: f32 = 0.5;
/// Consecutive uncorrected inputs that stay on one side.
const KEEP_BLOCK: usize = 4;
/// Held-out looks at a fit: at these shares of its epochs.
const LOOKS: [f32; 3] = [0.4, 0.7, 1.0];

/// What a training may use and must keep to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Most optimiser steps of one fit.
    pub steps: Option<u64>,
    /// Most time for the whole training.
    pub budget: Option<Duration>,
    /// The gate's limits.
    pub limits: Limits,
    /// Hyper-parameters of the deeper candidates.
    pub recipe: Recipe,
    /// Deepest candidate to try.
    pub deepest: Depth,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            steps: None,
            budget: None,
            limits: Limits::default(),
            recipe: Recipe::default(),
            deepest: Depth::AllSites,
        }
    }
}

/// What there is to learn from.
pub(crate) struct Material {
    /// In order of time.
    pub lessons: Vec<Lesson>,
    /// For each lesson, whether the answer given at the time agreed with it.
    pub served_right: Vec<bool>,
    /// Inputs that nobody corrected, with the base class that was answered and left standing.
    pub idle: Vec<(Example, usize)>,
    pub base_classes: usize,
    pub classes: usize,
    pub features: usize,
}

/// Sites of the deeper candidates, shallowest first.
pub(crate) struct Ladder {
    pub last_block: SiteKey,
    pub all_sites: SiteKey,
}

/// The adapter that serves while a new one is trained.
pub(crate) struct Incumbent<'a> {
    pub generation: u64,
    pub sites: &'a SiteKey,
    pub factors: &'a Factors,
    pub head: Option<&'a Head>,
}

/// What a training found out.
pub(crate) struct Outcome {
    pub verdict: crate::adapter::Verdict,
    /// Deltas and head of the winner, when it may serve.
    pub winner: Option<Winner>,
    pub steps: u64,
    pub seconds: f64,
    /// One line a candidate, for people.
    pub tried: Vec<String>,
}

pub(crate) struct Winner {
    pub depth: Depth,
    pub deltas: Vec<SiteDelta>,
    pub head: Head,
    pub steps: u64,
    pub learning_rate: f32,
}

/// Where a training stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub stage: String,
    /// Part done, 0 to 1.
    pub done: f32,
}

/// One candidate's evidence: answers and losses on lessons that did not teach it.
struct Evidence {
    depth: Depth,
    sites: SiteKey,
    right: Vec<bool>,
    loss: Vec<f32>,
    retention: Retention,
    /// Epochs after which the held-out loss was lowest.
    epochs: u64,
    l2: f32,
}

pub(crate) struct Adaptation<'a> {
    pub engine: &'a Engine,
    pub material: &'a Material,
    pub ladder: &'a Ladder,
    pub settings: &'a Settings,
    pub incumbent: Option<Incumbent<'a>>,
    pub stop: &'a (dyn Fn() -> bool + Sync),
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// What the frozen base says about lessons and idle inputs, computed once.
struct Seen {
    features: Array2<f32>,
    logits: Option<Array2<f32>>,
    idle: Option<Idle>,
}

/// Uncorrected inputs whose answer, left standing, was the base's own. No input both teaches and judges: of every two blocks
/// of consecutive inputs one teaches what is to be kept, and the other judges whether it was.
struct Idle {
    keep: Vec<Lesson>,
    keep_features: Array2<f32>,
    keep_logits: Array2<f32>,
    examples: Vec<Example>,
    features: Array2<f32>,
    logits: Array2<f32>,
}

impl Adaptation<'_> {
    pub fn run(&self) -> Result<Outcome> {
        let started = Instant::now();
        let material = self.material;
        let judged: Vec<usize> =
            (0..material.lessons.len()).filter(|&i| matches!(material.lessons[i].goal, Goal::Class(_))).collect();
        if judged.len() < FEWEST_LESSONS {
            let more = FEWEST_LESSONS - judged.len();
            let reason = format!("{} answers are known; {more} more before the first training", judged.len());
            return Ok(self.nothing(reason, started));
        }
        self.say("looking at the inputs", 0.0);
        let seen = self.look()?;
        let base_right = self.base_right(&seen);
        let folds = self.folds()?;
        let mut tried = vec![];
        let mut steps = 0;
        let mut ladder = vec![self.head_only(&seen, &folds)?];
        tried.push(self.describe(&ladder[0], &judged));
        for (depth, sites) in [(Depth::LastBlock, &self.ladder.last_block), (Depth::AllSites, &self.ladder.all_sites)] {
            let repeated = ladder.iter().any(|e| e.sites == *sites);
            if sites.is_empty() || repeated || depth > self.settings.deepest {
                continue;
            }
            match self.deeper(depth, sites, &seen, &folds, &ladder, started)? {
                Ok((evidence, taken)) => {
                    steps += taken;
                    tried.push(self.describe(&evidence, &judged));
                    ladder.push(evidence);
                }
                Err((reason, taken)) => {
                    steps += taken;
                    tried.push(format!("{}: {reason}", depth_name(depth)));
                }
            }
        }
        self.decide(&seen, &base_right, &judged, ladder, tried, steps, started)
    }

    fn say(&self, stage: &str, done: f32) {
        (self.progress)(Progress { stage: stage.to_string(), done });
    }

    fn nothing(&self, reason: String, started: Instant) -> Outcome {
        let verdict = crate::adapter::Verdict {
            promoted: false,
            base_accuracy: 0.0,
            before: 0.0,
            after: 0.0,
            n: 0,
            p_value: 1.0,
            power: 0.0,
            retention: 1.0,
            retention_n: 0,
            depth: Depth::HeadOnly,
            reason,
        };
        Outcome { verdict, winner: None, steps: 0, seconds: started.elapsed().as_secs_f64(), tried: vec![] }
    }

    fn look(&self) -> Result<Seen> {
        let examples: Vec<&Example> = self.material.lessons.iter().map(|l| &l.example).collect();
        let rows = self.engine.many(&Variant::Base, &examples, self.settings.threads)?;
        let idle = self.look_idle()?;
        Ok(Seen { features: rows.features, logits: rows.logits, idle })
    }

    fn look_idle(&self) -> Result<Option<Idle>> {
        let all: Vec<&Example> = self.material.idle.iter().map(|(e, _)| e).collect();
        if all.is_empty() || self.material.base_classes == 0 {
            return Ok(None);
        }
        let rows = self.engine.many(&Variant::Base, &all, self.settings.threads)?;
        let Some(logits) = rows.logits else { return Ok(None) };
        let stood: Vec<usize> =
            (0..all.len()).filter(|&i| argmax(logits.row(i)) == Some(self.material.idle[i].1)).collect();
        let (teach, judge): (Vec<_>, Vec<_>) =
            stood.into_iter().enumerate().partition(|(at, _)| (at / KEEP_BLOCK).is_multiple_of(2));
        let (teach, judge): (Vec<usize>, Vec<usize>) =
            (teach.into_iter().map(|(_, i)| i).collect(), judge.into_iter().map(|(_, i)| i).collect());
        let keep = |&i: &usize| Lesson {
            example: all[i].clone(),
            goal: Goal::Keep(self.material.idle[i].1),
            weight: KEEP_WEIGHT,
            at_ms: 0,
            earlier: false,
            keep: softmax(logits.row(i)),
        };
        let at = |m: &Array2<f32>, rows: &[usize]| m.select(ndarray::Axis(0), rows);
        Ok(Some(Idle {
            keep: teach.iter().map(keep).collect(),
            keep_features: at(&rows.features, &teach),
            keep_logits: at(&logits, &teach),
            examples: judge.iter().map(|&i| all[i].clone()).collect(),
            features: at(&rows.features, &judge),
            logits: at(&logits, &judge),
        }))
    }

    fn base_right(&self, seen: &Seen) -> Vec<bool> {
        let right = |(i, l): (usize, &Lesson)| {
            seen.logits.as_ref().and_then(|z| argmax(z.row(i))).is_some_and(|answer| l.goal.agrees(answer))
        };
        self.material.lessons.iter().enumerate().map(right).collect()
    }

    /// Blocks of consecutive lessons, so that near-duplicates stay on one side; fewer folds when there is more to judge with.
    fn folds(&self) -> Result<Folds> {
        let n = self.material.lessons.len();
        let times: Vec<u64> = self.material.lessons.iter().map(|l| l.at_ms).collect();
        let folds = match n {
            0..=15 => n as u32 / 2,
            16..=149 => 4,
            _ => 2,
        };
        let block = (n / 24).clamp(1, 8);
        Folds::new(
            &times,
            &SplitOptions { folds, block, glue: 0, embargo_items: 0, embargo_time: 0, seed: self.settings.seed },
        )
    }

    /// The head of zeros: it acts on the base classes that some lesson names, and on every new class.
    fn blank_head(&self, seen: &Seen) -> Result<Head> {
        let m = self.material;
        let mut columns: Vec<u32> = m.lessons.iter().map(|l| l.goal.class() as u32).collect();
        // What the base answered wrongly must be able to step back.
        if let Some(z) = &seen.logits {
            columns.extend(z.rows().into_iter().filter_map(argmax).map(|c| c as u32));
        }
        columns.retain(|c| (*c as usize) < m.base_classes);
        columns.extend((m.base_classes..m.classes).map(|c| c as u32));
        columns.sort_unstable();
        columns.dedup();
        let n = columns.len();
        let quiet = seen.logits.as_ref().map_or(0.0, |z| quiet_bias(z.view()));
        let bias: Array1<f32> =
            columns.iter().map(|c| if (*c as usize) < m.base_classes { 0.0 } else { quiet }).collect();
        let weight = Array2::zeros((m.features, n));
        let head =
            Head { features: m.features, base_classes: m.base_classes, classes: m.classes, columns, weight, bias };
        head.check()?;
        Ok(head)
    }

    /// Solves the head on these lessons and on what is to be kept.
    fn solved_head(&self, seen: &Seen, rows: &[usize], l2: f32) -> Result<Head> {
        let mut head = self.blank_head(seen)?;
        let taught = self.taught(seen, rows)?;
        head.solve(&taught.data(), &SolveOptions { l2, ..SolveOptions::default() })?;
        Ok(head)
    }

    fn taught<'a>(&'a self, seen: &'a Seen, rows: &[usize]) -> Result<Taught<'a>> {
        let lessons = rows.iter().map(|&i| &self.material.lessons[i]);
        let keep = seen.idle.iter().flat_map(|i| &i.keep);
        let all: Vec<&Lesson> = lessons.chain(keep).collect();
        let join = |m: &Array2<f32>, more: Option<&Array2<f32>>| -> Result<Array2<f32>> {
            let own = m.select(ndarray::Axis(0), rows);
            match more {
                Some(more) => ndarray::concatenate(ndarray::Axis(0), &[own.view(), more.view()])
                    .map_err(|e| Error::internal("features of two widths").because(e)),
                None => Ok(own),
            }
        };
        let idle = seen.idle.as_ref();
        Ok(Taught {
            features: join(&seen.features, idle.map(|i| &i.keep_features))?,
            logits: seen.logits.as_ref().map(|z| join(z, idle.map(|i| &i.keep_logits))).transpose()?,
            targets: all.iter().map(|l| l.target()).collect(),
            weights: all.iter().map(|l| l.weight).collect(),
        })
    }

    fn head_only(&self, seen: &Seen, folds: &Folds) -> Result<Evidence> {
        self.say("head", 0.0);
        let all: Vec<usize> = (0..self.material.lessons.len()).collect();
        let taught = self.taught(seen, &all)?;
        // What is to be kept is a fold of its own: it judges a head that only feedback taught, and teaches all others.
        let mut fold_of = folds.fold_of().to_vec();
        fold_of.resize(taught.weights.len(), folds.folds());
        let (blank, options) = (self.blank_head(seen)?, SolveOptions::default());
        let choice = match self.material.base_classes {
            0 => blank.choose_l2(&taught.data(), &fold_of, &L2_GRID, &options)?,
            _ => blank.choose_gentle_l2(&taught.data(), &fold_of, &GENTLE_GRID, &options)?,
        };
        let (right, loss) = self.score(&choice.held_out.slice(ndarray::s![..all.len(), ..]).to_owned())?;
        let solved = self.solved_head(seen, &all, choice.l2)?;
        let retention = self.retention(seen, &Variant::Base, &solved)?;
        Ok(Evidence { depth: Depth::HeadOnly, sites: vec![], right, loss, retention, epochs: 0, l2: choice.l2 })
    }

    /// Right or wrong, and loss, of every row of `logits` (one a lesson).
    fn score(&self, logits: &Array2<f32>) -> Result<(Vec<bool>, Vec<f32>)> {
        let lessons = &self.material.lessons;
        let right = |(z, l): (ArrayView1<f32>, &Lesson)| argmax(z).is_some_and(|answer| l.goal.agrees(answer));
        let right = logits.rows().into_iter().zip(lessons).map(right).collect();
        let targets: Vec<_> = lessons.iter().map(|l| l.target()).collect();
        let loss = cross_entropy(logits.view(), &targets, &vec![1.0; lessons.len()], 0.0)?;
        Ok((right, loss.rows))
    }

    fn retention(&self, seen: &Seen, variant: &Variant, head: &Head) -> Result<Retention> {
        let Some(idle) = seen.idle.as_ref().filter(|i| !i.examples.is_empty()) else {
            return Ok(Retention::from_counts(0, 0, 0.0));
        };
        let adapted = match variant {
            Variant::Base => head.forward(idle.features.view(), Some(idle.logits.view()))?,
            _ => {
                let examples: Vec<&Example> = idle.examples.iter().collect();
                let rows = self.engine.many(variant, &examples, self.settings.threads)?;
                head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?
            }
        };
        Retention::measure(idle.logits.view(), adapted.view())
    }

    /// Whether only the base's own classes are corrected. Then it is the input that has shifted (another person, another
    /// sensor), and early layers are where such a shift is best undone (Lee et al. 2023, *Surgical fine-tuning*): the head
    /// hardly moves, and a deeper candidate wins a tie. New classes instead are read off features that are there already:
    /// the head moves fast, and the shallower candidate wins a tie.
    fn corrects_only(&self) -> bool {
        self.material.base_classes > 0 && self.material.classes == self.material.base_classes
    }

    fn recipe(&self, lessons: usize) -> Recipe {
        let mut recipe = Recipe { seed: self.settings.seed, ..self.settings.recipe.clone() };
        if self.corrects_only() {
            // The head moves little: what has shifted is the input. Chosen on the activity people (see docs/training.md).
            (recipe.lr, recipe.epochs, recipe.head_lr) = (recipe.lr * 2.5, recipe.epochs, 0.1);
        }
        let per_epoch = lessons.div_ceil(recipe.batch).max(1) as u64;
        if let Some(most) = self.settings.steps {
            recipe.epochs = recipe.epochs.min(most.div_ceil(per_epoch)).max(1);
        }
        recipe
    }

    /// Folds of a deeper candidate, as many side by side as there are threads. `Err` of the inner result gives it up.
    #[allow(clippy::type_complexity)]
    fn deeper(
        &self,
        depth: Depth,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        before: &[Evidence],
        started: Instant,
    ) -> Result<std::result::Result<(Evidence, u64), (String, u64)>> {
        let name = depth_name(depth);
        let n = self.material.lessons.len();
        let l2 = before[0].l2;
        let recipe = self.recipe(n);
        let looks: Vec<u64> = LOOKS.iter().map(|s| ((recipe.epochs as f32 * s).round() as u64).max(1)).collect();
        let mut held_out: Vec<Array2<f32>> = vec![Array2::zeros((n, self.material.classes)); looks.len()];
        let all: Vec<u32> = (0..folds.folds()).collect();
        let side_by_side = self.settings.threads.max(1);
        let (mut steps, mut judged): (u64, Vec<usize>) = (0, vec![]);
        let mut retention = None;
        let began = Instant::now();
        for (round, group) in all.chunks(side_by_side).enumerate() {
            self.say(name, judged.len() as f32 / (n as f32 * 1.3));
            let inner_threads = if group.len() == 1 { self.settings.threads } else { 1 };
            let fits = in_parallel(side_by_side, group, |&fold| {
                self.fold_fit(sites, seen, folds, fold, &recipe, &looks, inner_threads)
            });
            let fits = match fits {
                Err(e) if e.kind() == ErrorKind::UnsupportedModel => return Ok(Err((e.to_string(), steps))),
                other => other?,
            };
            for (&fold, (fitted, at_looks)) in group.iter().zip(fits) {
                let judges = folds.judges(fold);
                for (all, part) in held_out.iter_mut().zip(&at_looks) {
                    for (at, &i) in judges.iter().enumerate() {
                        all.row_mut(i).assign(&part.row(at));
                    }
                }
                steps += fitted.steps;
                judged.extend(judges);
                if retention.is_none() {
                    let factors = Factors::of(&fitted.deltas)?;
                    retention = Some(self.retention(seen, &Variant::Adapted(sites, &factors), &fitted.head)?);
                }
            }
            if judged.len() < n {
                if let Some(reason) = self.falls_behind(&held_out, &judged, before)? {
                    return Ok(Err((reason, steps)));
                }
                let rounds = all.len().div_ceil(side_by_side) as u32;
                // What is left of the folds, and the fit on everything.
                let ahead = began.elapsed() / (round as u32 + 1) * (rounds - round as u32 - 1)
                    + began.elapsed() / (round as u32 + 1);
                if self.settings.budget.is_some_and(|b| started.elapsed() + ahead > b) {
                    return Ok(Err(("the time budget does not reach; raise --budget-seconds".into(), steps)));
                }
            }
        }
        // The look with the most held-out answers right, on equal ones the smallest loss: an early stop that every fold votes on.
        let mut best: Option<((usize, f64), usize)> = None;
        for (look, logits) in held_out.iter().enumerate() {
            let (right, loss) = self.score(logits)?;
            let (right, loss) = (right.iter().filter(|r| **r).count(), loss.iter().map(|l| *l as f64).sum::<f64>());
            if best.is_none_or(|((most, least), _)| right > most || (right == most && loss < least)) {
                best = Some(((right, loss), look));
            }
        }
        let look = best.map_or(looks.len() - 1, |(_, look)| look);
        let (right, loss) = self.score(&held_out[look])?;
        let retention = retention.unwrap_or_else(|| Retention::from_counts(0, 0, 0.0));
        let epochs = looks[look];
        Ok(Ok((Evidence { depth, sites: sites.clone(), right, loss, retention, epochs, l2 }, steps)))
    }

    /// Trains on a fold's teachers and answers its judges at each look.
    #[allow(clippy::too_many_arguments)]
    fn fold_fit(
        &self,
        sites: &SiteKey,
        seen: &Seen,
        folds: &Folds,
        fold: u32,
        recipe: &Recipe,
        looks: &[u64],
        threads: usize,
    ) -> Result<(Fitted, Vec<Array2<f32>>)> {
        let (teachers, judges) = (folds.teachers(fold), folds.judges(fold));
        let head = self.blank_head(seen)?;
        let keep = seen.idle.iter().flat_map(|i| &i.keep);
        let lessons: Vec<&Lesson> = teachers.iter().map(|&i| &self.material.lessons[i]).chain(keep).collect();
        let questions: Vec<&Example> = judges.iter().map(|&i| &self.material.lessons[i].example).collect();
        let mut answers = vec![];
        let fit = Fit::new(self.engine, lessons, sites, head, recipe, threads)?;
        let fitted = fit.run(self.stop, |epoch, deltas, head| {
            for _ in looks.iter().filter(|l| **l == epoch + 1) {
                let factors = Factors::of(deltas)?;
                let rows = self.engine.many(&Variant::Adapted(sites, &factors), &questions, threads)?;
                answers.push(head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?);
            }
            Ok(Go::On)
        })?;
        match answers.last().cloned() {
            Some(last) => answers.resize(looks.len(), last),
            None => return Err(Error::internal("a fit without a look")),
        }
        Ok((fitted, answers))
    }

    /// A candidate that is behind in accuracy and in loss on the folds so far is not worth the rest.
    fn falls_behind(&self, held_out: &[Array2<f32>], judged: &[usize], before: &[Evidence]) -> Result<Option<String>> {
        let mean = |loss: &[f32]| judged.iter().map(|&i| loss[i] as f64).sum::<f64>() / judged.len() as f64;
        let rate = |right: &[bool]| judged.iter().filter(|&&i| right[i]).count() as f64 / judged.len() as f64;
        let mut best = (0.0, f64::INFINITY);
        for logits in held_out {
            let (right, loss) = self.score(logits)?;
            best = (rate(&right).max(best.0), mean(&loss).min(best.1));
        }
        // Clearly: by more than a standard error of its accuracy.
        let error = (best.0 * (1.0 - best.0) / judged.len() as f64).sqrt();
        let ahead = before.iter().find(|e| rate(&e.right) > best.0 + error && mean(&e.loss) < best.1);
        Ok(ahead.map(|e| {
            format!(
                "given up after {} answers: {:.0} % right, the {} had {:.0} % and a smaller loss",
                judged.len(),
                100.0 * best.0,
                depth_name(e.depth),
                100.0 * rate(&e.right)
            )
        }))
    }

    fn describe(&self, e: &Evidence, judged: &[usize]) -> String {
        let right = judged.iter().filter(|&&i| e.right[i]).count();
        format!("{}: {right} of {} unseen answers right", depth_name(e.depth), judged.len())
    }

    #[allow(clippy::too_many_arguments)]
    fn decide(
        &self,
        seen: &Seen,
        base_right: &[bool],
        judged: &[usize],
        ladder: Vec<Evidence>,
        tried: Vec<String>,
        mut steps: u64,
        started: Instant,
    ) -> Result<Outcome> {
        let limits = &self.settings.limits;
        let pick = |v: &[bool]| -> Vec<bool> { judged.iter().map(|&i| v[i]).collect() };
        let base = pick(base_right);
        let parts: Vec<(Vec<bool>, Vec<f32>)> =
            ladder.iter().map(|e| (pick(&e.right), judged.iter().map(|&i| e.loss[i]).collect())).collect();
        let evidence: Vec<CandidateEvidence> = ladder
            .iter()
            .zip(&parts)
            .map(|(e, (correct, loss))| CandidateEvidence {
                name: depth_name(e.depth),
                // Order of preference on a tie.
                depth: if self.corrects_only() { Depth::AllSites as u32 - e.depth as u32 } else { e.depth as u32 },
                correct,
                loss,
                retention: e.retention,
            })
            .collect();
        let call = judge(&ServingEvidence { correct: &base }, &evidence, limits)?;
        let accuracy = |v: &[bool]| v.iter().filter(|r| **r).count() as f64 / v.len().max(1) as f64;
        let before = accuracy(&pick(&self.material.served_right));
        let shown = call.chosen.unwrap_or_else(|| best_shown(&parts));
        let test = Paired::count(&parts[shown].0, &base);
        let mut verdict = crate::adapter::Verdict {
            promoted: false,
            base_accuracy: accuracy(&base),
            before,
            after: accuracy(&parts[shown].0),
            n: judged.len() as u64,
            p_value: test.p(),
            power: power(judged.len() as u64, 0.1, 0.01, limits.alpha),
            retention: 1.0 - ladder[shown].retention.rate,
            retention_n: ladder[shown].retention.n,
            depth: ladder[shown].depth,
            reason: call.reason.clone(),
        };
        let done = |verdict, winner, steps| {
            Ok(Outcome { verdict, winner, steps, seconds: started.elapsed().as_secs_f64(), tried: tried.clone() })
        };
        let Some(chosen) = call.chosen else { return done(verdict, None, steps) };
        if let Some(reason) = self.no_gain_on_fresh(&ladder[chosen])? {
            verdict.reason = reason;
            return done(verdict, None, steps);
        }
        self.say("training on everything", 0.8);
        let winner = self.refit(&ladder[chosen], seen)?;
        steps += winner.steps;
        let key: SiteKey = ladder[chosen].sites.clone();
        let factors = Factors::of(&winner.deltas)?;
        let variant = if key.is_empty() { Variant::Base } else { Variant::Adapted(&key, &factors) };
        let retention = self.retention(seen, &variant, &winner.head)?;
        verdict.retention = 1.0 - retention.rate;
        verdict.retention_n = retention.n;
        if retention.n > 0 && retention.rate > limits.disagreement {
            verdict.reason = format!(
                "trained on everything it changes {:.0} % of the answers that nobody had corrected; the limit is {:.0} %",
                100.0 * retention.rate,
                100.0 * limits.disagreement
            );
            return done(verdict, None, steps);
        }
        verdict.promoted = true;
        done(verdict, Some(winner), steps)
    }

    /// Against a serving generation the candidate must also show a gain on what came after that generation: more answers right,
    /// or as many right and a smaller loss on clearly more than half of them.
    fn no_gain_on_fresh(&self, e: &Evidence) -> Result<Option<String>> {
        let Some(incumbent) = &self.incumbent else { return Ok(None) };
        let lessons = &self.material.lessons;
        let fresh: Vec<usize> = (0..lessons.len()).filter(|&i| !lessons[i].earlier).collect();
        if fresh.is_empty() {
            return Ok(Some(format!("there is no feedback since generation {} was trained", incumbent.generation)));
        }
        let questions: Vec<&Example> = fresh.iter().map(|&i| &lessons[i].example).collect();
        let variant = match incumbent.sites.is_empty() {
            true => Variant::Base,
            false => Variant::Adapted(incumbent.sites, incumbent.factors),
        };
        let rows = self.engine.many(&variant, &questions, self.settings.threads)?;
        let logits = match incumbent.head {
            Some(head) => head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?,
            None => match rows.logits {
                Some(z) => z,
                None => return Ok(None),
            },
        };
        let mut padded = Array2::from_elem((fresh.len(), self.material.classes), -30.0f32);
        padded.slice_mut(ndarray::s![.., ..logits.ncols()]).assign(&logits);
        let targets: Vec<_> = fresh.iter().map(|&i| lessons[i].target()).collect();
        let loss = cross_entropy(padded.view(), &targets, &vec![1.0; fresh.len()], 0.0)?.rows;
        let theirs: Vec<bool> = padded
            .rows()
            .into_iter()
            .zip(&fresh)
            .map(|(z, &i)| argmax(z).is_some_and(|answer| lessons[i].goal.agrees(answer)))
            .collect();
        let ours: Vec<bool> = fresh.iter().map(|&i| e.right[i]).collect();
        let test = Paired::count(&ours, &theirs);
        let lower: Vec<bool> = fresh.iter().zip(&loss).map(|(&i, theirs)| e.loss[i] < *theirs).collect();
        let higher: Vec<bool> = lower.iter().map(|l| !l).collect();
        let surer = Paired::count(&lower, &higher).p() <= self.settings.limits.alpha;
        let better = test.wins > test.losses || (test.wins == test.losses && surer);
        Ok((!better).then(|| {
            format!(
                "on the {} answers since generation {} the candidate has {} right that it had wrong, and {} wrong that it had right",
                fresh.len(),
                incumbent.generation,
                test.wins,
                test.losses
            )
        }))
    }

    fn refit(&self, e: &Evidence, seen: &Seen) -> Result<Winner> {
        let all: Vec<usize> = (0..self.material.lessons.len()).collect();
        if e.sites.is_empty() {
            let head = self.solved_head(seen, &all, e.l2)?;
            return Ok(Winner { depth: e.depth, deltas: vec![], head, steps: 0, learning_rate: 0.0 });
        }
        let head = self.blank_head(seen)?;
        let keep = seen.idle.iter().flat_map(|i| &i.keep);
        let lessons: Vec<&Lesson> = self.material.lessons.iter().chain(keep).collect();
        let recipe = self.recipe(lessons.len());
        let fit = Fit::new(self.engine, lessons, &e.sites, head, &recipe, self.settings.threads)?;
        let fitted = fit.run(self.stop, |epoch, _, _| {
            self.say("training on everything", 0.8 + 0.2 * (epoch + 1) as f32 / e.epochs as f32);
            Ok(if epoch + 1 >= e.epochs { Go::Enough } else { Go::On })
        })?;
        Ok(Winner {
            depth: e.depth,
            deltas: fitted.deltas,
            head: fitted.head,
            steps: fitted.steps,
            learning_rate: recipe.lr,
        })
    }
}

/// Rows that teach a head.
struct Taught<'a> {
    features: Array2<f32>,
    logits: Option<Array2<f32>>,
    targets: Vec<Target<'a>>,
    weights: Vec<f32>,
}

impl<'a> Taught<'a> {
    fn data(&'a self) -> HeadData<'a> {
        HeadData {
            features: self.features.view(),
            base: self.logits.as_ref().map(|z| z.view()),
            targets: &self.targets,
            weights: &self.weights,
        }
    }
}

fn softmax(row: ArrayView1<f32>) -> Vec<f32> {
    let largest = row.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let exps: Vec<f32> = row.iter().map(|z| (z - largest).exp()).collect();
    let total: f32 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}

fn best_shown(parts: &[(Vec<bool>, Vec<f32>)]) -> usize {
    let right = |p: &(Vec<bool>, Vec<f32>)| p.0.iter().filter(|r| **r).count();
    // The first of equals: the shallowest.
    (0..parts.len()).rev().max_by_key(|&i| right(&parts[i])).unwrap_or(0)
}

/// The word for a depth on the command line.
pub fn depth_name(depth: Depth) -> &'static str {
    match depth {
        Depth::HeadOnly => "head",
        Depth::LastBlock => "last block",
        Depth::AllSites => "all sites",
    }
}

/// Index of the largest value; the first of equals.
pub(crate) fn argmax(row: ArrayView1<f32>) -> Option<usize> {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]))
}

/// A head as an adapter file keeps it.
pub(crate) fn head_delta(head: &Head, pooling: crate::adapter::Pooling) -> HeadDelta {
    HeadDelta {
        features: head.features,
        base_classes: head.base_classes,
        classes: head.classes,
        pooling,
        columns: head.columns.clone(),
        weight: crate::adapter::DenseTensor {
            shape: vec![head.features, head.columns.len()],
            data: head.weight.iter().copied().collect(),
        },
        bias: head.bias.to_vec(),
    }
}
