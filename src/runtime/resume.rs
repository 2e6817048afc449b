//! A training that is cut off goes on: what names it, how much of the journal it learns from, and when it is kept where it stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::Session;
use super::written::TrainingWrites;
use crate::adapt::fit::state::{FitName, FitState, Keeper, Naming};
use crate::adapt::{CandidateSites, Dataset, Settings};
use crate::adapter::Fingerprint;
use crate::error::Result;
use crate::store::{Checkpoint, Cut, Run};
use crate::sync::lock;

/// Whether and how often a training writes where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checkpoints {
    /// Once in this time for each fit that runs, and when it is stopped. A slow disk is written to less often, so that writing takes
    /// at most a twentieth of the time.
    Every(Duration),
    /// Not at all: a training that is cut off begins anew.
    Never,
}

impl Default for Checkpoints {
    fn default() -> Checkpoints {
        Checkpoints::Every(Duration::from_secs(10))
    }
}

impl Session {
    /// What a training learns from, prepared, and what keeps its fits: the training that was cut off, if that is what is
    /// asked for again, else one of everything that was recorded so far. `name` names a training by all that decides its
    /// result.
    ///
    /// # Errors
    /// As `prepare`, and when the journal cannot be read.
    pub(super) fn begin_or_resume<P>(
        &self,
        checkpoints: Checkpoints,
        writes: &Arc<TrainingWrites>,
        prepare: impl Fn(&Cut) -> Result<P>,
        name: impl Fn(&P) -> [u8; 32],
    ) -> Result<(Cut, P, Option<Keeping>)> {
        let all = Cut::all(lock(&self.journal).state())?;
        let (checkpoint, every) = match checkpoints {
            Checkpoints::Every(time) => (Some(self.store.checkpoint()), time),
            Checkpoints::Never => (None, Duration::ZERO),
        };
        let left = checkpoint.as_ref().and_then(Checkpoint::run).filter(|run| run.cut.is_within(&all));
        let left = left.map(|run| prepare(&run.cut).map(|now| (run, now))).transpose()?;
        let (cut, prepared) = match left {
            Some((run, now)) if run.name == name(&now) => (run.cut, now),
            _ => (all, prepare(&all)?),
        };
        let keeping = checkpoint.map(|c| Keeping::new(c, name(&prepared), cut, every, writes.clone()));
        Ok((cut, prepared, keeping))
    }
}

/// Share of the time that writing may take, as the number that it is divided by.
const SHARE: u32 = 20;

/// Names a training by all that decides its result. Threads do not, and no budget of time can.
pub(super) fn name(
    base: &Fingerprint,
    settings: &Settings,
    candidates: &CandidateSites,
    dataset: &Dataset,
) -> [u8; 32] {
    let mut name = Naming(blake3::Hasher::new());
    name.text(concat!("acclimate ", env!("CARGO_PKG_VERSION"), " training"));
    name.text(std::env::consts::ARCH);
    name.bytes(&base.0);
    let recipe = settings.recipe.decisive();
    name.text(&format!("{:?}", Settings { threads: 0, budget: None, recipe, ..settings.clone() }));
    name.text(&format!("{:?} {:?}", candidates.last_block, candidates.all_sites));
    name.text(&format!("{} {} {}", dataset.base_classes, dataset.classes, dataset.features));
    name.text(&format!("{:?} {}", dataset.served_right, dataset.standing.len()));
    for s in &dataset.standing {
        name.text(&format!("{} {}", s.class, s.trusted));
        name.example(&s.example);
    }
    dataset.training_examples.iter().for_each(|l| name.training_example(l));
    *name.0.finalize().as_bytes()
}

/// Keeps the fits of one training in the profile's checkpoint. A training that ends before anything is due writes nothing.
pub(super) struct Keeping {
    checkpoint: Checkpoint,
    run: Run,
    every: Duration,
    writes: Arc<TrainingWrites>,
    plan: Mutex<Plan>,
    begun: OnceLock<()>,
    steps: AtomicU64,
    failed: AtomicBool,
}

