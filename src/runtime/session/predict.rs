//! Answers.

use std::sync::Arc;

use ndarray::Array2;

use super::{Serving, Session, ended};
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Example, Prepared, RawInput as Input};
use crate::plan::{MICRO_BATCH, Variant};
use crate::runtime::answer::{Answer, ranked};
use crate::runtime::{journal_io, now_ms};
use crate::stats::rows::softmax;
use crate::store::Cause;
use crate::sync::lock;

impl Session {
    /// Answers one input and records it, so that feedback can be given on it.
    ///
    /// # Errors
    /// When the input does not fit the model. A disk that takes no record is no error: the answer then has no id.
    pub fn predict(&self, input: &Input) -> Result<Answer> {
        self.predict_top(input, 5)
    }

    /// [`Session::predict`] with the `top` most probable classes.
    pub fn predict_top(&self, input: &Input, top: usize) -> Result<Answer> {
        let Prepared { example, stored } = self.home.intake().prepare(input)?;
        let (mut serving, probation) = self.take_up()?;
        let logits = match self.logits(&serving, &example) {
            Err(e) if serving.generation > 0 && e.kind() == ErrorKind::BadData && self.base_answers(&example) => {
                // A generation that cannot answer what the base can is rolled back automatically at once.
                self.roll_back_automatically(serving.generation, Cause::BadAnswer, &e)?;
                serving = self.follow()?;
                self.logits(&serving, &example)?
            }
            other => {
                ended(probation, u32::from(other.is_ok()));
                other?
            }
        };
        let top = logits.map_or_else(Vec::new, |z| ranked(z.row(0), &serving.labels, top));
        let stored = journal_io::store(stored);
        let recorded = top.iter().map(|s| (s.label.clone(), s.p)).collect();
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            // A disk that was full may have room again. If not, the record below fails and says so.
            let _ = journal.reopen();
        }
        let id = journal.record_interaction(now_ms(), stored, recorded, serving.generation);
        let ask = id.as_ref().is_ok_and(|id| lock(&self.asking).asks(&journal, *id));
        drop(journal);
        let (id, unrecorded) = match id {
            Ok(id) => (Some(id), None),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Busy) => (None, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        if id.is_some() {
            self.flusher.wake();
        }
        Ok(Answer { id, top, generation: serving.generation, ask, unrecorded })
    }

    fn logits(&self, serving: &Serving, example: &Example) -> Result<Option<Array2<f32>>> {
        // The base model is a step of the answer where the adapter may not change it.
        let logits = serving.answers(&[example], |variant, _| self.home.0.engine.one(variant, example))?;
        match &logits {
            Some(z) if z.iter().any(|v| !v.is_finite()) => {
                Err(Error::bad_data("the adapter answered with a value that is not a finite number"))
            }
            _ => Ok(logits),
        }
    }

    fn base_answers(&self, example: &Example) -> bool {
        self.home.0.engine.one(&Variant::Base, example).is_ok()
    }

    /// Probabilities of all classes for each input, in the order of [`Session::labels`], by the active generation; nothing is
    /// recorded. Empty while an encoder has learned no class.
    ///
    /// # Errors
    /// When an input does not fit the model.
    pub fn probabilities(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let rows = self.evaluate(inputs, false, threads)?;
        Ok(rows.map_or_else(Vec::new, |p| p.rows().into_iter().map(|row| row.to_vec()).collect()))
    }

    internal! {
        /// Probabilities of all classes for many inputs, without recording anything: `[inputs, classes]` in the order of
        /// [`Session::labels`], by the active generation or, with `base`, by the base model.
        pub fn evaluate(&self, inputs: &[Input], base: bool, threads: usize) -> Result<Option<Array2<f32>>> {
            let examples: Vec<Example> = inputs.iter().map(|i| self.home.intake().example(i)).collect::<Result<_>>()?;
            let examples: Vec<&Example> = examples.iter().collect();
            let serving = if base { Arc::new(Serving::base(&self.home)) } else { self.follow()? };
            if serving.head.is_none() && self.home.0.base_classes == 0 {
                // No class is known yet: whether the inputs fit the model is all there is to say.
                examples.iter().try_for_each(|e| crate::plan::check(self.home.base(), e))?;
                return Ok(None);
            }
            let engine = &self.home.0.engine;
            let answers = serving.answers(&examples, |variant, some| engine.many(variant, some, threads, MICRO_BATCH))?;
            let Some(mut z) = answers else { return Ok(None) };
            for mut row in z.rows_mut() {
                let p = softmax(row.view());
                row.iter_mut().zip(p).for_each(|(z, p)| *z = p);
            }
            Ok(Some(z))
        }
    }
}
