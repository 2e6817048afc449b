//! Answers.

use std::sync::Arc;

use ndarray::Array2;

use super::{Serving, Session, ended};
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Example, Prepared, RawInput as Input};
use crate::journal::{InteractionId, NOVEL, StoredInput};
use crate::plan::{MICRO_BATCH, Variant};
use crate::runtime::answer::{Answer, ranked};
use crate::runtime::serving::Answered;
use crate::runtime::{journal_io, now_ms};
use crate::stats::rows::{argmax, softmax_at};
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
        self.home.classifies()?;
        let Prepared { example, stored } = self.home.intake().prepare(input)?;
        let (mut serving, probation) = self.take_up_to_answer()?;
        let answered = match self.answered(&serving, &example) {
            Err(e) if serving.generation > 0 && e.kind() == ErrorKind::BadData && self.base_answers(&example) => {
                // A generation that cannot answer what the base can is rolled back automatically at once.
                self.roll_back_automatically(serving.generation, Cause::BadAnswer, &e)?;
                serving = self.follow()?;
                self.answered(&serving, &example)?
            }
            other => {
                ended(probation, u32::from(other.is_ok()));
                other?
            }
        };
        let familiarity = self.familiarity(&serving, &example, &answered)?;
        let top =
            answered.logits.map_or_else(Vec::new, |z| ranked(z.row(0), serving.temperature, &serving.labels, top));
        let stored = journal_io::store(stored);
        let mut recorded: Vec<(String, f32)> = top.iter().map(|s| (s.class().to_string(), s.p)).collect();
        let novel = familiarity.filter(|p| f64::from(*p) <= self.home.config().none_rate);
        recorded.extend(novel.map(|p| (NOVEL.to_string(), p)));
        let none = novel.is_some() || top.first().is_some_and(|s| s.none);
        let id = self.record(stored, recorded, serving.generation);
        let ask = id.as_ref().is_ok_and(|id| self.asks(*id));
        let (id, unrecorded) = match id {
            Ok(id) => (Some(id), None),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Busy) => (None, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        Ok(Answer { id, top, generation: serving.generation, ask, none, familiarity, unrecorded })
    }

    /// Records an answer of `generation`; its id.
    pub(in crate::runtime) fn record(
        &self,
        input: StoredInput,
        top: Vec<(String, f32)>,
        generation: u64,
    ) -> Result<InteractionId> {
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            // A disk that was full may have room again. If not, the record below fails and says so.
            let _ = journal.reopen();
        }
        let id = journal.record_interaction(now_ms(), input, top, generation)?;
        drop(journal);
        self.flusher.wake();
        Ok(id)
    }

    /// Whether the person is asked about this answer.
    fn asks(&self, id: InteractionId) -> bool {
        let journal = lock(&self.journal);
        lock(&self.asking).asks(&journal, id)
    }

    fn answered(&self, serving: &Serving, example: &Example) -> Result<Answered> {
        let answered = serving.answers(&[example], |variant, _| self.home.0.engine.one(variant, example))?;
        match &answered.logits {
            Some(z) if z.iter().any(|v| !v.is_finite()) => {
                Err(Error::bad_data("the adapter answered with a value that is not a finite number"))
            }
            _ => Ok(answered),
        }
    }

    /// [`Serving::familiarity`] of an input that was answered so, where the home asks for it. Known inputs are those of
    /// the frozen base: it takes a forward pass where the answer did not.
    fn familiarity(&self, serving: &Serving, example: &Example, answered: &Answered) -> Result<Option<f32>> {
        let Some(class) = answered.logits.as_ref().and_then(|z| argmax(z.row(0))) else { return Ok(None) };
        if self.home.config().none_rate <= 0.0 || serving.known().is_none() {
            return Ok(None);
        }
        let features = match &answered.base_features {
            Some(features) => features.row(0).to_vec(),
            None => self.home.0.engine.one(&Variant::Base, example)?.features.row(0).to_vec(),
        };
        Ok(serving.familiarity(&features, class))
    }

    fn base_answers(&self, example: &Example) -> bool {
        self.home.0.engine.one(&Variant::Base, example).is_ok()
    }

    /// Probabilities of all classes for each input, in the order of [`Session::labels`], by the active generation;
    /// nothing is recorded. Empty while an encoder has learned no class.
    ///
    /// # Errors
    /// When an input does not fit the model.
    pub fn probabilities(&self, inputs: &[Input]) -> Result<Vec<Vec<f32>>> {
        let rows = self.evaluate(inputs, false, self.home.config().threads())?;
        Ok(rows.map_or_else(Vec::new, |p| p.rows().into_iter().map(|row| row.to_vec()).collect()))
    }

    internal! {
        /// Probabilities of all classes for many inputs, without recording anything: `[inputs, classes]` in the order
        /// of [`Session::labels`], by the active generation or, with `base`, by the base model.
        pub fn evaluate(&self, inputs: &[Input], base: bool, threads: usize) -> Result<Option<Array2<f32>>> {
            self.home.classifies()?;
            let examples: Vec<Example> = inputs.iter().map(|i| self.home.intake().example(i)).collect::<Result<_>>()?;
            let examples: Vec<&Example> = examples.iter().collect();
            let serving = if base { Arc::new(Serving::base(&self.home)) } else { self.follow()? };
            if serving.head().is_none() && self.home.0.base_classes == 0 {
                // No class is known yet: whether the inputs fit the model is all there is to say.
                examples.iter().try_for_each(|e| crate::plan::check(self.home.base(), e))?;
                return Ok(None);
            }
            let engine = &self.home.0.engine;
            let answers = serving.answers(&examples, |variant, some| engine.many(variant, some, threads, MICRO_BATCH))?;
            let Some(mut z) = answers.logits else { return Ok(None) };
            for mut row in z.rows_mut() {
                let p = softmax_at(row.view(), serving.temperature);
                row.iter_mut().zip(p).for_each(|(z, p)| *z = p);
            }
            Ok(Some(z))
        }
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::input::LabelledSet;
    use crate::runtime::{Feedback, Home, InitOptions, TrainOptions};

    /// Also by a generation whose own features are others.
    #[test]
    fn familiarity_is_that_of_the_frozen_features() {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let path = folder.path().join("home");
        let home = Home::init(&path, &InitOptions::new(models.join("har_cnn.onnx"))).unwrap();
        let session = home.session("p").unwrap();
        let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
        let known = |i: &usize| windows.labels()[*i].parse::<usize>().unwrap() < 6;
        for i in (0..windows.len()).step_by(5).filter(known) {
            let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
            session.feedback(id, Feedback::Label(windows.labels()[i].clone())).unwrap();
        }
        assert!(session.train(&TrainOptions::default()).unwrap().promoted);
        drop(session);
        let text = std::fs::read_to_string(path.join("acclimate.toml")).unwrap();
        std::fs::write(path.join("acclimate.toml"), format!("none_rate = 0.05\n{text}")).unwrap();
        let session = Home::open(&path).unwrap().session("p").unwrap();
        let serving = session.serving();
        assert!(!serving.sites.is_empty() && serving.known().is_some());
        let mut others = 0;
        for i in (1..windows.len()).step_by(29) {
            let input = windows.input(i).unwrap();
            let answer = session.predict(&input).unwrap();
            let example = session.home.intake().example(&input).unwrap();
            let of = |variant: &Variant| {
                let rows = session.home.0.engine.one(variant, &example).unwrap();
                serving.known().unwrap().familiarity(&rows.features.row(0).to_vec())
            };
            assert_eq!(answer.familiarity, Some(of(&Variant::Base)), "window {i}");
            assert_eq!(answer.none, answer.familiarity.unwrap() <= 0.05);
            others += usize::from(of(&serving.variant()) != of(&Variant::Base));
        }
        assert!(others > 3, "{others}");
    }
}
