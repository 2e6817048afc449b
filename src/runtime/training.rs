//! A session trains: the journal becomes training examples, the winner becomes a generation, and the next prediction
//! uses it.

use std::sync::Arc;
use std::time::Duration;

use super::corrections::{self, Corrections};
use super::doubts::{Disagrees, Doubts, FORMAT, Holds};
use super::feedback_dataset::FeedbackDataset;
use super::prepare::{Prepared, incumbent};
use super::swapped::{Swapped, left_out};
use super::train_options::TrainOptions;
use super::written::TrainingWrites;
use super::{Session, now_ms};
use crate::adapt::fit::state::Keeper;
use crate::adapt::language::LanguageFound;
use crate::adapt::select::Chosen;
use crate::adapt::{Adaptation, Doubtful, Outcome, Progress, Settings, ValidationLoss, Winner, head_delta};
use crate::adapter::{Adapter, Calibrated, Confusions, Lineage, Verdict};
use crate::error::{Error, Result};
use crate::journal::InteractionId;
use crate::stats::calibration::Calibration;
use crate::store::Cut;
use crate::sync::lock;

/// How long another training of the same profile is waited for.
pub(super) const TRAIN_LOCK_WAIT: Duration = Duration::from_millis(200);

/// What a training did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrainReport {
    /// Whether a new generation serves.
    pub promoted: bool,
    /// Active generation now.
    pub generation: u64,
    /// Optimiser steps over all candidates.
    pub steps: u64,
    /// How many of them an earlier run took, which was cut off.
    pub resumed_steps: u64,
    /// Duration.
    pub seconds: f64,
    /// Feedback items that taught nothing, since newer ones on identical inputs say otherwise.
    pub superseded: usize,
    /// Feedback items that taught nothing, since they are ignored.
    pub ignored: usize,
    /// Feedback items that taught nothing, since there are more than a training takes.
    pub(crate) beyond: usize,
    /// Feedback items that taught nothing, since their texts are too long for the memory that the training may take.
    pub(crate) too_long: usize,
    /// Labels that swapped their meaning: older feedback with them taught nothing.
    pub(crate) swapped: Vec<Swapped>,
    /// Feedback items on nearly the same inputs that say different classes. All of them taught.
    pub contradicting: usize,
    /// The label of all feedback, if there is enough to train and all of it says the same. Then nothing says where that
    /// class ends.
    pub only_label: Option<String>,
    /// The gate's figures and reason.
    pub verdict: Verdict,
    /// One line a candidate.
    pub tried: Vec<String>,
    /// What the new generation may change: pairs of an answer of the base model and the answer that feedback has shown
    /// to be right in its place. Any other answer of the base model stands. `None` where it may change all, and where
    /// none was promoted.
    pub may_change: Option<Vec<(String, String)>>,
    /// What the new generation answers to the feedback that it learned from; `None` if none was promoted.
    pub(crate) corrections: Option<Corrections>,
    /// Mean loss on the answers that judged; `None` where nothing was trained.
    pub(crate) loss: Option<ValidationLoss>,
    /// How well probabilities say how often answers are right; `None` where nothing was trained.
    pub(crate) calibration: Option<Calibration>,
    /// Which sites were allowed to adapt, where memory or time is limited.
    pub(crate) choice: Option<Chosen>,
    /// Of a language model, what judged; `None` where nothing was trained.
    pub(crate) language: Option<LanguageFound>,
    /// Whether the model generates text, and does not classify.
    pub of_texts: bool,
}

impl TrainReport {
    /// How many of the feedback items that the new generation learned from it answers as was said, and how many they
    /// are; `None` if none was promoted. Superseded and ignored items are not among them.
    pub fn held(&self) -> Option<(usize, usize)> {
        self.corrections.as_ref().map(|c| (c.held, c.of))
    }

    /// The feedback that the new generation learned from and answers otherwise than was said, in order of time, and
    /// why in a sentence.
    pub fn not_held(&self) -> impl Iterator<Item = (InteractionId, &str)> {
        self.corrections.iter().flat_map(|c| &c.not_held).map(|n| (n.id, n.reason.as_str()))
    }

    /// Pairs of labels that feedback uses the other way round from the named interaction on. What was said with them
    /// before taught nothing.
    pub fn swapped(&self) -> impl Iterator<Item = (&str, &str, InteractionId)> {
        self.swapped.iter().map(|s| (s.labels.0.as_str(), s.labels.1.as_str(), s.since))
    }

