//! A session trains: the journal becomes lessons, the winner becomes a generation, and the next prediction uses it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Means, Session, journal_io, now_ms};
use crate::adapt::{Adaptation, Incumbent, Material, Outcome, Progress, Settings, Winner, head_delta};
use crate::adapter::{Adapter, Lineage, Verdict};
use crate::choice::{Chosen, Costs};
use crate::disk::StagedFile;
use crate::error::{Error, Result};
use crate::input::Example;
use crate::journal::{FeedbackKind, InteractionId};
use crate::plan::lock;
use crate::sites::Pattern;
use crate::train::fit::{Goal, Lesson};

/// Which sites the last training chose within its means.
const CHOICE_FILE: &str = "choice.toml";
/// How long another training of the same profile is waited for.
const TRAIN_LOCK_WAIT: Duration = Duration::from_millis(200);

/// How to train.
#[derive(Default)]
pub struct TrainOptions<'a> {
    /// Settings; the home's seed, rank and limits apply on top of the defaults when none are given.
    pub settings: Option<Settings>,
    /// What it may cost; the home's limits when none are given.
    pub means: Option<Means>,
    /// Set by the caller to stop; checked before every step.
    pub stop: Option<&'a AtomicBool>,
    /// Told about progress.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

/// What a training did.
#[derive(Debug, Clone)]
pub struct TrainReport {
    /// Whether a new generation serves.
    pub promoted: bool,
    /// Generation that serves now.
    pub generation: u64,
    /// Optimiser steps over all candidates.
    pub steps: u64,
    /// Duration.
    pub seconds: f64,
    /// The gate's figures and reason.
    pub verdict: Verdict,
    /// One line a candidate.
    pub tried: Vec<String>,
    /// Which sites were allowed to adapt, where memory or time is limited.
    pub choice: Option<Chosen>,
}

impl Session {
    /// Settings of a training with the home's configuration.
    pub fn settings(&self) -> Settings {
        let config = self.home().config();
        let mut settings = Settings { seed: config.seed, ..Settings::default() };
        settings.limits.disagreement = config.disagreement_limit;
        settings
    }

