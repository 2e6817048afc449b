//! Which answers of the base model feedback has shown to be wrong, and what was right in their place.

use ndarray::{Array2, Axis};

use super::seen::Seen;
use super::{Adaptation, Incumbent};
use crate::adapter::Confusions;
use crate::error::Result;
use crate::input::Example;
use crate::plan::Variant;
use crate::stats::rows::argmax;

impl Adaptation<'_> {
    /// The confusions that the training examples `taught` show; `None` where classes are new, or the base model has none.
    ///
    /// A label shows one: the base model's answer, and the label. A rejection of that answer shows that anything else may be right.
    pub(super) fn confusions(&self, seen: &Seen, taught: &[usize]) -> Option<Confusions> {
        let logits = seen.logits.as_ref().filter(|_| self.corrects_only())?;
        let shown = taught.iter().flat_map(|&i| {
            let target = &self.dataset.training_examples[i].target;
            let answered = argmax(logits.row(i)).filter(|answered| !target.agrees(*answered));
            let right = (0..self.dataset.classes).filter(|right| target.agrees(*right));
            answered.into_iter().flat_map(move |a| right.clone().map(move |r| (a as u32, r as u32)))
        });
        Some(Confusions::of(shown))
    }

    /// Leaves to the base model, in rows of `answers`, what `confusions` do not show; `base` has its logits on the same inputs.
    pub(super) fn let_stand(confusions: Option<&Confusions>, answers: &mut Array2<f32>, base: Option<&Array2<f32>>) {
        let (Some(confusions), Some(base)) = (confusions, base) else { return };
        for (row, base) in answers.rows_mut().into_iter().zip(base.rows()) {
            confusions.let_stand(row, base);
        }
    }

    /// Answers of the active generation to the training examples `rows`, `[rows, its classes]`; `None` without classes.
    pub(super) fn incumbent_answers(&self, of: &Incumbent, seen: &Seen, rows: &[usize]) -> Result<Option<Array2<f32>>> {
        let questions: Vec<&Example> = rows.iter().map(|&i| &self.dataset.training_examples[i].example).collect();
        let variant = match of.sites.is_empty() {
            true => Variant::Base,
            false => Variant::Adapted(of.sites, of.factors),
        };
        let answered = self.rows(&variant, &questions, self.settings.threads)?;
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