    internal! {
        /// Feedback items that taught nothing, since there are more than a training takes.
        pub fn beyond(&self) -> usize {
            self.beyond
        }
    }
    internal! {
        /// Feedback items that taught nothing, since their texts are too long for the memory that the training may
        /// take.
        pub fn too_long(&self) -> usize {
            self.too_long
        }
    }
    internal! {
        /// [`TrainReport::swapped`] with what was left out.
        pub fn swaps(&self) -> &[Swapped] {
            &self.swapped
        }
    }
    internal! {
        /// [`TrainReport::not_held`] with the answers; `None` if nothing was promoted.
        pub fn corrections(&self) -> Option<&Corrections> {
            self.corrections.as_ref()
        }
    }
    internal! {
        /// Mean loss on the answers that judged; `None` where nothing was trained.
        pub fn loss(&self) -> Option<ValidationLoss> {
            self.loss
        }
    }
    internal! {
        /// How well probabilities say how often answers are right, by the validation answers; `None` where nothing was
        /// trained.
        pub fn calibration(&self) -> Option<Calibration> {
            self.calibration
        }
    }
    internal! {
        /// Of a language model, the figures that judged; `None` where nothing was trained.
        pub fn language(&self) -> Option<&LanguageFound> {
            self.language.as_ref()
        }
    }
    internal! {
        /// Which sites were allowed to adapt, where memory or time is limited.
        pub fn choice(&self) -> Option<&Chosen> {
            self.choice.as_ref()
        }
    }
}

impl Session {
    internal! {
        /// Settings of a training with the home's configuration.
        pub fn settings(&self) -> Settings {
            let config = self.home().config();
            let mut settings = Settings { seed: config.seed, threads: config.train_threads(), ..Settings::default() };
            settings.limits.disagreement = config.disagreement_limit;
            settings.recipe.lora = config.lora.clone();
            settings
        }
    }

