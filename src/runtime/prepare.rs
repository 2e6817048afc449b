//! What a training works on: the training examples of a cut of the journal, and the sites and settings that its limits
//! allow.

use std::time::{Duration, Instant};

use super::Session;
use super::feedback_dataset::FeedbackDataset;
use super::resume;
use super::session::Serving;
use super::train_options::TrainOptions;
use crate::adapt::select::{Chosen, Costs, applied};
use crate::adapt::{Adaptation, CandidateSites, Incumbent, Progress, Settings};
use crate::error::Result;
use crate::plan::sequence_length;
use crate::sites::Pattern;
use crate::store::Cut;

/// A training before its first fit.
pub(super) struct Prepared {
    pub feedback_dataset: FeedbackDataset,
    pub candidates: CandidateSites,
    pub settings: Settings,
    /// Which sites may adapt, where memory or time is limited.
    pub chosen: Option<Chosen>,
    /// Names the training by all that decides its result.
    pub name: [u8; 32],
}

impl Session {
    /// Reads `cut` of the journal; where memory or time is limited, measures and chooses.
    pub(super) fn prepare(
        &self,
        options: &TrainOptions<'_>,
        serving: &Serving,
        cut: &Cut,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Prepared> {
        let started = Instant::now();
        let config = self.home().config();
        let engine = &self.home().0.engine;
        let mut settings = options.over(|| self.settings());
        let limits = options.limits.unwrap_or(config.limits);
        // Within limits one example at a time, since nothing has been measured yet.
        let (threads, at_once) =
            if limits.are_unlimited() { (settings.threads, settings.recipe.micro_batch) } else { (1, 1) };
        let feedback_dataset =
            self.feedback_dataset(serving, cut, &limits)?.without_swapped(engine, threads, at_once)?;
        let dataset = &feedback_dataset.dataset;
        // Costs are those of the longest training example.
        let longest =
            dataset.training_examples.iter().map(|l| sequence_length(&engine.base, &l.example)).max().unwrap_or(0);
        let length = engine.bucket(1, longest).sequence;
        let pattern = Pattern::new(&config.sites);
        let choice = crate::adapt::select::choose(&engine.base, engine.task, &pattern, config.rank, length)?;
        // Gradients are measured with the deltas that would be applied.
        let measure = |candidates: &CandidateSites, settings: &Settings| {
            let candidates = applied(candidates, &settings.recipe.lora);
            let measuring = Adaptation {
                engine,
                dataset,
                candidates: &candidates,
                settings,
                incumbent: incumbent(serving),
                stop,
                keeper: None,
                progress,
            };
            let measured = measuring.measure(&candidates.all_sites);
            engine.drop_train_plans();
            measured
        };
        let by_gradient = settings.recipe.lora.rank_by_gradient;
        let (candidates, chosen) = if limits.are_unlimited() {
            let uniform = &choice.candidates;
            let measured = if by_gradient { measure(uniform, &settings)? } else { None };
            (choice.by_gradient(uniform, &measured.map_or(vec![], |m| m.gradients)), None)
        } else {
            let costs = Costs::new(&engine.base, engine.task, &choice, &limits, settings.threads)
                .of_family(&settings.recipe.lora)
                .with(dataset.folds().max(1), dataset.copied_bytes(&engine.base));
            let (candidates, chosen) = costs.choose(config.rank, None)?;
            settings.recipe.micro_batch = chosen.micro_batch;
            settings.recipe.gradient_checkpointing = chosen.gradient_checkpointing;
            if let Some(limit) = limits.memory_bytes {
                let room = limit.saturating_sub(chosen.memory_bytes) / settings.threads.max(1) as u64;
                settings.recipe.keep_at_most(room);
            }
            if let Some(most) = limits.budget_seconds {
                let most = Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX);
                settings.budget = Some(settings.budget.map_or(most, |b| b.min(most)));
            }
            let measured = measure(&candidates, &settings)?;
            let (candidates, chosen) = costs.choose(config.rank, measured.as_ref())?;
            match measured.filter(|_| by_gradient) {
                Some(m) => (choice.by_gradient(&candidates, &m.gradients), Some(chosen)),
                None => (candidates, Some(chosen)),
            }
        };
        let candidates = applied(&candidates, &settings.recipe.lora);
        // Measuring is part of the time.
        settings.budget = settings.budget.map(|b| b.saturating_sub(started.elapsed()));
        let name = resume::name(&engine.base.fingerprint(), &settings, &candidates, dataset);
        Ok(Prepared { feedback_dataset, candidates, settings, chosen, name })
    }
}

/// The active generation while a training runs, unless that is the base.
pub(super) fn incumbent(serving: &Serving) -> Option<Incumbent<'_>> {
    (serving.generation > 0).then_some(Incumbent {
        generation: serving.generation,
        sites: &serving.sites,
        factors: &serving.factors,
        head: serving.head(),
        confusions: serving.confusions.as_ref(),
    })
}
