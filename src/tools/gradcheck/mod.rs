//! Checks the gradients of any model against finite differences of its forward pass, and writes them down so that another
//! framework can check them too.

mod dump;

use std::path::Path;

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adapter::SiteDelta;
use crate::base::{Base, Task};
use crate::error::{Error, Result};
use crate::input::Example;
use crate::plan::{Batch, Deltas, Ends, Factors, ForwardPlan, Keeps, Padding, TrainPlan, Trains, survey};
use crate::sites::Pattern;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Examples per run.
    pub batch: usize,
    /// Sequence length, where the model has one.
    pub sequence: usize,
    /// Rank of every site.
    pub rank: usize,
    /// Scale `alpha / rank` of the deltas.
    pub scale: f32,
    /// Sites to check.
    pub sites: Pattern,
    /// Seed of inputs, factors, cotangents and directions.
    pub seed: u64,
    /// Largest relative error that passes.
    pub tolerance: f64,
    /// How the passes are made.
    pub passes: Passes,
    /// Time after which no further site is checked; the first one always is. None checks all.
    pub budget: Option<Duration>,
}

/// How the forward and the backward pass are made: three ways to the same gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passes {
    /// Of plain operators: the reference.
    Composed,
    /// Of fused operators, as trainings take them.
    #[default]
    Fused,
    /// The same with gradient checkpointing, as trainings take it where memory is short.
    Checkpointed,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch: 2,
            sequence: 16,
            rank: 4,
            scale: 2.0,
            sites: Pattern::default(),
            seed: 0,
            tolerance: 2e-2,
            passes: Passes::default(),
            budget: None,
        }
    }
}

/// Gradient of one site.
#[derive(Debug, Clone)]
pub struct SiteReport {
    /// Name of the ONNX node.
    pub name: String,
    /// `|finite difference - <gradient, direction>| / |gradient|` along a direction that is half the gradient's own; the larger of A's and B's.
    pub relative_error: f64,
    /// False where finite differences say nothing: they give another slope at every step size, as behind a rounding, at a kink, or for a
    /// gradient too small for single precision.
    pub measurable: bool,
}

/// What a check says of a model's gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every site that was checked and can be measured is within the tolerance, and there is one.
    Right,
    /// A site is off.
    Wrong,
    /// Of no site that was checked do finite differences say anything.
    Unknown,
}

/// Outcome of a check.
#[derive(Debug, Clone)]
pub struct Report {
    /// One row a site that was checked, in evaluation order.
    pub sites: Vec<SiteReport>,
    /// Sites that the time did not suffice for.
    pub unchecked: Vec<String>,
    /// Largest error of a site that can be measured.
    pub worst: f64,
    /// What passes.
    pub tolerance: f64,
    /// Sites that no gradient reaches, with what stands in the way.
    pub unreachable: Vec<String>,
}

impl Report {
    /// What the sites that were checked say together.
    pub fn verdict(&self) -> Verdict {
        match self.unmeasured() == self.sites.len() {
            true => Verdict::Unknown,
            false if self.worst <= self.tolerance => Verdict::Right,
            false => Verdict::Wrong,
        }
    }
    /// Sites of which finite differences say nothing.
    pub fn unmeasured(&self) -> usize {
        self.sites.iter().filter(|s| !s.measurable).count()
    }
}