    /// Trains on all feedback; when the gate finds the result better, it is committed and answers from the next
    /// prediction on.
    ///
    /// A training of the same settings that was cut off goes on instead, and ends in the bits that it would have ended
    /// in; it learns from what was recorded before it began, and leaves later feedback to the next training.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while another training of this profile runs;
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) when stopped: feedback and active generation are as before.
    pub fn train(&self, options: &TrainOptions<'_>) -> Result<TrainReport> {
        if self.home().generates() {
            return self.train_language(options);
        }
        let _held = self.store.lock_training(TRAIN_LOCK_WAIT, "training")?;
        lock(&self.journal).refresh()?;
        let writes = Arc::new(TrainingWrites::of(&self.store));
        let attempt = self.begin_attempt(options)?;
        let limits = attempt.as_ref().map(|attempt| attempt.limits).or(options.limits);
        let options = &TrainOptions { limits, ..options.clone() };
        let serving = self.follow()?;
        let current = serving.generation;
        let engine = &self.home().0.engine;
        let silent = |_: Progress| {};
        let progress = options.progress.unwrap_or(&silent);
        let stop = || options.is_stopped();
        let prepare = |cut: &Cut| self.prepare(options, &serving, cut, &stop, progress);
        let (cut, prepared, keeping) = self.begin_or_resume(options.checkpoints, &writes, prepare, |now| now.name)?;
        let Prepared { feedback_dataset, candidates, settings, chosen, name: _ } = prepared;
        let FeedbackDataset { labels, dataset, ids, kinds, superseded, ignored, beyond, swapped } = feedback_dataset;
        let only_label = dataset.only_class().and_then(|class| labels.get(class).cloned());
        if let Some(chosen) = &chosen {
            self.keep_choice(chosen)?;
        }
        let seen = cut.feedback;
        let adaptation = Adaptation {
            engine,
            dataset: &dataset,
            candidates: &candidates,
            settings: &settings,
            incumbent: incumbent(&serving),
            stop: &stop,
            keeper: keeping.as_ref().map(|k| k as &dyn Keeper),
            progress,
        };
        let outcome = adaptation.run();
        if let (Err(_), Some(keeping)) = (&outcome, &keeping) {
            keeping.flush();
        }
        engine.drop_train_plans();
        let Outcome { verdict, winner, steps, seconds, tried, loss, doubts, corrections, calibration, known } =
            outcome?;
        if let Some(attempt) = attempt {
            attempt.end();
        }
        let contradicting = doubts.as_ref().map_or(0, |found| found.contradicting(&dataset.training_examples));
        let doubts = doubts.map(|found| Doubts { left_out: left_out(&swapped), ..named(&found, &ids, &labels) });
        let may_change = winner.as_ref().and_then(|w| w.confusions.as_ref()).map(|c| in_words(c, &labels));
        let corrections = corrections.map(|found| corrections::named(&found, &ids, &kinds, &labels));
        let generation = match winner {
            Some(winner) => {
                let adapter = self.adapter_of(winner, labels, seen, &settings, &verdict, current);
                Some(self.store.commit(&Adapter { calibrated: calibrated(calibration), known, ..adapter })?)
            }
            None => None,
        };
        lock(&self.journal).record_training(now_ms(), generation, verdict.clone(), steps, seconds as f32, seen)?;
        // The training counts, whatever becomes of this.
        let holds = generation.zip(corrections.as_ref()).map(|(generation, found)| found.kept(generation));
        let kept = doubts.map_or(Ok(()), |doubts| self.keep_doubts(doubts, holds));
        if let Err(e) = kept {
            tracing::warn!(error = %e, "what the training doubts about the feedback cannot be kept");
        }
        if keeping.is_some() {
            self.store.checkpoint().clear()?;
        }
        let resumed_steps = keeping.map_or(0, |k| k.steps());
        let serves = self.follow()?.generation;
        let promoted = generation == Some(serves);
        let (generation, choice) = (serves, chosen);
        Ok(TrainReport {
            promoted,
            generation,
            steps,
            resumed_steps,
            seconds,
            superseded,
            ignored,
            beyond,
            too_long: 0,
            swapped,
            contradicting,
            only_label,
            verdict,
            tried,
            may_change,
            corrections,
            loss,
            calibration,
            choice,
            language: None,
            of_texts: false,
        })
    }

    /// Keeps what a training doubts. What does not hold is that of the last promoted generation, until there is
    /// another one.
    fn keep_doubts(&self, doubts: Doubts, holds: Option<Holds>) -> Result<()> {
        let before = || self.doubts().ok().flatten().and_then(|doubts| doubts.holds);
        let doubts = Doubts { holds: holds.or_else(before), ..doubts };
        self.store.doubts().keep(&doubts.to_text()?)
    }

    /// Keeps what was chosen in the profile, for people.
    pub(super) fn keep_choice(&self, chosen: &Chosen) -> Result<()> {
        let text = toml::to_string_pretty(chosen).map_err(|e| Error::internal("cannot write the choice").because(e))?;
        self.store.choice().keep(&text)
    }

    internal! {
        /// What the last training within limits chose; `None` if there was none, or something was forgotten since.
        ///
        /// # Errors
        /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) if the file is damaged,
        /// [`ErrorKind::Io`](crate::ErrorKind::Io).
        pub fn choice(&self) -> Result<Option<Chosen>> {
            let parse = |text: String| toml::from_str(&text);
            let odd = |e| Error::bad_data("what the last training chose cannot be read").because(e).hint("train again");
            self.store.choice().text()?.map(parse).transpose().map_err(odd)
        }
    }

    fn adapter_of(
        &self,
        winner: Winner,
        labels: Vec<String>,
        seen: u64,
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
                examples: seen,
                depth: winner.depth,
                created_ms: now_ms(),
                learning_rate: winner.learning_rate,
                rank: home.config().rank as u32,
            },
            verdict: verdict.clone(),
            confusions: winner.confusions,
            calibrated: Calibrated::default(),
            known: None,
        }
    }
}

fn in_words(confusions: &Confusions, labels: &[String]) -> Vec<(String, String)> {
    let label = |class: u32| labels.get(class as usize).cloned().unwrap_or_else(|| class.to_string());
    confusions.all().iter().map(|c| (label(c.answered), label(c.right))).collect()
}

fn calibrated(found: Option<Calibration>) -> Calibrated {
    found.map_or_else(Calibrated::default, |found| Calibrated { temperature: found.temperature })
}