/// What is to be written, and when.
struct Plan {
    /// When each fit that runs is due.
    fits: HashMap<FitName, Instant>,
    /// Ends of fits, and when they are due.
    ends: Vec<(FitName, FitState)>,
    ends_due: Instant,
}

impl Keeping {
    /// Of the training `name`, which goes on if it is the one that was cut off.
    pub fn new(
        checkpoint: Checkpoint,
        name: [u8; 32],
        cut: Cut,
        every: Duration,
        writes: Arc<TrainingWrites>,
    ) -> Keeping {
        let run = Run { name, cut };
        let begun = OnceLock::new();
        if checkpoint.run() == Some(run) {
            begun.get_or_init(|| ());
        }
        let plan = Plan { fits: HashMap::new(), ends: vec![], ends_due: Instant::now() + every };
        let (steps, failed) = Default::default();
        Keeping { checkpoint, run, every, writes, plan: Mutex::new(plan), begun, steps, failed }
    }

    /// Optimiser steps that an earlier run took.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Name of a fit within this training.
    fn full(&self, fit: &FitName) -> [u8; 32] {
        *blake3::Hasher::new().update(&self.run.name).update(fit.as_bytes()).finalize().as_bytes()
    }

    /// A disk that takes no checkpoint costs time after a power cut, and no result: the training goes on.
    fn write(&self, states: &[(FitName, FitState)]) {
        if states.is_empty() {
            return;
        }
        let started = Instant::now();
        let begin = || match self.checkpoint.run() == Some(self.run) {
            true => Ok(()),
            false => self.checkpoint.begin(&self.run),
        };
        let mut begun = Ok(());
        self.begun.get_or_init(|| begun = begin());
        let keep = |(fit, state): &(FitName, FitState)| self.checkpoint.keep(&self.full(fit), &state.to_bytes()?);
        if let Err(e) = begun.and_then(|()| states.iter().try_for_each(keep))
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(error = %e, "where the training stands cannot be kept; if it is cut off, it starts anew");
        }
        self.writes.follow();
        let next = Instant::now() + self.every.max(started.elapsed().saturating_mul(SHARE));
        let mut plan = lock(&self.plan);
        plan.ends_due = next;
        for (fit, _) in states {
            plan.fits.insert(*fit, next);
        }
    }

    /// Writes the ends of fits that are not due yet: after a training that was stopped.
    pub fn flush(&self) {
        self.write(&self.ends(None));
    }

    /// The ends that are due at `now`.
    fn ends(&self, now: Option<Instant>) -> Vec<(FitName, FitState)> {
        let mut plan = lock(&self.plan);
        match now.is_some_and(|now| now < plan.ends_due) {
            true => vec![],
            false => std::mem::take(&mut plan.ends),
        }
    }
}

impl Keeper for Keeping {
    fn left(&self, fit: &FitName) -> Option<FitState> {
        let state = FitState::from_bytes(&self.checkpoint.fit(&self.full(fit))?)?;
        self.steps.fetch_add(state.steps(), Ordering::Relaxed);
        Some(state)
    }

    fn stepped(&self, fit: &FitName, state: &dyn Fn() -> FitState) {
        let now = Instant::now();
        let due = *lock(&self.plan).fits.entry(*fit).or_insert(now + self.every);
        if now >= due {
            let mut states = self.ends(Some(now));
            states.push((*fit, state()));
            self.write(&states);
        }
    }

    fn finished(&self, fit: &FitName, end: FitState) {
        lock(&self.plan).ends.push((*fit, end));
        self.write(&self.ends(Some(Instant::now())));
    }

    fn stopped(&self, fit: &FitName, state: FitState) {
        let mut states = self.ends(None);
        states.push((*fit, state));
        self.write(&states);
    }
}
