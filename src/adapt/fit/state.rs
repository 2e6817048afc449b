//! Where a fit stands, to be kept and taken up again: a fit that goes on from a kept state ends, to the bit, where it
//! would have ended without a break.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::{Fit, Progress};
use crate::adapt::example::{Target, TrainingExample};
use crate::error::{Error, Result};
use crate::input::{ArrayData, Example};
use crate::train::averaging::Average;
use crate::train::optim::{AdamW, AdamWState, ParamSet};

/// Names a fit by all that decides its result: two fits of one name end in the same bits.
pub(crate) type FitName = blake3::Hash;

/// Keeps where fits stand, from one run of the program to the next.
pub(crate) trait Keeper: Sync {
    /// Where the fit `name` was left; `None` where nothing is known of it.
    fn left(&self, name: &FitName) -> Option<FitState>;
    /// Told after each step; keeps the state when it is time to.
    fn stepped(&self, name: &FitName, state: &dyn Fn() -> FitState);
    /// Told when the fit is over, or waits for others; keeps its state now or with the next that is kept.
    fn finished(&self, name: &FitName, end: FitState);
    /// Told when the fit is stopped; keeps the state at once.
    fn stopped(&self, name: &FitName, state: FitState);
}

/// Everything that a fit needs to go on as if it had never stopped. What is random in it follows from the recipe's
/// seed and the place, so that no state of a generator is part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FitState {
    /// Epoch of the next step, and its batch within that epoch.
    pub place: (u64, u64),
    /// Whether the fit is over.
    pub finished: bool,
    /// Sum of the losses of this epoch's steps so far.
    loss: f64,
    /// See [`Progress::ending`].
    ending: Option<(u64, u64)>,
    /// Values of the parameters, in the order of the fit's parameter set.
    values: Vec<Vec<f32>>,
    optimiser: AdamWState,
    answers: Vec<Answers>,
    /// Of a fit of texts, the weight of its rehearsal.
    rehearsal: f64,
    /// Of a fit of texts, of the steps so far that count.
    average: Average,
}

/// A table of answers, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answers {
    columns: usize,
    values: Vec<f32>,
}

impl FitState {
    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.optimiser.step
    }

    /// Of a fit of language examples, whose `loss` is the sum over this epoch's steps so far.
    pub(in crate::adapt) fn of_texts(
        place: (u64, u64),
        finished: bool,
        loss: f64,
        rehearsal: f64,
        average: Average,
        params: &ParamSet,
        optimiser: &AdamW,
    ) -> FitState {
        let mut optimiser = optimiser.state().clone();
        if finished {
            optimiser.moments.clear();
        }
        let values = params.iter().map(|p| p.value.clone()).collect();
        FitState { place, finished, loss, ending: None, values, optimiser, answers: vec![], rehearsal, average }
    }

    /// Sum of the losses of this epoch's steps so far.
    pub(in crate::adapt) fn loss(&self) -> f64 {
        self.loss
    }

    /// The average of a fit of texts.
    pub(in crate::adapt) fn average(&self) -> &Average {
        &self.average
    }

    /// Weight of the rehearsal of a fit of texts.
    pub(in crate::adapt) fn rehearsal(&self) -> f64 {
        self.rehearsal
    }

    /// Puts the values into `params`, and gives the optimiser as it was.
    ///
    /// # Errors
    /// `BadData` if they do not fit: then nothing has changed.
    pub(in crate::adapt) fn restore(&self, params: &mut ParamSet) -> Result<AdamW> {
        let odd = || Error::bad_data("a stored fit does not fit these parameters").hint("start the training anew");
        let fits = self.values.len() == params.len()
            && self.values.iter().zip(params.iter()).all(|(v, p)| v.len() == p.value.len())
            && self.values.iter().flatten().all(|v| v.is_finite())
            && self.average.fits(params)
            && self.loss.is_finite();
        if !fits {
            return Err(odd());
        }
        let optimiser = match self.finished {
            true => AdamW::finished(self.optimiser.clone()),
            false => AdamW::restore(params, self.optimiser.clone())?,
        };
        for (p, v) in params.iter_mut().zip(&self.values) {
            p.value.copy_from_slice(v);
        }
        Ok(optimiser)
    }

    /// For storage.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).map_err(|e| Error::internal("cannot encode where a fit stands").because(e))
    }

    /// From storage; `None` if `bytes` are not exactly one state.
    pub fn from_bytes(bytes: &[u8]) -> Option<FitState> {
        match postcard::take_from_bytes(bytes) {
            Ok((state, [])) => Some(state),
            _ => None,
        }
    }

    fn answers(&self) -> Option<Vec<Array2<f32>>> {
        let table = |a: &Answers| {
            let rows = a.values.len().checked_div(a.columns)?;
            Array2::from_shape_vec((rows, a.columns), a.values.clone()).ok()
        };
        self.answers.iter().map(table).collect()
    }
}

