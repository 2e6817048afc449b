//! The shallowest candidate: a head alone on the frozen features, solved and not trained.

use ndarray::{Array1, Array2};

use super::seen::{Seen, Taught};
use super::{Adaptation, Evidence};
use crate::adapter::Depth;
use crate::error::Result;
use crate::gate::split::Folds;
use crate::head::{Head, quiet_bias};
use crate::plan::Variant;
use crate::stats::rows::argmax;
use crate::train::solve::{L2_GRID, L2Choice, SolveOptions};

/// Penalty strengths for a head that corrects the base's own answers.
const GENTLE_GRID: [f32; 9] = [100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01];

impl Adaptation<'_> {
    /// The head of zeros: it acts on the base classes that some training example names, and on every new class.
    pub(super) fn blank_head(&self, seen: &Seen) -> Result<Head> {
        let m = self.dataset;
        let mut columns: Vec<u32> = m.training_examples.iter().map(|l| l.target.class() as u32).collect();
        // What the base answered wrongly must be able to step back.
        if let Some(z) = &seen.logits {
            columns.extend(z.rows().into_iter().filter_map(argmax).map(|c| c as u32));
        }
        columns.retain(|c| (*c as usize) < m.base_classes);
        columns.extend((m.base_classes..m.classes).map(|c| c as u32));
        columns.sort_unstable();
        columns.dedup();
        let n = columns.len();
        let quiet = seen.logits.as_ref().map_or(0.0, |z| quiet_bias(z.view()));
        let bias: Array1<f32> =
            columns.iter().map(|c| if (*c as usize) < m.base_classes { 0.0 } else { quiet }).collect();
        let weight = Array2::zeros((m.features, n));
        let (features, base_classes, classes, normalised) = (m.features, m.base_classes, m.classes, false);
        let head = Head { features, base_classes, classes, columns, normalised, weight, bias };
        head.check()?;
        Ok(head)
    }

    /// Solves the head on these training examples and on what is to be kept.
    pub(super) fn solved_head(&self, seen: &Seen, rows: &[usize], l2: f32, normalised: bool) -> Result<Head> {
        let mut head = Head { normalised, ..self.blank_head(seen)? };
        let taught = self.taught(seen, rows)?;
        // The solution itself: answers that are close call for it.
        let usual = SolveOptions::default();
        head.solve(&taught.data(), &SolveOptions { l2, tolerance: usual.tolerance / 10.0, ..usual })?;
        Ok(head)
    }

    pub(super) fn head_only(&self, seen: &Seen, folds: &Folds) -> Result<Evidence> {
        self.say("head", 0.0);
        let all: Vec<usize> = (0..self.dataset.training_examples.len()).collect();
        let taught = self.taught(seen, &all)?;
        // What is to be kept is a fold of its own: it validates a head that was trained on feedback alone, and trains
        // all others.
        let mut fold_of = folds.fold_of().to_vec();
        fold_of.resize(taught.weights.len(), folds.folds());
        let (blank, options) = (self.blank_head(seen)?, SolveOptions::default());
        let (choice, normalised) = match self.dataset.base_classes {
            0 => self.raw_or_normalised(&blank, &taught, &fold_of, &options)?,
            _ => (blank.choose_gentle_l2(&taught.data(), &fold_of, &GENTLE_GRID, &options)?, false),
        };
        tracing::debug!(l2 = choice.l2, normalised, "the head's penalty and features");
        let held_out = choice.held_out.slice(ndarray::s![..all.len(), ..]).to_owned();
        let mut answers = held_out.clone();
        for fold in 0..folds.folds() {
            let confusions = self.confusions_of_base(seen, &folds.training(fold));
            let base = seen.logits.as_ref();
            for i in folds.validation(fold) {
                if let (Some(confusions), Some(base)) = (&confusions, base) {
                    confusions.let_stand(answers.row_mut(i), base.row(i));
                }
            }
        }
        let (right, loss) = self.score(&answers)?;
        let solved = self.solved_head(seen, &all, choice.l2, normalised)?;
        let confusions = self.confusions(seen, &all, &Variant::Base, &solved, self.settings.threads)?;
        let retention = self.retention(seen, &Variant::Base, &solved, confusions.as_ref())?;
        let versions = choice.tried.iter().map(|t| t.right[..all.len()].to_vec()).collect();
        Ok(Evidence {
            depth: Depth::HeadOnly,
            sites: vec![],
            right,
            loss,
            versions,
            held_out,
            served: answers,
            retention,
            epochs: 0,
            l2: choice.l2,
            normalised,
        })
    }

    /// The head of an encoder on the features as they are, or scaled to length 1 (L2) where that has more held-out
    /// answers right.
    fn raw_or_normalised(
        &self,
        blank: &Head,
        taught: &Taught<'_>,
        fold_of: &[u32],
        options: &SolveOptions,
    ) -> Result<(L2Choice, bool)> {
        let data = taught.data();
        let raw = blank.choose_l2_or_plain(&data, fold_of, &L2_GRID, options)?;
        let unit = Head { normalised: true, ..blank.clone() };
        let normalised = unit.choose_l2_or_plain(&data, fold_of, &L2_GRID, options)?;
        let right = |choice: &L2Choice| choice.right(&data).iter().filter(|r| **r).count();
        let better = right(&normalised) > right(&raw);
        let tried = raw.tried.iter().chain(&normalised.tried).cloned().collect();
        Ok((L2Choice { tried, ..if better { normalised } else { raw } }, better))
    }
}
