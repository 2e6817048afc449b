//! What the journal has to teach: training examples in order of time, and inputs whose answers nobody corrected.

use std::collections::{HashMap, HashSet};

use super::config::Distillation;
use super::opinions::{self, Meaning};
use super::session::Serving;
use super::swapped::{self, Swapped};
use super::{Session, journal_io, sampled};
use crate::adapt::fit::{Target, TrainingExample};
use crate::adapt::{Dataset, MOST_IDLE, Standing};
use crate::error::{Error, Result};
use crate::input::Example;
use crate::input::label::NONE_OF_THESE;
use crate::journal::{FeedbackKind, InteractionEntry, InteractionId, JournalState};
use crate::plan::Engine;
use crate::process::TrainLimits;
use crate::store::Cut;
use crate::sync::lock;

/// Inputs that are none of the classes, from which on these are a class of their own.
const NONE_FROM: usize = 8;

/// What the journal has to teach.
pub(super) struct FeedbackDataset {
    /// Of all classes.
    pub labels: Vec<String>,
    pub dataset: Dataset,
    /// The interaction of each training example.
    pub ids: Vec<InteractionId>,
    /// What was said about it.
    pub kinds: Vec<FeedbackKind>,
    /// Feedback items that teach nothing, since newer ones on identical inputs say otherwise.
    pub superseded: usize,
    /// Those that were told to teach nothing.
    pub ignored: usize,
    /// Those that teach nothing, since there are more than a training takes.
    pub beyond: usize,
    /// Classes that swapped their meaning; what was said before is left out.
    pub swapped: Vec<Swapped>,
}

