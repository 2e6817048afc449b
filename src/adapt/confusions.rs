//! Which answers of the base model feedback has shown to be wrong, and what was right in their place.

use ndarray::{Array2, Axis};

use super::seen::Seen;
use super::{Adaptation, Incumbent};
use crate::adapt::fit::Target;
use crate::adapter::{Confusion, Confusions, FIRST_SHARE, LATER_SHARE};
use crate::error::Result;
use crate::head::Head;
use crate::input::Example;
use crate::plan::Variant;
use crate::stats::rows::argmax;

impl Adaptation<'_> {
    /// The confusions that the training examples `taught` show, with the margins of the adapter that learned from
    /// them; `None` where classes are new, or the base model has none.
    ///
    /// A label on a wrong answer of the base model shows one. A rejection shows what the adapter has learned to answer
    /// instead.
    pub(super) fn confusions(
        &self,
        seen: &Seen,
        taught: &[usize],
        variant: &Variant,
        head: &Head,
        threads: usize,
    ) -> Result<Option<Confusions>> {
        let Some(base) = seen.logits.as_ref().filter(|_| self.corrects_only()) else { return Ok(None) };
        let mistaken = self.mistaken(base, taught);
        if mistaken.is_empty() {
            return Ok(Some(Confusions::default()));
        }
        let adapted = match variant {
            Variant::Base => {
                let features = seen.features.select(Axis(0), &mistaken);
                head.forward(features.view(), Some(base.select(Axis(0), &mistaken).view()))?
            }
            _ => {
                let rows = self.rows(variant, &self.questions(&mistaken), threads)?;
                head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view()))?
            }
        };
        let shown = mistaken.iter().zip(adapted.rows()).filter_map(|(&i, adapted)| {
            let (target, base) = (self.dataset.training_examples[i].target, base.row(i));
            let answered = argmax(base)?;
            let right = match target {
                Target::Class(label) | Target::Keep(label) => label,
                Target::Not(_) => argmax(adapted).filter(|a| target.agrees(*a))?,
            };
            Some(Confusion {
                answered: u32::try_from(answered).ok()?,
                right: u32::try_from(right).ok()?,
                base_margin: base.get(answered)? - base.get(right)?,
                adapter_margin: adapted.get(right)? - adapted.get(answered)?,
            })
        });
        let share = if self.incumbent.is_some() { LATER_SHARE } else { FIRST_SHARE };
        Ok(Some(Confusions::of(shown, share)))
    }

    /// As far as they show without an adapter: any margin of it is enough, and a rejection shows that all else may be
    /// right.
    pub(super) fn confusions_of_base(&self, seen: &Seen, taught: &[usize]) -> Option<Confusions> {
        let base = seen.logits.as_ref().filter(|_| self.corrects_only())?;
        let shown = self.mistaken(base, taught).into_iter().flat_map(|i| {
            let (target, base) = (self.dataset.training_examples[i].target, base.row(i));
            let right = (0..base.len()).filter(move |right| target.agrees(*right));
            argmax(base).into_iter().flat_map(move |answered| {
                right.clone().map(move |right| Confusion {
                    answered: answered as u32,
                    right: right as u32,
                    base_margin: base[answered] - base[right],
                    adapter_margin: 0.0,
                })
            })
        });
        Some(Confusions::of(shown, 0.0))
    }

    /// Of the training examples `taught`, those that the base model answers wrongly.
    fn mistaken(&self, base: &Array2<f32>, taught: &[usize]) -> Vec<usize> {
        let agrees = |i: usize, answer: usize| self.dataset.training_examples[i].target.agrees(answer);
        taught.iter().copied().filter(|&i| argmax(base.row(i)).is_some_and(|answer| !agrees(i, answer))).collect()
    }

    fn questions(&self, rows: &[usize]) -> Vec<&Example> {
        rows.iter().map(|&i| &self.dataset.training_examples[i].example).collect()
    }

    /// Leaves to the base model, in rows of `answers`, what `confusions` do not show; `base` has its logits on the
    /// same inputs.
    pub(super) fn let_stand(confusions: Option<&Confusions>, answers: &mut Array2<f32>, base: Option<&Array2<f32>>) {
        let (Some(confusions), Some(base)) = (confusions, base) else { return };
        for (row, base) in answers.rows_mut().into_iter().zip(base.rows()) {
            confusions.let_stand(row, base);
        }
    }

    /// Answers of the active generation to the training examples `rows`, `[rows, its classes]`; `None` without classes.
    pub(super) fn incumbent_answers(&self, of: &Incumbent, seen: &Seen, rows: &[usize]) -> Result<Option<Array2<f32>>> {
        let variant = match of.sites.is_empty() {
            true => Variant::Base,
            false => Variant::Adapted(of.sites, of.factors),
        };
        let answered = self.rows(&variant, &self.questions(rows), self.settings.threads)?;
        let logits = match of.head {
            Some(head) => Some(head.forward(answered.features.view(), answered.logits.as_ref().map(|z| z.view()))?),
            None => answered.logits,
        };
        let base = seen.logits.as_ref().map(|z| z.select(Axis(0), rows));
        Ok(logits.map(|mut z| {
            Self::let_stand(of.confusions, &mut z, base.as_ref());
            z
        }))
    }
}
