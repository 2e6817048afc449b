//! How much each site's gradient matters on the feedback at hand, and what a pass costs: measured before sites are
//! chosen.

use std::time::Instant;

use super::Adaptation;
use crate::adapt::fit::{Fit, Target, TrainingExample};
use crate::adapt::select::Measured;
use crate::error::Result;
use crate::plan::SiteKey;

/// Training examples that are looked at: enough for an order of the sites.
const LOOKED_AT: usize = 32;
/// Part of the time that looking at them may take.
const PART: f64 = 0.1;
/// Penalty of the head that the gradient comes through: it need not be the best one.
const L2: f32 = 1.0;

impl Adaptation<'_> {
    /// Gradients of the loss at `sites` over some training examples, through a head that is solved on them; none while
    /// nothing is known.
    pub(crate) fn measure(&self, sites: &SiteKey) -> Result<Option<Measured>> {
        let known: Vec<usize> = (0..self.dataset.training_examples.len())
            .filter(|&i| matches!(self.dataset.training_examples[i].target, Target::Class(_)))
            .collect();
        if known.len() < super::FEWEST_EXAMPLES || sites.is_empty() {
            return Ok(None);
        }
        let started = Instant::now();
        self.say("measuring what the layers cost", 0.0);
        let seen = self.look()?;
        let head = self.solved_head(&seen, &known, L2, false)?;
        let step = known.len().div_ceil(LOOKED_AT);
        let training_examples: Vec<&TrainingExample> =
            known.iter().step_by(step).map(|&i| &self.dataset.training_examples[i]).collect();
        let recipe = self.recipe(known.len());
        let (all, few) = (training_examples.len(), recipe.micro_batch.clamp(1, training_examples.len()));
        let fit = Fit::new(self.engine, training_examples, sites, head, &recipe, 1)?;
        // The first pass compiles, the second is timed.
        fit.site_gradients(few)?;
        let start = Instant::now();
        let mut gradients = fit.site_gradients(few)?;
        let seconds_per_example = start.elapsed().as_secs_f64() / few as f64;
        let room = self.settings.budget.map_or(f64::INFINITY, |b| PART * b.as_secs_f64()) / seconds_per_example;
        let count = (room as usize).min(all);
        if count > few {
            gradients = fit.site_gradients(count)?;
        }
        let n = self.dataset.training_examples.len() as f64;
        // Every fold trains on all training examples but its own, and the winner on all of them.
        let passes = recipe.epochs as f64 * f64::from(self.folds()?.folds());
        let training_examples = n * passes / self.settings.threads.max(1) as f64;
        Ok(Some(Measured {
            gradients,
            seconds_per_example,
            training_examples,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }
}
