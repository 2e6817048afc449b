//! An active generation is watched: on what is said about its own answers, would the base model have been right more
//! often?
//!
//! The gate judges before a generation serves, on what was met by then; what comes after may be different. So each
//! correction of an answer that a generation gave asks again, by the same paired test, and a generation that proves
//! worse than the base is rolled back automatically (docs/gate.md).

use super::{Session, journal_io};
use crate::error::{Error, Result};
use crate::input::Example;
use crate::input::label::NONE_OF_THESE;
use crate::journal::{FeedbackKind, InteractionEntry};
use crate::plan::{MICRO_BATCH, Variant};
use crate::stats::paired::Paired;
use crate::store::Cause;
use crate::sync::lock;

/// Level of the test. It is asked anew after each correction, so it is stricter than the gate's: five answers that the
/// base would have had right, and none the other way, are the fewest that pass.
const ALPHA: f64 = 0.02;
/// Wrong answers without which the test cannot pass.
const FEWEST_WRONG: usize = 5;
/// The latest answers looked at: an old success does not excuse what goes wrong now.
const MOST: usize = 64;

/// An answer of the active generation with feedback.
struct Judged {
    entry: InteractionEntry,
    kind: FeedbackKind,
}

impl Judged {
    fn answered(&self) -> Option<&str> {
        self.entry.answer.as_ref().map(|(label, _)| &**label)
    }
    /// Whether `label` agrees with what was said.
    fn agrees(&self, label: Option<&str>) -> bool {
        match &self.kind {
            // Whether an input is like the known ones is not what a generation is compared with the base on.
            FeedbackKind::Accept | FeedbackKind::Reject | FeedbackKind::NoneOfThese if self.entry.novel => true,
            FeedbackKind::Label(right) => label == Some(right),
            FeedbackKind::Accept => label == self.answered(),
            FeedbackKind::Reject => label != self.answered(),
            FeedbackKind::NoneOfThese => label == Some(NONE_OF_THESE),
            // Never among what is judged.
            FeedbackKind::Ignored
            | FeedbackKind::RejectBecause(_)
            | FeedbackKind::Edit(_)
            | FeedbackKind::PreferredOver(_)
            | FeedbackKind::Demonstration(_) => true,
        }
    }
}

impl Session {
    /// What [`Session::watch`] rolled back. The feedback is durable by now, so its failure is no failure of the
    /// feedback.
    pub(super) fn watched(&self) -> Option<u64> {
        self.watch().unwrap_or_else(|e| {
            tracing::warn!(error = %e, "the active generation could not be compared with the base");
            None
        })
    }

    /// Takes the active generation back if it is worse than the base on what is said about its own answers; its number
    /// then.
    ///
    /// # Errors
    /// When the journal cannot be read or the head not be written; nothing has changed then.
    pub(super) fn watch(&self) -> Result<Option<u64>> {
        if self.home.generates() {
            return self.watch_language();
        }
        let generation = self.serving().generation;
        if generation == 0 || self.home.0.base_classes == 0 {
            return Ok(None);
        }
        let judged = self.judged(generation)?;
        let right: Vec<bool> = judged.iter().map(|j| j.agrees(j.answered())).collect();
        if right.iter().filter(|r| !**r).count() < FEWEST_WRONG {
            return Ok(None);
        }
        let base_right = self.base_right(&judged)?;
        let test = Paired::count(&base_right, &right);
        if test.p() > ALPHA {
            return Ok(None);
        }
        let why = Error::bad_data(format!(
            "of {} answers with feedback, {} were wrong where the base model is right, and {} right where it is wrong",
            test.n, test.wins, test.losses
        ));
        self.roll_back_automatically(generation, Cause::Worse, &why)?;
        self.follow()?;
        Ok(Some(generation))
    }

    /// The latest of its answers with feedback, oldest first.
    fn judged(&self, generation: u64) -> Result<Vec<Judged>> {
        let spoken = lock(&self.journal).latest_feedback(generation, MOST)?;
        Ok(spoken.into_iter().map(|s| Judged { entry: s.interaction, kind: s.kind }).collect())
    }

    /// Whether the base agrees with what was said. Each answer is asked of it once.
    fn base_right(&self, judged: &[Judged]) -> Result<Vec<bool>> {
        let known = lock(&self.base_says).clone();
        let new: Vec<&Judged> = judged.iter().filter(|j| !known.contains_key(&j.entry.id)).collect();
        let asked = self.ask_base(&new)?;
        let mut says = known;
        says.extend(new.iter().map(|j| j.entry.id).zip(asked));
        let right: Vec<bool> = judged.iter().map(|j| says.get(&j.entry.id).copied().unwrap_or(false)).collect();
        says.retain(|id, _| judged.iter().any(|j| j.entry.id == *id));
        *lock(&self.base_says) = says;
        Ok(right)
    }