    /// Trains on all feedback; when the gate finds the result better, it is committed and answers from the next prediction on.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while another training of this profile runs;
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) when stopped: feedback and serving generation are as before.
    pub fn train(&self, options: &TrainOptions<'_>) -> Result<TrainReport> {
        let _held = self.store.lock_training(TRAIN_LOCK_WAIT, "training")?;
        let mut settings = options.settings.clone().unwrap_or_else(|| self.settings());
        let config = self.home().config();
        lock(&self.journal).refresh()?;
        let serving = self.follow()?;
        let current = serving.generation;
        let (labels, material) = self.material(&serving)?;
        let engine = &self.home().0.engine;
        let choice = crate::choice::choose(&engine.base, engine.task, &Pattern::new(&config.sites), config.rank)?;
        let silent = |_: Progress| {};
        let stop = || options.stop.is_some_and(|s| s.load(Ordering::Relaxed));
        let incumbent = (serving.generation > 0).then_some(Incumbent {
            generation: serving.generation,
            sites: &serving.sites,
            factors: &serving.factors,
            head: serving.head.as_ref(),
        });
        let progress = options.progress.unwrap_or(&silent);
        let means = options.means.unwrap_or(config.means);
        let (material, stop) = (&material, &stop);
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
            let measuring =
                Adaptation { engine, material, ladder: &ladder, settings: &settings, incumbent, stop, progress };
            let measured = measuring.measure(&ladder.all_sites);
            engine.drop_train_plans();
            let (ladder, chosen) = costs.choose(config.rank, measured?.as_ref())?;
            self.keep_choice(&chosen)?;
            (ladder, Some(chosen))
        };
        let adaptation =
            Adaptation { engine, material, ladder: &ladder, settings: &settings, incumbent, stop, progress };
        let outcome = adaptation.run();
        engine.drop_train_plans();
        let Outcome { verdict, winner, steps, seconds, tried } = outcome?;
        let generation = match winner {
            Some(winner) => {
                let adapter = self.adapter_of(winner, labels, material, &settings, &verdict, current);
                Some(self.store.commit(&adapter)?)
            }
            None => None,
        };
        lock(&self.journal).record_training(now_ms(), generation, verdict.clone(), steps, seconds as f32)?;
        let serves = self.follow()?.generation;
        let promoted = generation == Some(serves);
        Ok(TrainReport { promoted, generation: serves, steps, seconds, verdict, tried, choice: chosen })
    }

    /// Writes what was chosen into the profile's folder, for people.
    fn keep_choice(&self, chosen: &Chosen) -> Result<()> {
        let text = toml::to_string_pretty(chosen).map_err(|e| Error::internal("cannot write the choice").because(e))?;
        let folder = self.store.folder();
        StagedFile::write(&*self.home().0.disk, folder, text.as_bytes())?.replace(&folder.join(CHOICE_FILE))
    }

    fn adapter_of(
        &self,
        winner: Winner,
        labels: Vec<String>,
        material: &Material,
        settings: &Settings,
        verdict: &Verdict,
        parent: u64,
    ) -> Adapter {
        let home = self.home();
        let mut sites = winner.deltas;
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        Adapter {
            base: home.base().fingerprint(),
            task: home.config().task.clone(),
            labels,
            sites,
            head: Some(head_delta(&winner.head, home.0.engine.pooling)),
            lineage: Lineage {
                parent,
                seed: settings.seed,
                steps: winner.steps,
                examples: material.lessons.len() as u64,
                depth: winner.depth,
                created_ms: now_ms(),
                learning_rate: winner.learning_rate,
                rank: home.config().rank as u32,
            },
            verdict: verdict.clone(),
        }
    }

    /// Everything the journal has to teach, in order of time, and the labels of all classes.
    fn material(&self, serving: &super::session::Serving) -> Result<(Vec<String>, Material)> {
        let journal = lock(&self.journal);
        let state = journal.state();
        let home = self.home();
        let mut labels = serving.labels.clone();
        if labels.len() < home.0.base_classes {
            return Err(Error::internal("the serving adapter knows fewer classes than the base"));
        }
        let mut index: HashMap<String, usize> = labels.iter().enumerate().map(|(i, l)| (l.clone(), i)).collect();
        let load = |id: InteractionId| -> Result<Example> {
            let input = journal.input(id).and_then(journal_io::load)?;
            home.intake().example(&input).map_err(|e| e.at(format!("interaction {id} in the journal")))
        };
        let (mut lessons, mut served_right) = (vec![], vec![]);
        // A clock can step back (a Pi has none of its own): the order of the journal is the order of time.
        let mut latest = 0;
        for (at, f) in state.feedback().iter().enumerate() {
            let Some(interaction) = state.interaction(f.id) else { continue };
            let answered = interaction.answer.as_ref().and_then(|(label, _)| index.get(&**label).copied());
            let goal = match (&f.kind, answered) {
                (FeedbackKind::Label(label), _) => {
                    let next = labels.len();
                    let class = *index.entry(label.clone()).or_insert(next);
                    if class == next {
                        labels.push(label.clone());
                    }
                    Goal::Class(class)
                }
                (FeedbackKind::Accept, Some(class)) => Goal::Class(class),
                (FeedbackKind::Reject, Some(class)) => Goal::Not(class),
                // The answer named a class that is no longer known.
                (_, None) => continue,
            };
            served_right.push(answered.is_some_and(|a| goal.agrees(a)));
            let earlier = (at as u64) < serving.examples;
            latest = f.at_ms.max(latest);
            lessons.push(Lesson { example: load(f.id)?, goal, weight: 1.0, at_ms: latest, earlier, keep: vec![] });
        }
        let mut idle = vec![];
        for i in state
            .interactions()
            .iter()
            .rev()
            .filter(|i| state.feedback_on(i.id).is_none())
            .take(crate::adapt::MOST_IDLE)
        {
            let class = i.answer.as_ref().and_then(|(label, _)| index.get(&**label)).copied();
            if let Some(class) = class.filter(|c| *c < home.0.base_classes) {
                idle.push((load(i.id)?, class));
            }
        }
        let classes = labels.len();
        let material = Material {
            lessons,
            served_right,
            idle,
            base_classes: home.0.base_classes,
            classes,
            features: home.0.features,
        };
        Ok((labels, material))
    }
}
