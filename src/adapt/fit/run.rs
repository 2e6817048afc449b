//! The epochs of a fit: from where it stands to where it is to pause, or to its end.

use ndarray::Array2;

use super::Fit;
use super::state::{FitName, Keeper};
use crate::adapter::SiteDelta;
use crate::error::{Error, ErrorKind, Result};
use crate::head::Head;
use crate::sync::lock;
use crate::train::optim::{Decay, Schedule};

/// Mean loss (cross-entropy in nats) of an epoch at which a fit without label smoothing begins to end: every training
/// example is answered right and sure (`docs/training.md`, *The end of a fit*).
const NOTHING_LEFT: f64 = 0.05;
/// Share of the epochs so far over which the learning rate then falls to its floor.
const LAST_EPOCHS: f64 = 0.25;
/// Where the learning rate ends, as a share of its peak.
const FLOOR: f32 = 0.1;

/// A trained candidate.
#[derive(Debug, Clone)]
pub(crate) struct Fitted {
    /// In plan order.
    pub deltas: Vec<SiteDelta>,
    pub head: Head,
    pub steps: u64,
    /// What the observer added.
    #[cfg(test)]
    pub answers: Vec<Array2<f32>>,
}

/// An epoch that has ended, as an observer sees it.
pub(crate) struct Epoch<'a> {
    /// From 0.
    pub number: u64,
    /// Whether the fit ends here.
    pub is_last: bool,
    pub deltas: &'a [SiteDelta],
    pub head: &'a Head,
}

/// What an observer of a fit may decide after each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    On,
    /// Keep what there is and stop.
    Enough,
}

impl Fit<'_> {
    /// [`Fit::run_to`] the last of the recipe's epochs.
    ///
    /// # Errors
    /// As [`Fit::run_to`].
    pub fn run(
        mut self,
        stop: &(dyn Fn() -> bool + Sync),
        keeper: Option<&dyn Keeper>,
        observe: impl FnMut(&Epoch<'_>, &mut Vec<Array2<f32>>) -> Result<Go>,
    ) -> Result<Fitted> {
        self.run_to(self.recipe.epochs, stop, keeper, observe)?;
        Ok(self.into_fitted())
    }

    /// Trains until `epochs` of the recipe's epochs are over, or goes on from where `keeper` knows that this fit was
    /// left, be it further; `stop` is asked before each step. `observe` sees each epoch that ends, and the answers
    /// collected so far, to which it may add.
    ///
    /// The fit ends early where `observe` says so, and soon after [nothing is left](NOTHING_LEFT) to learn.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when stopped: `keeper` has the state then.
    pub fn run_to(
        &mut self,
        epochs: u64,
        stop: &(dyn Fn() -> bool + Sync),
        keeper: Option<&dyn Keeper>,
        mut observe: impl FnMut(&Epoch<'_>, &mut Vec<Array2<f32>>) -> Result<Go>,
    ) -> Result<()> {
        if self.name.is_none() {
            self.name = keeper.map(|_| self.name());
        }
        let keeper = keeper.zip(self.name);
        if !std::mem::replace(&mut self.progress.begun, true) {
            keeper.iter().for_each(|(k, name)| self.go_on(*k, name));
        }
        let sampler = self.sampler()?;
        let total = self.recipe.epochs * sampler.batches() as u64;
        let warmup = (total as f32 * self.recipe.warmup).ceil() as u64;
        let schedule = Schedule { warmup, total, decay: Decay::Cosine, floor: FLOOR };
        let last = epochs.min(self.recipe.epochs);
        let steps = self.optimiser.steps();
        while !self.progress.finished && self.progress.place.0 < last {
            let (epoch, done) = self.progress.place;
            for batch in sampler.epoch(epoch).iter().skip(done as usize) {
                if stop() {
                    if let Some((keeper, name)) = keeper {
                        keeper.stopped(&name, self.state());
                    }
                    return Err(Error::new(ErrorKind::Interrupted, "training was stopped"));
                }
                let lr = self.recipe.rate() * self.factor(&schedule);
                self.progress.loss += f64::from(self.step(&batch.items, &batch.weights, lr)?);
                self.progress.place.1 += 1;
                if let Some((keeper, name)) = keeper {
                    keeper.stepped(&name, &|| self.state());
                }
            }
            let mean = std::mem::take(&mut self.progress.loss) / sampler.batches().max(1) as f64;
            if self.recipe.smoothed() == 0.0 && mean <= NOTHING_LEFT && self.progress.ending.is_none() {
                let epochs = ((epoch + 1) as f64 * LAST_EPOCHS).ceil() as u64;
                self.progress.ending = Some((self.optimiser.steps(), epochs * sampler.batches() as u64));
            }
            let ended = self.progress.ending.is_some_and(|(from, steps)| self.optimiser.steps() >= from + steps);
            let is_last = ended || epoch + 1 == self.recipe.epochs;
            let seen = Epoch { number: epoch, is_last, deltas: &self.deltas, head: &self.head };
            let go = observe(&seen, &mut self.progress.answers)?;
            self.progress.place = (epoch + 1, 0);
            self.progress.finished = is_last || go == Go::Enough;
        }
        if let Some((keeper, name)) = keeper
            && (self.optimiser.steps() > steps)
        {
            keeper.finished(&name, self.state());
        }
        // What a pass needs is made anew where the fit goes on: meanwhile others take the memory.
        self.workers.iter().for_each(|w| lock(w).clear());
        Ok(())
    }

    /// Share of the peak learning rate at the next step. Where nothing is left to learn, half a cosine from where it
    /// was to its floor.
    fn factor(&self, schedule: &Schedule) -> f32 {
        let step = self.optimiser.steps();
        match self.progress.ending {
            Some((from, steps)) => {
                let (peak, total) = (schedule.factor(from), steps);
                let last = Schedule { warmup: 0, total, decay: Decay::Cosine, floor: (FLOOR / peak).min(1.0) };
                peak * last.factor(step - from)
            }
            None => schedule.factor(step),
        }
    }

    /// Takes up what is known of this fit.
    fn go_on(&mut self, keeper: &dyn Keeper, name: &FitName) {
        if let Some(Err(e)) = keeper.left(name).map(|state| self.take_up(&state)) {
            tracing::warn!(error = %e, "a fit starts anew");
        }
    }

    /// The epochs that are over.
    pub fn epochs(&self) -> u64 {
        self.progress.place.0
    }

    /// Whether there was nothing more to train after so many epochs. The fit may stand further: it may have
    /// gone on from where an earlier run left it.
    pub fn was_finished_at(&self, epochs: u64) -> bool {
        self.progress.finished && self.progress.place.0 <= epochs
    }

    /// What the observer added.
    pub fn answers(&self) -> &[Array2<f32>] {
        &self.progress.answers
    }

    /// The state as it is.
    pub fn into_fitted(self) -> Fitted {
        Fitted {
            deltas: self.deltas,
            head: self.head,
            steps: self.optimiser.steps(),
            #[cfg(test)]
            answers: self.progress.answers,
        }
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.optimiser.steps()
    }
}