impl Fit<'_> {
    /// The state before the next step. The moments of a fit that is over have served.
    pub(super) fn state(&self) -> FitState {
        let table = |a: &Array2<f32>| Answers { columns: a.ncols(), values: a.iter().copied().collect() };
        let mut optimiser = self.optimiser.state().clone();
        if self.progress.finished {
            optimiser.moments.clear();
        }
        FitState {
            place: self.progress.place,
            finished: self.progress.finished,
            loss: self.progress.loss,
            ending: self.progress.ending,
            values: self.params.iter().map(|p| p.value.clone()).collect(),
            optimiser,
            answers: self.progress.answers.iter().map(table).collect(),
            rehearsal: 0.0,
            average: Average::default(),
        }
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// `BadData` if the state is not one of this fit: then nothing has changed.
    pub(super) fn take_up(&mut self, state: &FitState) -> Result<()> {
        let odd = || Error::bad_data("a stored fit is not one of this length").hint("start the training anew");
        let fits =
            state.ending.is_none_or(|(from, _)| from <= state.optimiser.step) && state.place.0 <= self.recipe.epochs;
        let answers = state.answers().filter(|_| fits).ok_or_else(odd)?;
        self.optimiser = state.restore(&mut self.params)?;
        let (place, finished, loss, ending) = (state.place, state.finished, state.loss, state.ending);
        self.progress = Progress { begun: true, place, finished, loss, ending, answers };
        self.read_back();
        Ok(())
    }

    /// Names this fit by its start.
    pub(super) fn name(&self) -> FitName {
        let mut name = Naming(blake3::Hasher::new());
        name.text(&format!("{:?} {:?} {:?}", self.recipe.decisive(), self.sites, self.lengths));
        name.text(&format!("{} {} {:?}", self.head.base_classes, self.head.classes, self.head.columns));
        for p in &self.params {
            name.text(&format!("{} {:?}", p.name, p.group));
            name.bytes(bytemuck::cast_slice(&p.value));
        }
        self.training_examples.iter().for_each(|l| name.training_example(l));
        name.0.finalize()
    }
}

/// What goes into a name: every part with its length, so that no two sequences of parts are the same bytes.
pub(crate) struct Naming(pub blake3::Hasher);

impl Naming {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
    pub fn training_example(&mut self, training_example: &TrainingExample) {
        let (kind, class) = match training_example.target {
            Target::Class(c) => (0u64, c),
            Target::Not(c) => (1, c),
            Target::Keep(c) => (2, c),
        };
        for number in [
            kind,
            class as u64,
            u64::from(training_example.weight.to_bits()),
            training_example.at_ms,
            training_example.earlier.into(),
        ] {
            self.0.update(&number.to_le_bytes());
        }
        self.bytes(bytemuck::cast_slice(&training_example.keep));
        self.example(&training_example.example);
    }
    pub fn example(&mut self, example: &Example) {
        self.0.update(&(example.arrays.len() as u64).to_le_bytes());
        for a in &example.arrays {
            self.text(&a.name);
            self.text(&format!("{:?} {:?}", a.shape, a.data.element_type()));
            self.bytes(match &a.data {
                ArrayData::F32(v) => bytemuck::cast_slice(v),
                ArrayData::I64(v) => bytemuck::cast_slice(v),
                ArrayData::I32(v) => bytemuck::cast_slice(v),
                ArrayData::U8(v) => v,
            });
        }
    }
}
