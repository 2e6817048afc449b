//! How a session trains.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::resume::Checkpoints;
use crate::adapt::{Progress, Settings};
use crate::error::Result;
use crate::process::{Pacer, TrainLimits};

/// How a training begins after processes died in the middle of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDeaths {
    /// As usual: none died.
    AsUsual,
    /// As usual, though a process died in the middle of it.
    Again {
        /// Processes that died at this place.
        times: u32,
    },
    /// With less memory: processes died twice at one place.
    Halved {
        /// All that died.
        times: u32,
        /// How often the memory is halved.
        level: u32,
        /// The limit that was set when it was halved so often first. A training that goes on with it is the same one.
        memory: Option<u64>,
    },
    /// Not at all, until there is new feedback.
    LeaveAlone,
}

/// Says what a training may cost after such deaths. An error ends the training before it begins.
pub(crate) type Careful<'a> = &'a (dyn Fn(AfterDeaths) -> Result<TrainLimits> + Sync);

/// How to train: the default is what the home's settings say, and a method changes one thing.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use acclimate::{TrainLimits, TrainOptions};
///
/// let stop = AtomicBool::new(false);
/// let options = TrainOptions::default().steps(200).limits(TrainLimits::default().budget_seconds(60.0)).stop(&stop);
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct TrainOptions<'a> {
    pub(crate) settings: Option<Settings>,
    pub(crate) steps: Option<u64>,
    pub(crate) seed: Option<u64>,
    pub(crate) threads: Option<usize>,
    pub(crate) limits: Option<TrainLimits>,
    pub(crate) stop: Option<&'a AtomicBool>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) progress: Option<&'a (dyn Fn(Progress) + Sync)>,
    pub(crate) pacer: Option<&'a dyn Pacer>,
    pub(crate) careful: Option<Careful<'a>>,
}

impl<'a> TrainOptions<'a> {
    /// Most optimiser steps of one fit; the recipe's when not given.
    #[must_use]
    pub fn steps(mut self, most: u64) -> Self {
        self.steps = Some(most);
        self
    }

    /// Seed of everything random; the home's when not given.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Threads, at least 1; as many as there are cores when not given. The result does not depend on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// What it may cost; the home's limits when not given.
    #[must_use]
    pub fn limits(mut self, limits: TrainLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Set by the caller to stop; looked at before every step. A later call goes on from the checkpoint.
    #[must_use]
    pub fn stop(mut self, flag: &'a AtomicBool) -> Self {
        self.stop = Some(flag);
        self
    }

    /// When it is kept where the training stands.
    #[must_use]
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = checkpoints;
        self
    }

    /// Told about progress, from the thread that trains.
    #[must_use]
    pub fn progress(mut self, tell: &'a (dyn Fn(Progress) + Sync)) -> Self {
        self.progress = Some(tell);
        self
    }

    internal! {
        /// Who says between steps whether the training may go on.
        #[must_use]
        pub fn pacer(mut self, pacer: &'a dyn Pacer) -> Self {
            self.pacer = Some(pacer);
            self
        }
    }

    internal! {
        /// Notes in the profile that the training runs, and asks `limits` what it may cost after processes died in the
        /// middle of it.
        #[must_use]
        pub fn careful(mut self, limits: &'a (dyn Fn(AfterDeaths) -> Result<TrainLimits> + Sync)) -> Self {
            self.careful = Some(limits);
            self
        }
    }

    /// Whether the training is to stop here. May wait as long as its pacer does.
    pub(super) fn is_stopped(&self) -> bool {
        let stopped = || self.stop.is_some_and(|flag| flag.load(Ordering::Relaxed));
        stopped() || self.pacer.is_some_and(|pacer| !pacer.may_go_on()) || stopped()
    }

    internal! {
        /// All settings, in place of the home's; steps, seed and threads that are given beside them win.
        #[must_use]
        pub fn settings(mut self, settings: Settings) -> Self {
            self.settings = Some(settings);
            self
        }
    }

    /// The settings in force where `home` has the home's.
    pub(super) fn over(&self, home: impl FnOnce() -> Settings) -> Settings {
        let settings = self.settings.clone().unwrap_or_else(home);
        Settings {
            steps: self.steps.or(settings.steps),
            seed: self.seed.unwrap_or(settings.seed),
            threads: self.threads.unwrap_or(settings.threads),
            ..settings
        }
    }
}

impl fmt::Debug for TrainOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainOptions")
            .field("settings", &self.settings)
            .field("steps", &self.steps)
            .field("seed", &self.seed)
            .field("threads", &self.threads)
            .field("limits", &self.limits)
            .field("stop", &self.stop)
            .field("checkpoints", &self.checkpoints)
            .finish_non_exhaustive()
    }
}