/// What a training doubts, by the names of interactions and classes.
fn named(found: &Doubtful, ids: &[InteractionId], labels: &[String]) -> Doubts {
    let id = |at: usize| ids.get(at).map(ToString::to_string).unwrap_or_default();
    let label = |class: usize| labels.get(class).cloned().unwrap_or_default();
    let disagrees = found.labels.iter().map(|d| Disagrees {
        id: id(d.example),
        given: label(d.given),
        likely: label(d.likely),
        p_given: d.p_given,
        p_likely: d.p_likely,
    });
    let near_duplicates = found.near_duplicates.iter().map(|group| group.iter().map(|&at| id(at)).collect());
    Doubts {
        format: FORMAT,
        at_ms: now_ms(),
        near_duplicates: near_duplicates.collect(),
        disagrees: disagrees.collect(),
        holds: None,
        left_out: vec![],
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::adapter::{InitLoraWeights, LoraOptions};
    use crate::input::LabelledSet;
    use crate::runtime::{Feedback, Home, InitOptions};
    use crate::store::Selection;

    fn asset(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
    }

    /// Shows every fourth window and says what it was; class 5 has a name that the base does not know.
    fn teach(session: &Session, windows: &LabelledSet) {
        for i in (0..windows.len()).step_by(4) {
            let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
            let said = match windows.labels()[i].as_str() {
                "5" => Feedback::NewLabel("resting".into()),
                label => Feedback::Label(label.into()),
            };
            session.feedback(id, said).unwrap();
        }
    }

    fn train(session: &Session) -> TrainReport {
        let settings = Settings { deepest: crate::adapter::Depth::HeadOnly, threads: 1, ..session.settings() };
        session.train(&TrainOptions { settings: Some(settings), ..TrainOptions::default() }).unwrap()
    }

    #[test]
    fn a_home_says_which_member_of_the_lora_family_is_trained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        let lora = LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa).rank_by_gradient(true);
        let options = InitOptions::new(asset("har_cnn.onnx")).pissa(true).rank_by_gradient(true).use_rslora(true);
        Home::init(&path, &options).unwrap();
        let file = path.join("acclimate.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("use_rslora = true", "use_rslora = false")).unwrap();
        let session = Home::open(&path).unwrap().session("p").unwrap();
        assert_eq!(session.settings().recipe.lora, lora);
        let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
        let known: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() < 6).collect();
        teach(&session, &all.select(&known).unwrap());
        let serving = session.follow().unwrap();
        let all = Cut::all(lock(&session.journal).state()).unwrap();
        let prepared = session.prepare(&TrainOptions::default(), &serving, &all, &|| false, &|_| {}).unwrap();
        let ranks: Vec<usize> = prepared.candidates.all_sites.iter().map(|(_, rank)| *rank).collect();
        assert!(
            ranks.iter().all(|r| r % 2 == 0) && ranks.iter().any(|r| *r != 16),
            "twice the trained ranks: {ranks:?}"
        );
        let settings = Settings { steps: Some(2), threads: 1, ..session.settings() };
        session.train(&TrainOptions { settings: Some(settings), ..TrainOptions::default() }).unwrap();
        std::fs::write(&file, text.replace("use_rslora = true", "use_dora = true")).unwrap();
        let refused = Home::open(&path).unwrap_err().to_string();
        assert!(refused.contains("use_dora") && refused.contains("acclimate.toml"), "{refused}");
    }

    #[test]
    fn a_home_says_how_many_threads_it_uses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        Home::init(&path, &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
        let cores = crate::process::available_cores();
        let home = Home::open(&path).unwrap();
        assert_eq!(home.config().threads(), cores);
        assert_eq!(home.session("p").unwrap().settings().threads, (cores - 1).max(1));
        let file = path.join("acclimate.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("threads = 3\n{text}")).unwrap();
        let home = Home::open(&path).unwrap();
        assert_eq!((home.config().threads(), home.session("p").unwrap().settings().threads), (3, 3));
        std::fs::write(&file, format!("threads = 0\n{text}")).unwrap();
        let refused = Home::open(&path).unwrap_err().to_string();
        assert!(refused.contains("acclimate.toml") && refused.contains("nonzero"), "{refused}");
    }

    #[test]
    fn feedback_that_cannot_teach_does_not_shift_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::init(folder.path().join("home"), &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
        let session = home.session("p").unwrap();
        let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
        let known: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() < 6).collect();
        let windows = all.select(&known).unwrap();
        teach(&session, &windows);
        assert!(train(&session).promoted);
        // An answer that only this generation knows is accepted, and then all that taught it is forgotten.
        let accepted = (0..windows.len()).find_map(|i| {
            let answer = session.predict(&windows.input(i).unwrap()).unwrap();
            (answer.label() == Some("resting")).then(|| answer.id.unwrap())
        });
        let accepted = accepted.unwrap();
        session.feedback(accepted, Feedback::Accept).unwrap();
        session.forget(&Selection::Ids((0..accepted.0).map(InteractionId).collect())).unwrap();
        assert_eq!(session.current_generation().unwrap(), 0);

        teach(&session, &windows);
        let report = train(&session);
        assert!(report.promoted, "{}", report.verdict.reason);
        let again = train(&session);
        let reason = format!("there is no feedback since generation {} was trained", report.generation);
        assert_eq!((again.promoted, again.verdict.reason), (false, reason));
    }
}
