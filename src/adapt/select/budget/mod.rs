//! Sites within the limits: which of the reachable ones are trained where memory or time is short, and at which rank.
//!
//! What a set of sites costs is decided by its first one: everything behind it is kept for the backward pass, and run backwards. So
//! sites go from the front until the rest fits. Among those that fit, a site on which the loss of the user's own feedback hardly
//! depends is left out.

use serde::{Deserialize, Serialize};

use super::{Choice, kept};
use crate::adapt::CandidateSites;
use crate::adapter::LoraOptions;
use crate::base::{Base, Dim, Port, Task};
use crate::error::{Error, Result};
use crate::plan::{CHUNK, Ends, Keeps, Reach, SiteKey, TrainPlan};
use crate::process::{TrainLimits, machine_memory, status_bytes};
use crate::sites::Site;

/// What a training touches of the program itself, and scratch of products.
const PROGRAM: u64 = 12 << 20;
/// A process that has opened a small model and done nothing else yet.
const PROCESS: u64 = 16 << 20;
/// Of a number to train, for each fit: the delta's and the optimiser's, and two moments.
const PER_NUMBER_AND_FIT: u64 = 16;
/// The same of texts, whose fits also average the numbers.
const PER_NUMBER_AND_FIT_OF_TEXTS: u64 = 20;
/// The same for each thread: what the plans read, the gradient of a micro-batch, and what it is added to.
const PER_NUMBER_AND_THREAD: u64 = 12;
/// Fits of folds that a training of a usual length holds side by side.
const USUAL_FITS: u64 = 4;
/// Smallest micro-batch that is tried before more is given up: below it products get too thin.
const THINNEST: usize = 2;
/// The same of sequences: each has many rows.
const THINNEST_SEQUENCES: usize = 1;
/// More bytes than any machine has.
const NEVER: u64 = 1 << 50;
/// Part of the time limit that the estimate may take: what does not end in time is given up, and was for nothing.
const AIMED_AT: f64 = 0.8;
/// Part of an equal share of the gradient below which a site is left out.
const NEGLIGIBLE: f64 = 0.1;

/// What was chosen, and why. Kept in the profile as `choice.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Why these.
    pub reason: String,
    /// Sites that a gradient reaches.
    pub reachable: usize,
    /// Rank of the deltas.
    pub rank: usize,
    /// Training examples per forward and backward pass.
    pub micro_batch: usize,
    /// Whether less is kept between the passes, and computed a second time.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Estimate of the process's memory while training, bytes.
    pub memory_bytes: u64,
    /// Estimate of the training's duration; none before there is feedback to measure with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The sites, in evaluation order.
    pub sites: Vec<ChosenSite>,
}

/// A site that may be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenSite {
    /// Its name.
    pub name: String,
    /// Its part of the squared gradient over the feedback; none where that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// What was measured on the user's feedback with a set of sites.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// Squared size of the loss's gradient at each site.
    pub gradients: Vec<(String, f64)>,
    /// A forward and a backward pass of one training example on one thread.
    pub seconds_per_example: f64,
    /// Training examples that a candidate runs through, over all epochs and folds, for each thread.
    pub training_examples: f64,
    /// What measuring took.
    pub seconds: f64,
}

/// What a training of the sites from one on costs.
pub(crate) struct Costs<'a> {
    base: &'a Base,
    task: Task,
    choice: &'a Choice,
    limits: &'a TrainLimits,
    threads: u64,
    fits: u64,
    /// Memory of the process before, bytes.
    before: u64,
    /// Memory of the machine, bytes.
    machine: Option<u64>,
    lora: LoraOptions,
}

impl<'a> Costs<'a> {
    /// In this process, as it is.
    pub fn new(base: &'a Base, task: Task, choice: &'a Choice, limits: &'a TrainLimits, threads: usize) -> Costs<'a> {
        Costs::of(base, task, choice, limits, threads).beside(status_bytes("/proc/self/status", "VmRSS:"))
    }

    /// In a process that held so many bytes before.
    pub fn beside(self, held: u64) -> Costs<'a> {
        Costs { before: held.max(self.before), ..self }
    }