/// A model with deltas, inputs, and the gradients of `Σ <output, cotangent>`.
#[derive(Debug)]
pub struct Gradients {
    /// The inputs, one example a row of the batch.
    pub examples: Vec<Example>,
    /// The deltas.
    pub deltas: Vec<SiteDelta>,
    /// One cotangent an output.
    pub cotangents: Vec<ArrayD<f32>>,
    /// The adapted outputs.
    pub outputs: Vec<ArrayD<f32>>,
    /// Gradients of `A` and of `B` of every site, in the order of `deltas`.
    pub gradients: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Runs the forward and the backward plan once.
///
/// # Errors
/// When the model, the deltas or the inputs do not fit each other, or a gradient does not exist on the path.
pub fn gradients(
    base: &Base,
    examples: Vec<Example>,
    deltas: Vec<SiteDelta>,
    cotangents: Option<Vec<ArrayD<f32>>>,
    seed: u64,
    passes: Passes,
) -> Result<Gradients> {
    let sequence = examples.iter().map(|e| crate::plan::sequence_length(base, e)).max().unwrap_or(0);
    let bucket = base.bucket(examples.len(), sequence);
    let wanted: Vec<(String, usize)> = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
    let (fused, keeps) = match passes {
        Passes::Composed => (false, Keeps::Everything),
        Passes::Fused => (true, Keeps::Everything),
        Passes::Checkpointed => (true, Keeps::Checkpoints),
    };
    let plan = Arc::new(TrainPlan::of_factors(base, Ends::Model, &bucket, &wanted, (Trains::Both, keeps), fused)?);
    let deltas = in_plan_order(&plan, deltas)?;
    let rows: Vec<&Example> = examples.iter().collect();
    rows.iter().try_for_each(|e| crate::plan::check(base, e))?;
    let mut worker = plan.worker()?;
    let batch = worker.enter(Batch::new(base, &bucket, &rows, Padding::Exact)?)?;
    let (outputs, tape) = worker.forward_all(&batch, &Factors::of(&deltas)?)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x00c0_7a96);
    let cotangents = cotangents
        .unwrap_or_else(|| outputs.iter().map(|o| o.mapv(|_| rng.random_range(-1.0f32..1.0))).collect::<Vec<_>>());
    let flat = worker.backward_all(tape, cotangents.clone())?;
    let gradients = flat
        .chunks_exact(2)
        .zip(&deltas)
        // The plan takes s·B: the gradient of B itself is s times the plan's.
        .map(|(ab, d)| (ab[0].clone(), ab[1].iter().map(|g| g * d.scale()).collect()))
        .collect();
    Ok(Gradients { examples, deltas, cotangents, outputs, gradients })
}

fn in_plan_order(plan: &TrainPlan, mut deltas: Vec<SiteDelta>) -> Result<Vec<SiteDelta>> {
    let order = |name: &str| plan.sites.iter().position(|(s, _)| s.name == name);
    for d in &deltas {
        let Some(ix) = order(&d.name) else { return Err(Error::bad_data("no such site").at(&d.name)) };
        let (site, rank) = &plan.sites[ix];
        if d.a.shape != site.a_shape(*rank) || d.b.shape != site.b_shape(*rank) {
            return Err(Error::bad_data(format!("A {:?} and B {:?} do not fit", d.a.shape, d.b.shape))
                .at(&d.name)
                .because(format!("the site takes {:?} and {:?}", site.a_shape(*rank), site.b_shape(*rank))));
        }
    }
    deltas.sort_by_key(|d| order(&d.name));
    Ok(deltas)
}

/// Random deltas on every reachable site of `base` that the pattern names; the names of the others come second.
pub fn random_deltas(base: &Base, task: Task, options: &Options) -> Result<(Vec<SiteDelta>, Vec<String>)> {
    use crate::adapter::DenseTensor;
    let bucket = base.bucket(options.batch, options.sequence);
    let survey = survey(base, task, &bucket)?;
    let chosen: Vec<_> = survey.table.sites.iter().filter(|s| options.sites.selects(s)).collect();
    if chosen.is_empty() {
        return Err(no_site(base, survey.table.sites.len(), &options.sites));
    }
    let wanted: Vec<(String, usize)> = chosen.iter().map(|s| (s.name.clone(), s.clamp_rank(options.rank))).collect();
    let reach = TrainPlan::reach(base, Ends::Model, &bucket, &wanted, Keeps::Everything)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut random = |shape: Vec<usize>, size: f32| DenseTensor {
        data: (0..shape.iter().product()).map(|_| rng.random_range(-size..size)).collect(),
        shape,
    };
    let (mut deltas, mut unreachable) = (vec![], vec![]);
    for site in chosen {
        if !reach.reachable.contains(&site.name) {
            let first =
                reach.blocked.first().map_or(String::new(), |b| format!(": {} ({}) {}", b.node, b.op, b.reason));
            unreachable.push(format!("{}{first}", site.name));
            continue;
        }
        let rank = site.clamp_rank(options.rank);
        deltas.push(SiteDelta {
            name: site.name.clone(),
            kind: site.kind,
            rank: rank as u32,
            alpha: options.scale * rank as f32,
            a: random(site.a_shape(rank), (site.fan_in() as f32).sqrt().recip()),
            b: random(site.b_shape(rank), 0.1),
        });
    }
    Ok((deltas, unreachable))
}

