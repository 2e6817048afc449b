//! What a training works on: the lessons of a cut of the journal, and the sites and settings that its means allow.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Session;
use super::resume::{self, Checkpoints};
use super::session::Serving;
use crate::adapt::select::{Chosen, Costs};
use crate::adapt::{Adaptation, Incumbent, Ladder, Material, Progress, Settings};
use crate::error::Result;
use crate::plan::sequence_length;
use crate::process::Means;
use crate::sites::Pattern;
use crate::store::Cut;

/// How to train.
#[derive(Default)]
pub struct TrainOptions<'a> {
    /// Settings; the home's seed, rank and limits apply on top of the defaults when none are given.
    pub settings: Option<Settings>,
    /// What it may cost; the home's limits when none are given.
    pub means: Option<Means>,
    /// Set by the caller to stop; checked before every step.
    pub stop: Option<&'a AtomicBool>,
    /// When it is kept where the training stands.
    pub checkpoints: Checkpoints,
    /// Told about progress.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

/// A training before its first fit.
pub(super) struct Prepared {
    /// Of all classes.
    pub labels: Vec<String>,
    pub material: Material,
    pub ladder: Ladder,
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
        let mut settings = options.settings.clone().unwrap_or_else(|| self.settings());
        let (labels, material) = self.material(serving, cut)?;
        // Costs are those of the longest lesson.
        let longest = material.lessons.iter().map(|l| sequence_length(&engine.base, &l.example)).max().unwrap_or(0);
        let length = engine.bucket(1, longest).sequence;
        let pattern = Pattern::new(&config.sites);
        let choice = crate::adapt::select::choose(&engine.base, engine.task, &pattern, config.rank, length)?;
        let means = options.means.unwrap_or(config.means);
        let (ladder, chosen) = if means.are_unlimited() {
            (choice.ladder, None)
        } else {
            let costs = Costs::new(&engine.base, engine.task, &choice, &means, settings.threads);
            let (ladder, chosen) = costs.choose(config.rank, None)?;
            settings.recipe.micro_batch = chosen.micro_batch;
            if let Some(limit) = means.memory_bytes {
                let room = limit.saturating_sub(chosen.memory_bytes) / settings.threads.max(1) as u64;
                settings.recipe.kept_bytes =
                    settings.recipe.kept_bytes.min(usize::try_from(room).unwrap_or(usize::MAX));
            }
            if let Some(most) = means.seconds {
                let most = Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX);
                settings.budget = Some(settings.budget.map_or(most, |b| b.min(most)));
            }
            let measuring = Adaptation {
                engine,
                material: &material,
                ladder: &ladder,
                settings: &settings,
                incumbent: incumbent(serving),
                stop,
                keeper: None,
                progress,
            };
            let measured = measuring.measure(&ladder.all_sites);
            engine.drop_train_plans();
            let (ladder, chosen) = costs.choose(config.rank, measured?.as_ref())?;
            (ladder, Some(chosen))
        };
        // Measuring is part of the time.
        settings.budget = settings.budget.map(|b| b.saturating_sub(started.elapsed()));
        let name = resume::name(&engine.base.fingerprint(), &settings, &ladder, &material);
        Ok(Prepared { labels, material, ladder, settings, chosen, name })
    }
}

/// What serves while a training runs, unless that is the base.
pub(super) fn incumbent(serving: &Serving) -> Option<Incumbent<'_>> {
    (serving.generation > 0).then_some(Incumbent {
        generation: serving.generation,
        sites: &serving.sites,
        factors: &serving.factors,
        head: serving.head.as_ref(),
    })
}