    fn ask_base(&self, judged: &[&Judged]) -> Result<Vec<bool>> {
        if judged.is_empty() {
            return Ok(vec![]);
        }
        let load = |j: &&Judged| -> Result<Example> {
            let input = lock(&self.journal).input(j.entry.id).and_then(journal_io::load)?;
            self.home.intake().example(&input).map_err(|e| e.at(format!("interaction {} in the journal", j.entry.id)))
        };
        let examples: Vec<Example> = judged.iter().map(load).collect::<Result<_>>()?;
        let questions: Vec<&Example> = examples.iter().collect();
        let rows = self.home.0.engine.many(&Variant::Base, &questions, 1, MICRO_BATCH)?;
        let Some(logits) = rows.logits else { return Ok(vec![false; judged.len()]) };
        let labels = self.home.labels();
        let answer =
            |row: ndarray::ArrayView1<f32>| crate::stats::rows::argmax(row).and_then(|class| labels.get(class));
        Ok(logits.rows().into_iter().zip(judged).map(|(row, j)| j.agrees(answer(row).map(String::as_str))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::disk::faulty::FaultyDisk;
    use crate::input::LabelledSet;
    use crate::journal::SegmentSize;
    use crate::runtime::serving::tests::stubborn;
    use crate::runtime::{Feedback, Home, Session};
    use crate::store::Cause;
    use crate::sync::lock;

    /// Windows of which the base answers every one right, and class 0 is none of them.
    fn windows(session: &Session) -> (LabelledSet, Vec<usize>) {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hapt_users_23_26.npz");
        let all = LabelledSet::read(&data).unwrap().filter_user(26).unwrap();
        let good: Vec<usize> = (0..all.len())
            .filter(|&i| all.labels()[i] != "0")
            .filter(|&i| {
                let p = session.evaluate(&[all.input(i).unwrap()], true, 1).unwrap().unwrap();
                crate::stats::rows::argmax(p.row(0)).map(|c| c.to_string()).as_ref() == Some(&all.labels()[i])
            })
            .take(8)
            .collect();
        (all, good)
    }

    #[test]
    fn a_generation_that_proves_worse_than_the_base_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let session = stubborn(folder.path(), None, false);
        let (all, good) = windows(&session);
        for (given, &i) in good.iter().take(5).enumerate() {
            let answer = session.predict(&all.input(i).unwrap()).unwrap();
            assert_eq!((answer.generation, answer.label()), (1, Some("0")));
            let said = match given % 2 {
                0 => Feedback::Label(all.labels()[i].clone()),
                _ => Feedback::Reject,
            };
            let receipt = session.feedback(answer.id.unwrap(), said).unwrap();
            assert_eq!(receipt.rolled_back, (given == 4).then_some(1), "after {} corrections", given + 1);
        }
        let status = session.status().unwrap();
        assert_eq!((status.generation, status.feedback), (0, 5));
        let rolled_back = status.rolled_back.unwrap();
        assert_eq!((rolled_back.generation, rolled_back.cause), (1, Cause::Worse));
        let answer = session.predict(&all.input(good[5]).unwrap()).unwrap();
        assert_eq!((answer.generation, answer.label()), (0, Some(all.labels()[good[5]].as_str())));
        assert_eq!(session.rollback(Some(1)).unwrap(), 1, "it stays on disk, and can be chosen again");
    }

    #[test]
    fn corrections_that_the_base_needs_as_well_take_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let session = stubborn(folder.path(), None, false);
        let (all, good) = windows(&session);
        for &i in &good {
            let answer = session.predict(&all.input(i).unwrap()).unwrap();
            // Neither class 0 nor what the base answers.
            let other = (1..6).map(|c| c.to_string()).find(|c| *c != all.labels()[i]).unwrap();
            let receipt = session.feedback(answer.id.unwrap(), Feedback::Label(other)).unwrap();
            assert_eq!(receipt.rolled_back, None);
        }
        assert_eq!(session.status().unwrap().generation, 1);
    }

    /// Also with feedback of many segments: what a feedback reads does not depend on how many came before.
    #[test]
    fn a_feedback_costs_the_same_however_many_came_before() {
        let folder = tempfile::tempdir().unwrap();
        drop(stubborn(folder.path(), None, false));
        let disk = FaultyDisk::counting();
        let home = Home::open_on(Arc::new(disk.clone()), &folder.path().join("home"), None).unwrap();
        let session = home.session("default").unwrap();
        lock(&session.journal).set_segment_size(SegmentSize { records: 50, ..SegmentSize::default() });
        let (all, good) = windows(&session);
        let cost = |n: usize| {
            let i = good[n % good.len()];
            let id = session.predict(&all.input(i).unwrap()).unwrap().id.unwrap();
            // Neither class 0 nor what the base answers: wrong, and the base is asked.
            let other = (1..6).map(|c| c.to_string()).find(|c| *c != all.labels()[i]).unwrap();
            let before = disk.operations();
            session.feedback(id, Feedback::Label(other)).unwrap();
            disk.operations() - before
        };
        let costs: Vec<usize> = (0..400).map(cost).collect();
        // Now and then one seals a segment.
        let usual = |costs: &[usize]| costs.iter().copied().min().unwrap();
        let (early, late) = (usual(&costs[90..100]), usual(&costs[390..]));
        assert!(late <= early + 4 && late < 30, "{early} operations after 90, {late} after 390");
        assert!(lock(&session.journal).state().segments().len() > 10);
        let most = costs.iter().max().unwrap();
        assert!(*most < 1000, "the one that seals, and reads back what was said last, takes {most}");
    }
}