impl Session {
    /// What the journal has to teach up to `cut`, in order of time, as much as a training within `limits` takes; and
    /// the labels of all classes.
    pub(super) fn feedback_dataset(
        &self,
        serving: &Serving,
        cut: &Cut,
        limits: &TrainLimits,
    ) -> Result<FeedbackDataset> {
        // Predictions and feedback go on while this reads.
        let journal = lock(&self.journal).snapshot();
        let state = journal.state();
        let home = self.home();
        let mut labels = serving.labels.clone();
        if labels.len() < home.0.base_classes {
            return Err(Error::internal("the serving adapter knows fewer classes than the base"));
        }
        let opinions = opinions::read(&journal, size(cut.feedback))?;
        // A class that nothing teaches any more, such as a slip that was corrected, goes; of several only the last
        // ones, since the numbers of the others stay.
        let mut taught: HashSet<&str> = opinions.iter().filter_map(|o| o.teaches()?.class()).collect();
        let nones = opinions.iter().filter(|o| o.teaches().and_then(Meaning::class) == Some(NONE_OF_THESE)).count();
        // Beside a single class a rejection would say nothing.
        let alone = home.0.base_classes == 0 && taught.iter().filter(|class| **class != NONE_OF_THESE).count() == 1;
        if nones < NONE_FROM && !alone {
            taught.remove(NONE_OF_THESE);
        }
        while labels.len() > home.0.base_classes && labels.last().is_some_and(|label| !taught.contains(label.as_str()))
        {
            labels.pop();
        }
        let has_none = taught.contains(NONE_OF_THESE) || labels.iter().any(|label| label == NONE_OF_THESE);
        let mut index: HashMap<String, usize> = labels.iter().enumerate().map(|(i, l)| (l.clone(), i)).collect();
        let load = |id: InteractionId| -> Result<Example> {
            let input = journal.input(id).and_then(journal_io::load)?;
            home.intake().example(&input).map_err(|e| e.at(format!("interaction {id} in the journal")))
        };
        let teaching: Vec<(InteractionId, &Meaning)> =
            opinions.iter().filter_map(|o| Some((o.interaction.id, o.teaches()?))).collect();
        let size_each = sampled::usual_size(&teaching, |(id, _)| Ok(load(*id)?.bytes()))?;
        let said: Vec<&Meaning> = teaching.iter().map(|(_, meaning)| *meaning).collect();
        let mut taken = sampled::chosen(&said, sampled::most_examples(size_each, limits)).into_iter();
        let mut beyond = 0;
        let (mut training_examples, mut served_right, mut ids, mut kinds) = (vec![], vec![], vec![], vec![]);
        let (mut superseded, mut ignored, mut revised) = (0, 0, false);
        // A clock can step back (a Pi has none of its own): the order of the journal is the order of time.
        let mut latest = 0;
        for opinion in &opinions {
            let (word, interaction) = (&opinion.word, &opinion.interaction);
            revised |= (word.first as u64) < serving.examples && word.last as u64 >= serving.examples;
            superseded += usize::from(opinion.superseded_by.is_some());
            ignored += usize::from(opinion.is_ignored());
            let Some(meaning) = opinion.teaches() else { continue };
            if taken.next() == Some(false) {
                beyond += 1;
                continue;
            }
            // The class that would be it, where the answer was that it is none.
            let best = interaction.answer.as_ref().and_then(|(label, _)| index.get(&**label).copied());
            let target = match (&word.entry.kind, meaning) {
                // Too few for a class: they say what their inputs are not.
                (_, Meaning::Is(label)) if label == NONE_OF_THESE && !has_none => best.map(Target::Not),
                (FeedbackKind::Accept, Meaning::Is(label)) if label != NONE_OF_THESE => best.map(Target::Class),
                (_, Meaning::Is(label)) => {
                    let next = labels.len();
                    let class = *index.entry(label.clone()).or_insert(next);
                    if class == next {
                        labels.push(label.clone());
                    }
                    Some(Target::Class(class))
                }
                (_, Meaning::IsNot(label)) => index.get(label).copied().map(Target::Not),
            };
            // The answer named a class that is no longer known, or none.
            let Some(target) = target else { continue };
            let answered = if interaction.novel { index.get(NONE_OF_THESE).copied() } else { best };
            let said_none = interaction.novel && meaning.class() == Some(NONE_OF_THESE);
            served_right.push(said_none || answered.is_some_and(|a| target.agrees(a)));
            let earlier = (word.last as u64) < serving.examples;
            latest = word.first_ms.max(latest);
            ids.push(interaction.id);
            kinds.push(word.entry.kind.clone());
            training_examples.push(TrainingExample {
                example: load(interaction.id)?,
                target,
                weight: 1.0,
                at_ms: latest,
                earlier,
                keep: vec![],
            });
        }
        // An input with feedback that is asked again is no uncorrected one.
        let with_feedback: HashSet<[u8; 32]> =
            opinions.iter().filter(|o| o.teaches().is_some()).map(|o| o.digest).collect();
        let line = self.store.line(serving.generation);
        let mut standing = vec![];
        let distillation = home.config().distillation;
        let uncorrected = if distillation == Distillation::Off { vec![] } else { silent(state, cut)? };
        for i in uncorrected {
            if with_feedback.contains(&journal.input(i.id)?.digest()) {
                continue;
            }
            let class = i.answer.as_ref().filter(|_| !i.novel).and_then(|(label, _)| index.get(&**label)).copied();
            if let Some(class) = class.filter(|c| *c < home.0.base_classes) {
                let learned = distillation == Distillation::On && line.contains(&i.generation);
                let trusted = i.generation == 0 || learned;
                standing.push(Standing { example: load(i.id)?, class, trusted });
            }
        }
        let classes = labels.len();
        let dataset = Dataset {
            training_examples,
            served_right,
            standing,
            revised: revised && serving.generation > 0,
            base_classes: home.0.base_classes,
            classes,
            none: index.get(NONE_OF_THESE).copied(),
            features: home.0.features,
        };
        Ok(FeedbackDataset { labels, dataset, ids, kinds, superseded, ignored, beyond, swapped: vec![] })
    }
}

impl FeedbackDataset {
    /// Without what was said about two classes before they swapped their meaning, and without answers of theirs that
    /// were left standing: they may be of either meaning.
    pub fn without_swapped(mut self, engine: &Engine, threads: usize, micro_batch: usize) -> Result<FeedbackDataset> {
        let taught = &self.dataset.training_examples;
        let mut kept = vec![true; taught.len()];
        for swap in swapped::find(taught, engine, threads, micro_batch)? {
            let (a, b) = swap.classes;
            let of_them = |class: usize| class == a || class == b;
            let older: Vec<usize> = (0..swap.since).filter(|&i| of_them(taught[i].target.class())).collect();
            older.iter().for_each(|&i| kept[i] = false);
            self.swapped.push(Swapped {
                labels: (self.labels[a].clone(), self.labels[b].clone()),
                since: self.ids[swap.since],
                since_ms: taught[swap.since].at_ms,
                left_out: older.iter().map(|&i| self.ids[i]).collect(),
            });
            self.dataset.standing.retain(|s| !of_them(s.class));
        }
        keep(&mut self.dataset.training_examples, &kept);
        keep(&mut self.dataset.served_right, &kept);
        keep(&mut self.ids, &kept);
        keep(&mut self.kinds, &kept);
        Ok(self)
    }
}