pub(crate) fn no_site(base: &Base, all: usize, pattern: &Pattern) -> Error {
    let place = base.path().display();
    if all == 0 {
        Error::unsupported("the model has no layer that could adapt").at(place).hint(
            "`acclimate inspect` lists what was looked at and why it does not fit; a head alone can still be trained",
        )
    } else {
        Error::usage(format!("no site matches {pattern:?}", pattern = pattern.to_string()))
            .at(place)
            .hint("`acclimate inspect` lists the names; `*` stands for anything")
    }
}

/// Compares gradients of sites with finite differences, one site after the other in a fixed order that soon covers the whole depth, until all
/// are checked or the budget is used up; writes the dump, of all sites, when a folder is given.
///
/// # Errors
/// When a model's gradients cannot be built or run, no gradient reaches any site, or the dump cannot be written.
pub fn check(base: &Base, task: Task, options: &Options, dump: Option<&Path>) -> Result<Report> {
    let start = Instant::now();
    let bucket = base.bucket(options.batch, options.sequence);
    let (deltas, unreachable) = random_deltas(base, task, options)?;
    if deltas.is_empty() {
        return Err(Error::unsupported("no gradient reaches any site")
            .at(base.path().display())
            .because(unreachable.first().cloned().unwrap_or_default())
            .hint("sites after that node still train: choose them with --sites; `acclimate inspect` lists them"));
    }
    let examples = base.random_examples(&bucket, options.seed)?;
    let g = gradients(base, examples, deltas, None, options.seed, options.passes)?;
    if let Some(folder) = dump {
        dump::write(base, folder, &g, options.scale)?;
    }
    let mut wanted: Vec<(String, usize)> = vec![];
    wanted.extend(g.deltas.iter().map(|d| (d.name.clone(), d.rank as usize)));
    let plan = ForwardPlan::new(base, Ends::Model, &bucket, &Deltas::Inputs(&wanted))?;
    let rows: Vec<&Example> = g.examples.iter().collect();
    let batch = Batch::new(base, &bucket, &rows, Padding::Exact)?;
    let loss = |deltas: &[SiteDelta]| -> Result<f64> {
        let outputs = plan.run_all(&batch, &Factors::of(deltas)?)?;
        let pairs = outputs.iter().zip(&g.cotangents);
        Ok(pairs.map(|(o, c)| o.iter().zip(c).map(|(o, c)| *o as f64 * *c as f64).sum::<f64>()).sum())
    };
    let terms = g.outputs.iter().zip(&g.cotangents).flat_map(|(o, c)| o.iter().zip(c));
    let limits = Limits {
        tolerance: options.tolerance,
        resolution: f64::from(f32::EPSILON) * terms.map(|(o, c)| f64::from((o * c).abs())).sum::<f64>(),
        rounds: base.rounds(),
    };
    let here = loss(&g.deltas)?;
    let site = |ix: usize| -> Result<SiteReport> {
        let (ga, gb) = &g.gradients[ix];
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ 0xd1ec ^ (ix as u64) << 16);
        let mut factor = |part: usize, gradient: &[f32]| {
            let gradient: Vec<f64> = gradient.iter().map(|v| *v as f64).collect();
            measure(&gradient, &limits, &mut rng, here, |direction, step| {
                let mut moved = g.deltas.clone();
                let d = &mut moved[ix];
                let factor = if part == 0 { &mut d.a } else { &mut d.b };
                factor.data.iter_mut().zip(direction).for_each(|(v, d)| *v += (step * d) as f32);
                loss(&moved)
            })
        };
        let parts = [factor(0, ga)?, factor(1, gb)?];
        // What is off in one factor is off, whatever the other one's differences are worth.
        let off = parts.iter().any(|m| m.settled && m.error > options.tolerance);
        let measurable = off || parts.iter().all(|m| m.settled);
        let counts = parts.iter().filter(|m| m.settled || !off).map(|m| m.error);
        Ok(SiteReport { name: g.deltas[ix].name.clone(), relative_error: counts.fold(0.0, f64::max), measurable })
    };
    let mut rows: Vec<Option<SiteReport>> = vec![None; g.deltas.len()];
    for (nth, ix) in across_the_depth(rows.len()).into_iter().enumerate() {
        if nth > 0 && options.budget.is_some_and(|budget| start.elapsed() >= budget) {
            break;
        }
        rows[ix] = Some(site(ix)?);
    }
    let name = |(row, d): (&Option<SiteReport>, &SiteDelta)| row.is_none().then(|| d.name.clone());
    let unchecked = rows.iter().zip(&g.deltas).filter_map(name).collect();
    let sites: Vec<SiteReport> = rows.into_iter().flatten().collect();
    let worst = sites.iter().filter(|s| s.measurable).map(|s| s.relative_error).fold(0.0, f64::max);
    Ok(Report { sites, unchecked, worst, tolerance: options.tolerance, unreachable })
}

