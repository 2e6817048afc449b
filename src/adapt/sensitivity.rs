//! How much each site's gradient matters on the feedback at hand, and what a pass costs: measured before sites are chosen.

use std::time::Instant;

use super::Adaptation;
use crate::choice::Measured;
use crate::error::Result;
use crate::plan::SiteKey;
use crate::train::fit::{Fit, Goal, Lesson};

/// Lessons that are looked at: enough for an order of the sites.
const LOOKED_AT: usize = 32;
/// Penalty of the head that the gradient comes through: it need not be the best one.
const L2: f32 = 1.0;

impl Adaptation<'_> {
    /// Gradients of the loss at `sites` over some lessons, through a head that is solved on them; none while nothing is known.
    pub(crate) fn measure(&self, sites: &SiteKey) -> Result<Option<Measured>> {
        let known: Vec<usize> = (0..self.material.lessons.len())
            .filter(|&i| matches!(self.material.lessons[i].goal, Goal::Class(_)))
            .collect();
        if known.len() < super::FEWEST_LESSONS || sites.is_empty() {
            return Ok(None);
        }
        self.say("measuring what the layers cost", 0.0);
        let seen = self.look()?;
        let head = self.solved_head(&seen, &known, L2)?;
        let step = known.len().div_ceil(LOOKED_AT);
        let lessons: Vec<&Lesson> = known.iter().step_by(step).map(|&i| &self.material.lessons[i]).collect();
        let recipe = self.recipe(known.len());
        let count = lessons.len();
        let fit = Fit::new(self.engine, lessons, sites, head, &recipe, 1)?;
        // The first pass compiles.
        let gradients = fit.site_gradients()?;
        let start = Instant::now();
        fit.site_gradients()?;
        let seconds_per_lesson = start.elapsed().as_secs_f64() / count as f64;
        let n = self.material.lessons.len() as f64;
        // Every fold trains on all lessons but its own, and the winner on all of them.
        let passes = recipe.epochs as f64 * f64::from(self.folds()?.folds());
        Ok(Some(Measured { gradients, seconds_per_lesson, lessons: n * passes / self.settings.threads.max(1) as f64 }))
    }
}