fn keep<T>(all: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    all.retain(|_| kept.next().is_none_or(|k| *k));
}

/// The latest interactions of `cut` that had no feedback by then, the last one first.
pub(super) fn silent(state: &JournalState, cut: &Cut) -> Result<Vec<InteractionEntry>> {
    let since = state.next_id()?.0.saturating_sub(cut.next_id) as usize;
    let mut silent = state.latest_unspoken(MOST_IDLE.saturating_add(since))?;
    for later in state.all_feedback().rev().take(state.feedback().saturating_sub(size(cut.feedback))) {
        let later = later?;
        // A revision is about what had feedback.
        if later.was.is_none() {
            silent.extend(state.interaction(later.id)?);
        }
    }
    silent.retain(|i| i.id.0 < cut.next_id);
    silent.sort_unstable_by_key(|i| std::cmp::Reverse(i.id));
    silent.truncate(MOST_IDLE);
    Ok(silent)
}

pub(super) fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::adapter::Depth;
    use crate::input::LabelledSet;
    use crate::runtime::{Feedback, Home, InitOptions, TrainOptions};

    #[test]
    fn the_switch_says_whose_answers_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let path = folder.path().join("home");
        let session = Home::init(&path, &InitOptions::new(models.join("har_cnn.onnx"))).unwrap().session("p").unwrap();
        let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
        let ask = |session: &Session, i: usize| session.predict(&windows.input(i).unwrap()).unwrap();
        for i in (0..windows.len()).step_by(4) {
            let said = match windows.labels()[i].as_str() {
                "5" => Feedback::NewLabel("resting".into()),
                label => Feedback::NewLabel(label.into()),
            };
            session.feedback(ask(&session, i).id.unwrap(), said).unwrap();
        }
        let unsaid = ask(&session, 1);
        let settings = crate::adapt::Settings { deepest: Depth::HeadOnly, threads: 1, ..session.settings() };
        assert!(session.train(&TrainOptions::default().settings(settings)).unwrap().promoted);
        (0..40).for_each(|i| assert_eq!(ask(&session, 4 * i + 2).generation, 1));
        assert_eq!(unsaid.generation, 0);
        drop(session);
        let text = std::fs::read_to_string(path.join("acclimate.toml")).unwrap();
        let mut kept = vec![];
        for switch in ["true", "\"base\"", "false"] {
            std::fs::write(path.join("acclimate.toml"), format!("distillation = {switch}\n{text}")).unwrap();
            let session = Home::open(&path).unwrap().session("p").unwrap();
            let cut = Cut::all(lock(&session.journal).state()).unwrap();
            let standing =
                session.feedback_dataset(&session.serving(), &cut, &TrainLimits::default()).unwrap().dataset.standing;
            kept.push((standing.len(), standing.iter().filter(|s| s.trusted).count()));
        }
        let [(all, trusted), (also, of_base), none] = kept[..] else { panic!("{kept:?}") };
        assert!(all > 1 && (trusted, also, of_base, none) == (all, all, 1, (0, 0)), "{kept:?}");
    }

    #[test]
    fn an_answer_that_was_corrected_is_not_left_standing_when_its_input_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx"))).unwrap();
        let session = home.session("p").unwrap();
        let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
        let ask = |i: usize| session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        session.feedback(ask(0), Feedback::Label("2".into())).unwrap();
        session.feedback(ask(1), Feedback::Reject).unwrap();
        let ignored = ask(2);
        session.feedback(ignored, Feedback::Reject).unwrap();
        session.ignore_feedback(ignored).unwrap();
        for i in 0..4 {
            ask(i);
        }
        let cut = Cut::all(lock(&session.journal).state()).unwrap();
        let dataset = session.feedback_dataset(&session.serving(), &cut, &TrainLimits::default()).unwrap().dataset;
        // What was said about the third input is ignored, and nothing was said about the fourth.
        assert_eq!((dataset.training_examples.len(), dataset.standing.len()), (2, 2));
    }
}