/// The places of `n` sites in an order of which every beginning is spread over all of them: multiples of the golden ratio, modulo 1, by size.
fn across_the_depth(n: usize) -> Vec<usize> {
    let place = |i: &usize| (*i as f64 * 0.618_033_988_749_895).fract();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| place(a).total_cmp(&place(b)));
    order
}

/// Step sizes of the differences: one is too long for the curvature, another too short for single precision.
const STEPS: [f64; 5] = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4];

/// Slopes of step sizes that are closer than this, relative to the gradient, agree.
const AGREE: f64 = 1e-3;

/// What differences say of a gradient.
struct Measured {
    /// The smallest error over the step sizes, relative to the gradient; infinite for a gradient that is not a number.
    error: f64,
    /// Whether that is a verdict: the error is within the tolerance, or three neighbouring step sizes agree on another slope, ahead and behind. Rounding
    /// gives another slope at each step, and kinks (the bends of ReLU6) another one on each side.
    settled: bool,
}

/// What limits differences of a loss.
struct Limits {
    /// Largest relative error that passes.
    tolerance: f64,
    /// Smallest change of the loss that single precision tells from none.
    resolution: f64,
    /// Whether the model rounds: its slopes are those of steps, whatever they agree on.
    rounds: bool,
}

/// Differences along a unit direction of which half is the gradient's own and half random: behind, central and ahead at each step. `here` is
/// the loss where the gradient was taken.
fn measure(
    gradient: &[f64],
    limits: &Limits,
    rng: &mut ChaCha8Rng,
    here: f64,
    loss_at: impl Fn(&[f64], f64) -> Result<f64>,
) -> Result<Measured> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let size = norm(gradient);
    let random: Vec<f64> = gradient.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
    let (random_size, own) = (norm(&random).max(1e-12), size.max(1e-12));
    let direction: Vec<f64> =
        gradient.iter().zip(&random).map(|(g, r)| 0.5 * g / own + 0.5 * r / random_size).collect();
    let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let mut slopes = vec![];
    for step in STEPS {
        let (before, after) = (loss_at(&direction, -step)?, loss_at(&direction, step)?);
        slopes.push([(here - before) / step, (after - before) / (2.0 * step), (after - here) / step]);
    }
    let error = slopes.iter().map(|[_, slope, _]| (slope - expected).abs() / own).fold(f64::INFINITY, f64::min);
    // What slopes agree on is told from the gradient: they are much closer to each other than to it.
    let apart = (error * own / 4.0).max(AGREE * own);
    let agree = |steps: &[[f64; 3]]| {
        let all = || steps.iter().flatten().copied();
        all().fold(f64::MIN, f64::max) - all().fold(f64::MAX, f64::min) <= apart
    };
    let largest = slopes.iter().flatten().fold(expected.abs(), |m, s| m.max(s.abs()));
    let tells = !limits.rounds && largest * 2.0 * STEPS[0] > 4.0 * limits.resolution;
    // A gradient that is not a number is wrong, whatever differences say.
    let settled = error <= limits.tolerance || !size.is_finite() || tells && slopes.windows(3).any(agree);
    Ok(Measured { error, settled })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a claimed gradient of `f` at 0: within the tolerance, off, or not measurable.
    fn verdict(gradient: &[f64], rounds: bool, f: impl Fn(&[f64]) -> f64) -> (bool, bool) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let at = |d: &[f64], step: f64| Ok(f(&d.iter().map(|d| d * step).collect::<Vec<_>>()));
        let limits = Limits { tolerance: 2e-2, resolution: 1e-7, rounds };
        let m = measure(gradient, &limits, &mut rng, f(&vec![0.0; gradient.len()]), at).unwrap();
        (m.error <= 2e-2, m.settled)
    }

    #[test]
    fn what_differences_can_tell() {
        let smooth = |x: &[f64]| 2.0 * x[0] - x[1] + x[0] * x[1];
        assert_eq!(verdict(&[2.0, -1.0], false, smooth), (true, true));
        assert_eq!(verdict(&[2.0, -1.3], false, smooth), (false, true), "off");
        assert_eq!(verdict(&[0.0, 0.0], false, smooth), (false, true), "a gradient that is missing is off");
        assert!(verdict(&[f64::NAN, 1.0], false, smooth).1, "one that is not a number is off");
        // Steps much longer than the differences, and noise much larger than the slope.
        let rounded = |x: &[f64]| ((2.0 * x[0] - x[1]) * 7.3 + 0.45).round() / 7.3;
        assert_eq!(verdict(&[2.0, -1.0], true, rounded), (false, false));
        let kink = |x: &[f64]| 2.0 * x[0].max(0.0);
        assert_eq!(verdict(&[2.0, 0.0], false, kink), (false, false), "right on one side");
        let noisy = |x: &[f64]| 1e-9 * (x[0] - x[1]) + 1e-6 * (x[0] * 1e7).sin();
        assert_eq!(verdict(&[1e-9, -1e-9], false, noisy), (false, false));
        let lost = |x: &[f64]| (1e-9 * (x[0] - x[1])) as f32 as f64 * 0.0;
        assert_eq!(verdict(&[1e-9, -1e-9], false, lost), (false, false), "below what a loss resolves");
    }

    #[test]
    fn a_check_that_measured_nothing_has_no_verdict() {
        let site = |relative_error: f64, measurable: bool| SiteReport { name: "a".into(), relative_error, measurable };
        let verdict = |sites: Vec<SiteReport>| {
            let worst = sites.iter().filter(|s| s.measurable).map(|s| s.relative_error).fold(0.0, f64::max);
            Report { sites, unchecked: vec![], worst, tolerance: 0.02, unreachable: vec![] }.verdict()
        };
        assert_eq!(verdict(vec![]), Verdict::Unknown);
        assert_eq!(verdict(vec![site(1.0, false), site(0.5, false)]), Verdict::Unknown);
        assert_eq!(verdict(vec![site(1.0, false), site(1e-3, true)]), Verdict::Right);
        assert_eq!(verdict(vec![site(1e-3, true), site(0.5, true)]), Verdict::Wrong);
    }

    #[test]
    fn every_beginning_of_the_order_covers_the_depth() {
        for n in [1, 2, 7, 36, 100] {
            let order = across_the_depth(n);
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
            for m in 1..=n {
                // No gap is longer than three times an even one.
                let mut seen: Vec<usize> = order[..m].to_vec();
                seen.sort_unstable();
                let ends = seen.iter().copied().chain([n]).scan(0, |last, at| Some(at - std::mem::replace(last, at)));
                assert!(ends.max().unwrap() <= (3 * n).div_ceil(m), "{m} of {n}: {seen:?}");
            }
        }
    }
}
