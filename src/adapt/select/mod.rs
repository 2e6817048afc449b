//! Which sites adapt, and what that costs: the runtime knows the architecture so that its user need not.

mod budget;
mod ranks;

pub use budget::{Chosen, ChosenSite};
pub(crate) use budget::{Costs, Measured};
pub(crate) use ranks::applied;

use crate::adapt::CandidateSites;
use crate::base::{Base, Bucket, Task};
use crate::error::Result;
use crate::plan::{Ends, Keeps, MICRO_BATCH, SiteKey, Survey, TrainPlan, at_once, survey};
use crate::process::TrainLimits;
use crate::sites::{Pattern, Site};

/// Sequence length at which costs are estimated while there is no feedback to look at.
pub(crate) const TYPICAL_LENGTH: usize = 64;

/// The sites of every stage of the sequence of candidates, and what was left out.
pub(crate) struct Choice {
    pub candidates: CandidateSites,
    /// Those that a gradient reaches, in evaluation order, and the multiplications of each at `bucket`.
    pub sites: Vec<Site>,
    pub macs: Vec<u64>,
    /// Sizes at which costs are estimated.
    pub bucket: Bucket,
    pub unreachable: Vec<String>,
    /// Activations and gradients that a pass over `bucket` holds at most at once where memory is enough.
    pub peak_bytes: u64,
    pub train_memory_bytes: u64,
}

/// Where memory is not limited, activations may take this part of the machine's before they are computed twice.
const PART_OF_MEMORY: u64 = 16;

impl Choice {
    /// Whether a language model's training without limits computes its activations twice, on a machine with so much
    /// memory.
    pub fn is_large_for(&self, machine: Option<u64>) -> bool {
        machine.is_some_and(|all| self.peak_bytes > all / PART_OF_MEMORY)
    }
}

/// Chooses among the reachable sites that the pattern names. The classifier is not among them: the head corrects its
/// outputs directly, at full rank. Costs are those of sequences of `length`, or of the longest half of it (and so on)
/// that the model allows.
pub(crate) fn choose(base: &Base, task: Task, pattern: &Pattern, rank: usize, length: usize) -> Result<Choice> {
    let (bucket, seen) = survey_at(base, task, length)?;
    let body = |s: &Site| pattern.selects(s) && seen.classifier.as_ref() != Some(&s.name);
    let wanted: SiteKey =
        seen.table.sites.iter().filter(|s| body(s)).map(|s| (s.name.clone(), s.clamp_rank(rank))).collect();
    let mut unreachable = vec![];
    let mut peak_bytes = 0;
    let mut reachable = vec![];
    if !wanted.is_empty() {
        let reach = TrainPlan::reach(base, Ends::Tail(task), &bucket, &wanted, kept(task))?;
        let first = reach.blocked.first().map_or(String::new(), |b| format!(": {} ({}): {}", b.node, b.op, b.reason));
        let lost = wanted.iter().filter(|(name, _)| !reach.reachable.contains(name));
        unreachable.extend(lost.map(|(name, _)| format!("{name}{first}")));
        peak_bytes = reach.peak_bytes;
        reachable = reach.reachable;
    }
    let key = |keep: &dyn Fn(usize) -> bool| -> SiteKey {
        let mut key: SiteKey = seen
            .table
            .sites
            .iter()
            .enumerate()
            .filter(|(i, s)| reachable.contains(&s.name) && keep(*i))
            .map(|(_, s)| (s.name.clone(), s.clamp_rank(rank)))
            .collect();
        key.sort();
        key
    };
    let candidates = CandidateSites { last_block: key(&|i| seen.last_block[i]), all_sites: key(&|_| true) };
    let reached = || seen.table.sites.iter().zip(&seen.macs).filter(|(s, _)| reachable.contains(&s.name));
    let (sites, macs): (Vec<Site>, Vec<u64>) = reached().map(|(s, m)| (s.clone(), *m)).unzip();
    let mut choice = Choice { candidates, sites, macs, bucket, unreachable, peak_bytes, train_memory_bytes: 0 };
    let workers = crate::process::available_cores();
    choice.train_memory_bytes = Costs::of(base, task, &choice, &TrainLimits::default(), workers).all(rank, peak_bytes);
    Ok(choice)
}

/// Training examples of a pass: texts are trained one by one.
fn examples_of_pass(base: &Base, task: Task) -> usize {
    if task == Task::CausalLm { 1 } else { at_once(base, MICRO_BATCH) }
}

/// What is kept between the passes where memory is enough.
pub(crate) fn kept(task: Task) -> Keeps {
    if task == Task::CausalLm { Keeps::Selected } else { Keeps::Everything }
}

/// Surveys at `length`, or at the longest half of it (and so on) that the model's table of positions allows.
fn survey_at(base: &Base, task: Task, mut length: usize) -> Result<(Bucket, Survey)> {
    let examples = examples_of_pass(base, task);
    loop {
        let bucket = base.bucket(examples, length);
        match survey(base, task, &bucket) {
            Err(_) if base.has_sequence() && length > 1 => length /= 2,
            seen => return seen.map(|s| (bucket, s)),
        }
    }
}

/// What will adapt.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Names of the sites.
    pub sites: Vec<String>,
    /// Numbers in their `A` and `B`.
    pub trainable_parameters: usize,
    /// Estimate of the memory that training needs, bytes.
    pub train_memory_bytes: u64,
    /// Why these, where memory or time is limited.
    pub reason: Option<String>,
    /// Sites that cannot be trained, with what stands in the way.
    pub unreachable: Vec<String>,
}

/// [`choose`], for people; within the limits, as far as they can be kept to before there is feedback.
pub fn summarise(base: &Base, task: Task, pattern: &Pattern, rank: usize, limits: &TrainLimits) -> Result<Summary> {
    let choice = choose(base, task, pattern, rank, TYPICAL_LENGTH)?;
    let mut summary = Summary {
        sites: choice.sites.iter().map(|s| s.name.clone()).collect(),
        trainable_parameters: choice.sites.iter().map(|s| s.trainable(s.clamp_rank(rank))).sum(),
        train_memory_bytes: choice.train_memory_bytes,
        reason: None,
        unreachable: choice.unreachable.clone(),
    };
    if !limits.are_unlimited() {
        let threads = crate::process::available_cores();
        let (candidates, chosen) = Costs::new(base, task, &choice, limits, threads).choose(rank, None)?;
        let numbers = |(name, rank): &(String, usize)| {
            choice.sites.iter().find(|s| s.name == *name).map_or(0, |s| s.trainable(*rank))
        };
        summary.trainable_parameters = candidates.all_sites.iter().map(numbers).sum();
        summary.sites = chosen.sites.into_iter().map(|s| s.name).collect();
        summary.train_memory_bytes = chosen.memory_bytes;
        summary.reason = Some(chosen.reason);
    }
    Ok(summary)
}