    /// In a process of its own that holds the weights.
    pub fn of(base: &'a Base, task: Task, choice: &'a Choice, limits: &'a TrainLimits, threads: usize) -> Costs<'a> {
        Costs {
            base,
            task,
            choice,
            limits,
            threads: threads.max(1) as u64,
            fits: USUAL_FITS,
            before: base.weight_bytes() + PROCESS,
            machine: machine_memory(),
            lora: LoraOptions::default(),
        }
    }

    /// With so many fits of folds side by side, and bytes of inputs beside those that the process holds before.
    pub fn with(self, fits: u32, inputs: u64) -> Costs<'a> {
        Costs { before: self.before + inputs, fits: u64::from(fits), ..self }
    }

    /// With a member of the LoRA family that may apply deltas of a higher rank than it trains.
    pub fn of_family(self, lora: &LoraOptions) -> Costs<'a> {
        Costs { lora: lora.clone(), ..self }
    }

    fn applied_rank(&self, site: &Site, rank: usize) -> usize {
        self.lora.applied_rank(site.clamp_rank(rank))
    }

    /// Memory of a training of all sites of which a pass holds `held` bytes.
    pub fn all(&self, rank: usize, held: u64) -> u64 {
        self.memory(0, rank, held, self.most())
    }

    /// Training examples of the largest micro-batch.
    fn most(&self) -> usize {
        self.choice.bucket.batch.max(1)
    }

    fn key(&self, from: usize, rank: usize) -> SiteKey {
        let mut key: SiteKey =
            self.choice.sites[from..].iter().map(|s| (s.name.clone(), self.applied_rank(s, rank))).collect();
        key.sort();
        key
    }

    /// Bytes of activations and gradients that a pass of the largest micro-batch holds at most at once.
    fn held(&self, from: usize, rank: usize, keeps: Keeps) -> Result<u64> {
        let (ends, bucket) = (Ends::Tail(self.task), &self.choice.bucket);
        let reach = TrainPlan::reach(self.base, ends, bucket, &self.key(from, rank), keeps);
        match keeps {
            Keeps::Everything | Keeps::Selected => Ok(reach?.peak_bytes),
            // A graph that cannot be cut, or loses gradients where it is, is trained whole.
            Keeps::Checkpoints => {
                let all = |r: &Reach| r.reachable.len() == self.choice.sites.len() - from;
                Ok(reach.ok().filter(all).map_or(NEVER, |r| r.peak_bytes))
            }
        }
    }

    /// Kernels of convolutions, laid out for a training's forward and backward plan where the runtime takes them. Other products read their weights
    /// where they lie, and so do all of those that stay narrow.
    fn packed(&self, from: usize) -> u64 {
        let laid_out = |s: &&Site| !self.base.keeps_narrow_weights() && s.kernel.iter().product::<usize>() > 1;
        let sum =
            |sites: &[Site]| sites.iter().filter(laid_out).map(|s| 4 * (s.fan_in() * s.outputs) as u64).sum::<u64>();
        sum(&self.choice.sites) + sum(&self.choice.sites[from..])
    }

    /// What a training of the sites from one on takes, however small its micro-batches.
    fn fixed(&self, from: usize) -> u64 {
        self.before + PROGRAM + self.packed(from) + self.scores()
    }

    /// Of texts, scores over the vocabulary: of a few tokens at once, with their gradient, and the base's beside them.
    fn scores(&self) -> u64 {
        let last = |port: &Port| match port.dims.last() {
            Some(Dim::Fixed(n)) => *n as u64,
            _ => 0,
        };
        match self.task {
            Task::CausalLm => 3 * 4 * CHUNK as u64 * self.base.outputs().iter().map(last).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn memory(&self, from: usize, rank: usize, held: u64, micro_batch: usize) -> u64 {
        let numbers: usize = self.choice.sites[from..].iter().map(|s| s.trainable(self.applied_rank(s, rank))).sum();
        let share = micro_batch as f64 / self.choice.bucket.batch.max(1) as f64;
        let activations = (held as f64 * share.min(1.0)) as u64;
        let numbers = numbers as u64;
        let a_fit = if self.task == Task::CausalLm { PER_NUMBER_AND_FIT_OF_TEXTS } else { PER_NUMBER_AND_FIT };
        self.fixed(from) + self.fits * a_fit * numbers + self.threads * (activations + PER_NUMBER_AND_THREAD * numbers)
    }

    /// The first site from which on everything fits the memory, with the rank, the micro-batch and the memory that it then takes.
    fn within_memory(&self, rank: usize) -> Result<Fit> {
        let n = self.choice.sites.len();
        let usual = kept(self.task);
        let Some(limit) = self.limits.memory_bytes else {
            let mut held = (self.held(0, rank, usual)?, usual);
            if self.task == Task::CausalLm && self.limits.are_unlimited() && self.choice.is_large_for(self.machine) {
                let twice = self.held(0, rank, Keeps::Checkpoints)?;
                held = if twice < held.0 { (twice, Keeps::Checkpoints) } else { held };
            }
            let (memory, keeps) = (self.all(rank, held.0), held.1);
            return Ok(Fit { from: 0, rank, micro_batch: self.most(), keeps, memory });
        };
        // Numbers to train may take half of what is left.
        let room = limit.saturating_sub(self.fixed(0)) / 2;
        let mut narrow = rank;
        while narrow > 1 && self.memory(0, narrow, 0, 0) - self.fixed(0) > room {
            narrow /= 2;
        }
        let fits = |from: usize, held: u64, micro: usize| self.memory(from, narrow, held, micro) <= limit;
        // The least thinning of micro-batches with which all sites fit, and if none is enough, the same with gradient
        // checkpointing.
        let thinnest = if self.base.has_sequence() { THINNEST_SEQUENCES } else { THINNEST };
        let thinnest = thinnest.min(self.most());
        let thinned = |held: u64, least: usize| {
            let halves = std::iter::successors(Some(self.most()), |micro| Some(micro / 2)).take_while(|m| *m >= least);
            halves.into_iter().find(|&micro| fits(0, held, micro))
        };
        let everything = self.held(0, narrow, usual)?;
        let fit = |from: usize, held: u64, micro_batch: usize, keeps: Keeps| {
            let memory = self.memory(from, narrow, held, micro_batch);
            Fit { from, rank: narrow, micro_batch, keeps, memory }
        };
        if let Some(micro_batch) = thinned(everything, THINNEST.min(self.most())) {
            return Ok(fit(0, everything, micro_batch, usual));
        }
        let checkpoints = self.held(0, narrow, Keeps::Checkpoints)?;
        let keeps = if checkpoints < everything { Keeps::Checkpoints } else { usual };
        if let Some(micro_batch) = thinned(checkpoints.min(everything), thinnest) {
            return Ok(fit(0, checkpoints.min(everything), micro_batch, keeps));
        }
        // The fewest sites off the front: what is kept falls with every one.
        let (mut low, mut high, mut best) = (1, n, None);
        while low < high {
            let from = (low + high) / 2;
            let held = self.held(from, narrow, keeps)?;
            if fits(from, held, thinnest) {
                best = Some((from, held));
                high = from;
            } else {
                low = from + 1;
            }
        }
        Ok(match best {
            // Few sites may fit without.
            Some((from, held)) => match self.held(from, narrow, usual)? {
                everything if fits(from, everything, thinnest) => fit(from, everything, thinnest, usual),
                _ => fit(from, held, thinnest, keeps),
            },
            None => Fit { memory: self.before + PROGRAM, ..fit(n, 0, thinnest, usual) },
        })
    }

    /// Multiplications from a site on, as a part of those of all sites from `of` on.
    fn work(&self, from: usize, of: usize) -> f64 {
        let sum = |from: usize| self.choice.macs[from..].iter().sum::<u64>() as f64;
        sum(from) / sum(of).max(1.0)
    }

    /// The first site of the last block.
    fn last_block(&self) -> usize {
        let block = &self.choice.candidates.last_block;
        let first = self.choice.sites.iter().position(|s| block.iter().any(|(name, _)| *name == s.name));
        first.unwrap_or(self.choice.sites.len())
    }

    /// The candidates that keeps to the limits, and what to tell of it. With `measured`, of the sites that fit the memory, time and the weight of
    /// each gradient are looked at, too.
    ///
    /// # Errors
    /// When a gradient cannot be built; [`ErrorKind::Usage`](crate::ErrorKind::Usage) when a limit is no positive number.
    pub fn choose(&self, rank: usize, measured: Option<&Measured>) -> Result<(CandidateSites, Chosen)> {
        self.limits.check()?;
        let reachable = self.choice.sites.len();
        let fit = if reachable == 0 {
            let memory = self.before + PROGRAM;
            Fit { from: 0, rank, micro_batch: self.most(), keeps: Keeps::Everything, memory }
        } else {
            self.within_memory(rank)?
        };
        let (mut from, mut reasons) = (fit.from, vec![]);
        if let Some(limit) = self.limits.memory_bytes {
            reasons.push(format!("{} of {reachable} layers fit {}", reachable - fit.from, mebibytes(limit)));
        }
        let mut seconds = None;
        if let Some(m) = measured {
            // The last block is a candidate of its own, before all sites.
            let last_block = self.last_block();
            let estimate = |from: usize| {
                let both = if from < last_block { self.work(last_block, fit.from) } else { 0.0 };
                m.seconds + m.seconds_per_example * m.training_examples * (both + self.work(from, fit.from))
            };
            if let Some(limit) = self.limits.budget_seconds {
                while from < reachable && estimate(from) > AIMED_AT * limit {
                    from += 1;
                }
                reasons.push(format!("{} layers can be trained in {limit} s", reachable - from));
            }
            seconds = (from < reachable).then(|| estimate(from));
        } else if self.limits.budget_seconds.is_some() {
            reasons.push("what the time allows is measured when there is feedback to train on".into());
        }
        let gradient = |name: &str| measured?.gradients.iter().find(|(n, _)| n == name).map(|(_, g)| *g);
        let names: Vec<&str> = self.choice.sites[from..].iter().map(|s| s.name.as_str()).collect();
        let total: f64 = names.iter().filter_map(|n| gradient(n)).sum();
        let share = |name: &str| gradient(name).filter(|_| total > 0.0).map(|g| g / total);
        let least = NEGLIGIBLE / names.len().max(1) as f64;
        let sites: Vec<ChosenSite> = names
            .iter()
            .map(|name| ChosenSite { name: name.to_string(), share: share(name) })
            .filter(|s| s.share.is_none_or(|share| share >= least))
            .collect();
        if sites.len() < names.len() {
            reasons.push(format!("{} of them hardly matter for the feedback", names.len() - sites.len()));
        }
        if fit.rank < rank {
            reasons.push(format!("rank {} for {rank}, to save memory", fit.rank));
        }
        if fit.micro_batch < self.most() {
            reasons.push(format!("{} training examples at a time", fit.micro_batch));
        }
        let gradient_checkpointing = fit.keeps == Keeps::Checkpoints && !sites.is_empty();
        if gradient_checkpointing {
            reasons.push("activations are computed twice (gradient checkpointing)".into());
        }
        if sites.is_empty() && reachable > 0 {
            reasons.push("only a head is trained".into());
        }
        let kept = |key: &SiteKey| -> SiteKey {
            let site = |name: &str| self.choice.sites.iter().find(|s| s.name == name);
            let rank = |(name, _): &(String, usize)| {
                sites.iter().any(|s| s.name == *name).then(|| Some((name.clone(), site(name)?.clamp_rank(fit.rank))))?
            };
            key.iter().filter_map(rank).collect()
        };
        let candidates = CandidateSites {
            last_block: kept(&self.choice.candidates.last_block),
            all_sites: kept(&self.choice.candidates.all_sites),
        };
        let reason = reasons.join("; ");
        let (rank, micro_batch, memory_bytes) = (fit.rank, fit.micro_batch, fit.memory);
        let chosen =
            Chosen { reason, reachable, rank, micro_batch, gradient_checkpointing, memory_bytes, seconds, sites };
        Ok((candidates, chosen))
    }
}

struct Fit {
    from: usize,
    rank: usize,
    micro_batch: usize,
    keeps: Keeps,
    memory: u64,
}

fn mebibytes(n: u64) -> String {
    format!("{:.0} MiB", n as f64 / f64::from(1 << 20))
}

impl TrainLimits {
    fn check(&self) -> Result<()> {
        if self.budget_seconds.is_some_and(|s| !s.is_finite() || s <= 0.0) || self.memory_bytes == Some(0) {
            return Err(Error::usage("a limit of nothing").hint("give a positive memory or time"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
