//! A session trains a language model: what was said about its answers becomes examples, the winner becomes a
//! generation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::conversations::conversations;
use super::texts::messages;
use crate::adapt::fit::Recipe;
use crate::adapt::fit::state::{Keeper, Naming};
use crate::adapt::language::{LanguageAdaptation, LanguageDataset, LanguageExample, LanguageOutcome, Losses, Said};
use crate::adapt::select::{Chosen, Costs, applied};
use crate::adapt::{FEWEST_EXAMPLES, Progress, Settings};
use crate::adapter::{Adapter, Calibrated, Lineage};
use crate::chat::Message;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{FeedbackKind, InteractionId, Snapshot, StoredConversation, StoredInput};
use crate::plan::{SiteKey, Text};
use crate::process::{machine_memory, status_bytes};
use crate::runtime::feedback_dataset::{silent, size};
use crate::runtime::opinions::Opinion;
use crate::runtime::session::{Serving, Session};
use crate::runtime::training::{TRAIN_LOCK_WAIT, TrainReport};
use crate::runtime::written::TrainingWrites;
use crate::runtime::{TrainOptions, now_ms, opinions, sampled};
use crate::sites::Pattern;
use crate::store::Cut;
use crate::sync::lock;

/// Prose that has nothing to do with anybody: whether a model still reads it as before.
const NEUTRAL: &str = include_str!("neutral.txt");
/// Other prose, of many kinds, on which a fit is held to what the base model thinks.
const REHEARSAL: &str = include_str!("rehearsal.txt");
/// Prompts of several kinds, whose answers must come to an end.
const PROBES: [&str; 8] = [
    "List five things I should buy for a picnic.",
    "Tell me a very short story about a lost kitten.",
    "What is the tallest mountain in the world?",
    "How do I change a light bulb safely?",
    "Hello there, nice to meet you!",
    "What is 7 plus 5?",
    "Explain in simple words how a rainbow forms.",
    "Write a short letter to thank my neighbor for feeding my cat.",
];
/// Beginnings of texts that the base model goes on with.
const STARTS: [&str; 8] = ["The", "In the", "A", "When", "It is", "One day", "There are", "How"];
/// Most answers that nobody said anything about: the latest ones.
const MOST_KEPT: usize = 16;

/// What the journal has to teach a language model.
struct Taught {
    dataset: LanguageDataset,
    superseded: usize,
    ignored: usize,
    /// More than a training takes.
    beyond: usize,
    /// Too long for the memory that a training may take.
    too_long: usize,
}

/// What becomes of an item of feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Teaches,
    Ignored,
    /// By a newer edit.
    Superseded,
    /// There are more than a training takes.
    Beyond,
}

/// What becomes of each, where at most `most` teach: what teaches nothing anyway takes no place from the others.
fn fates(opinions: &[Opinion], most: usize) -> Vec<Fate> {
    let is_edit = |kind: &FeedbackKind| matches!(kind, FeedbackKind::Edit(_));
    let edits = opinions.iter().enumerate().filter(|(_, opinion)| is_edit(&opinion.word.entry.kind));
    let last_edit: HashMap<[u8; 32], usize> = edits.map(|(at, opinion)| (opinion.digest, at)).collect();
    let fate = |(at, opinion): (usize, &Opinion)| {
        let kind = &opinion.word.entry.kind;
        // An edit holds instead of what was to be answered to the same messages before. Several demonstrations do not
        // contradict each other.
        let replaceable = is_edit(kind) || matches!(kind, FeedbackKind::Demonstration(_));
        match kind {
            FeedbackKind::Ignored => Fate::Ignored,
            _ if replaceable && last_edit.get(&opinion.digest).is_some_and(|last| *last > at) => Fate::Superseded,
            _ => Fate::Teaches,
        }
    };
    let mut fates: Vec<Fate> = opinions.iter().enumerate().map(fate).collect();
    let kinds = opinions.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Teaches);
    let kinds: Vec<_> = kinds.map(|(opinion, _)| std::mem::discriminant(&opinion.word.entry.kind)).collect();
    let teaching = fates.iter_mut().filter(|fate| **fate == Fate::Teaches);
    for (fate, taken) in teaching.zip(sampled::chosen(&kinds, most)) {
        if !taken {
            *fate = Fate::Beyond;
        }
    }
    fates
}

impl Taught {
    /// Leaves out what takes more than `length` tokens.
    fn leave_out_longer(&mut self, length: usize) {
        let LanguageDataset { examples, kept, .. } = &mut self.dataset;
        let all = examples.len();
        examples.retain(|example| example.longest() <= length);
        self.too_long += all - examples.len();
        kept.retain(|text| text.tokens.len() <= length);
    }
}

/// To which length texts are learned from within a limit of memory, and what is chosen for it: long ones, at most one
/// in four, are left out where more layers can be trained without them. `lengths` rise. From short ones up, since it
/// takes memory to find out what a long text costs.
fn longest_within<T>(
    lengths: &[usize],
    within: impl Fn(usize) -> Result<T>,
    layers: impl Fn(&T) -> usize,
) -> Result<(usize, T)> {
    let last = lengths.len().saturating_sub(1);
    let start = last.saturating_sub(lengths.len() / 4).max(FEWEST_EXAMPLES - 1).min(last);
    let mut steps = lengths[start.min(lengths.len())..].to_vec();
    steps.dedup();
    let first = steps.first().copied().unwrap_or(0);
    let (mut at, mut best) = (0, (first, within(first)?));
    let mut fails = steps.len();
    while at + 1 < fails {
        let next = match fails < steps.len() {
            // Between what fits and what does not.
            true => (at + fails) / 2,
            false => (at + 1..fails).rfind(|next| steps[*next] <= 2 * steps[at]).unwrap_or(at + 1),
        };
        let found = within(steps[next])?;
        match layers(&found) < layers(&best.1) {
            true => fails = next,
            false => (at, best) = (next, (steps[next], found)),
        }
    }
    Ok(best)
}

/// A training before its first fit.
struct Ready {
    taught: Taught,
    sites: SiteKey,
    settings: Settings,
    chosen: Option<Chosen>,
    name: [u8; 32],
}

impl Session {
    /// [`Session::train`] of a home whose model generates text.
    pub(in crate::runtime) fn train_language(&self, options: &TrainOptions<'_>) -> Result<TrainReport> {
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
        let ready = |cut: &Cut| self.ready(options, &serving, cut);
        let (cut, ready, keeping) = self.begin_or_resume(options.checkpoints, &writes, ready, |now| now.name)?;
        let Ready { taught, sites, settings, chosen, name: _ } = ready;
        if let Some(chosen) = &chosen {
            self.keep_choice(chosen)?;
        }
        let adaptation = LanguageAdaptation {
            engine,
            decoder: &self.home().language()?.decoder,
            dataset: &taught.dataset,
            sites: &sites,
            width: self.home().0.features,
            settings: &settings,
            losses: Losses::default(),
            serving: serving.variant(),
            stop: &stop,
            keeper: keeping.as_ref().map(|k| k as &dyn Keeper),
            progress,
        };
        let outcome = adaptation.run();
        if let (Err(_), Some(keeping)) = (&outcome, &keeping) {
            keeping.flush();
        }
        engine.drop_train_plans();
        let LanguageOutcome { mut verdict, winner, steps, seconds, tried, found } = outcome?;
        if taught.too_long > 0 {
            verdict.reason += &format!("; {} too long for the memory that it may take (--memory)", taught.too_long);
        }
        if let Some(attempt) = attempt {
            attempt.end();
        }
        let generation = match winner {
            Some(winner) => {
                let mut deltas = winner.deltas;
                deltas.sort_by(|a, b| a.name.cmp(&b.name));
                Some(self.store.commit(&Adapter {
                    base: self.home().base().fingerprint(),
                    task: self.home().config().task.clone(),
                    labels: vec![],
                    sites: deltas,
                    head: None,
                    lineage: Lineage {
                        parent: current,
                        seed: settings.seed,
                        steps: winner.steps,
                        examples: cut.feedback,
                        depth: verdict.depth,
                        created_ms: now_ms(),
                        learning_rate: winner.learning_rate,
                        rank: self.home().config().rank as u32,
                    },
                    verdict: verdict.clone(),
                    confusions: None,
                    calibrated: Calibrated::default(),
                    known: None,
                })?)
            }
            None => None,
        };
        let seen = cut.feedback;
        lock(&self.journal).record_training(now_ms(), generation, verdict.clone(), steps, seconds as f32, seen)?;
        if keeping.is_some() {
            self.store.checkpoint().clear()?;
        }
        let resumed_steps = keeping.map_or(0, |k| k.steps());
        let serves = self.follow()?.generation;
        Ok(TrainReport {
            promoted: generation == Some(serves),
            generation: serves,
            steps,
            resumed_steps,
            seconds,
            superseded: taught.superseded,
            ignored: taught.ignored,
            beyond: taught.beyond,
            too_long: taught.too_long,
            swapped: vec![],
            contradicting: 0,
            only_label: None,
            verdict,
            tried,
            may_change: None,
            corrections: None,
            loss: None,
            calibration: None,
            choice: chosen,
            language: found,
            of_texts: true,
        })
    }

    /// Reads `cut` of the journal; where memory or time is limited, chooses.
    fn ready(&self, options: &TrainOptions<'_>, serving: &Serving, cut: &Cut) -> Result<Ready> {
        let config = self.home().config();
        let engine = &self.home().0.engine;
        let mut settings = options.over(|| self.settings());
        let limits = options.limits.unwrap_or(config.limits);
        let mut taught = self.taught(serving, cut)?;
        let pattern = Pattern::new(&config.sites);
        let choice = |length: usize| {
            crate::adapt::select::choose(&engine.base, engine.task, &pattern, config.rank, length.max(1))
        };
        let mut lengths: Vec<usize> = taught.dataset.examples.iter().map(LanguageExample::longest).collect();
        lengths.sort_unstable();
        let (candidates, chosen) = if limits.are_unlimited() {
            let choice = choice(lengths.last().copied().unwrap_or(0))?;
            settings.recipe.gradient_checkpointing |= choice.is_large_for(machine_memory());
            (choice.candidates, None)
        } else {
            let held = status_bytes("/proc/self/status", "VmRSS:");
            let within = |length: usize| {
                let choice = choice(length)?;
                Costs::of(&engine.base, engine.task, &choice, &limits, settings.threads)
                    .beside(held)
                    .of_family(&settings.recipe.lora)
                    .with(1, 0)
                    .choose(config.rank, None)
            };
            let (length, (candidates, chosen)) = longest_within(&lengths, within, |(_, chosen)| chosen.sites.len())?;
            taught.leave_out_longer(length);
            settings.recipe.gradient_checkpointing = chosen.gradient_checkpointing;
            if let Some(limit) = limits.memory_bytes {
                settings.recipe.keep_at_most(limit.saturating_sub(chosen.memory_bytes));
            }
            if let Some(most) = limits.budget_seconds {
                let most = Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX);
                settings.budget = Some(settings.budget.map_or(most, |b| b.min(most)));
            }
            (candidates, Some(chosen))
        };
        let sites = applied(&candidates, &settings.recipe.lora).all_sites;
        let mut name = Naming(blake3::Hasher::new());
        name.text(concat!("acclimate ", env!("CARGO_PKG_VERSION"), " training of texts"));
        name.text(std::env::consts::ARCH);
        name.bytes(&engine.base.fingerprint().0);
        let recipe = Recipe { gradient_checkpointing: false, ..settings.recipe.decisive() };
        name.text(&format!("{:?} {sites:?}", Settings { threads: 0, budget: None, recipe, ..settings.clone() }));
        name.text(&serving.generation.to_string());
        taught.dataset.examples.iter().for_each(|e| name.language_example(e));
        taught.dataset.kept.iter().for_each(|t| name.text_tokens(t));
        let name = *name.0.finalize().as_bytes();
        Ok(Ready { taught, sites, settings, chosen, name })
    }

    /// What the journal has to teach up to `cut`, in order of time: as much as a training takes.
    fn taught(&self, serving: &Serving, cut: &Cut) -> Result<Taught> {
        let journal = lock(&self.journal).snapshot();
        let language = self.home().language()?;
        let opinions = opinions::read(&journal, size(cut.feedback))?;
        let (mut examples, mut superseded, mut ignored, mut latest) = (vec![], 0, 0, 0);
        let (mut beyond, mut revised, mut about) = (0, false, vec![]);
        for (opinion, fate) in opinions.iter().zip(fates(&opinions, sampled::MOST_TEXTS)) {
            let (word, entry) = (&opinion.word, &opinion.word.entry);
            revised |= (word.first as u64) < serving.examples && word.last as u64 >= serving.examples;
            ignored += usize::from(fate == Fate::Ignored);
            superseded += usize::from(fate == Fate::Superseded);
            beyond += usize::from(fate == Fate::Beyond);
            if fate != Fate::Teaches {
                continue;
            }
            // A clock can step back: the order of the journal is the order of time.
            latest = word.first_ms.max(latest);
            let (id, at_ms) = (opinion.interaction.id, opinion.interaction.at_ms);
            let StoredInput::Conversation(answered) = journal.input(id)? else { continue };
            let Some(said) = self.said(&journal, (id, &answered), &entry.kind, at_ms)? else { continue };
            let fresh = word.last as u64 >= serving.examples;
            examples.push(LanguageExample { said, messages: opinion.digest, conversation: 0, at_ms: latest, fresh });
            about.push(answered);
        }
        let of = conversations(&about);
        examples.iter_mut().zip(of).for_each(|(example, of)| example.conversation = of);
        let spoken: HashSet<[u8; 32]> = opinions.iter().map(|o| o.digest).collect();
        let mut kept: Vec<Text> = vec![];
        for entry in silent(journal.state(), cut)? {
            if kept.len() == MOST_KEPT {
                break;
            }
            let input = journal.input(entry.id)?;
            if spoken.contains(&input.digest()) {
                continue;
            }
            let StoredInput::Conversation(c) = input else { continue };
            // What cannot be trained on need not be kept either.
            let text = language.text(&messages(&c), &c.answer, c.ended, entry.at_ms).ok();
            kept.extend(text.filter(|text| !kept.contains(text)));
        }
        let prose =
            |paragraph: &str| -> Result<Text> { Ok(Text { tokens: language.tokens(paragraph, true)?, start: 1 }) };
        let context = language.decoder.context();
        // A tokenizer may have tokens that the model has no embedding of.
        let known = |tokens: &[u32]| language.decoder.knows(tokens).is_ok();
        let paragraphs = |of: &str| -> Result<Vec<Text>> {
            let one = |paragraph: &str| prose(&paragraph.trim().replace('\n', " "));
            let mut all = of.split("\n\n").map(one).collect::<Result<Vec<Text>>>()?;
            all.iter_mut().for_each(|text| text.tokens.truncate(context));
            all.retain(|text| text.tokens.len() > 1 && known(&text.tokens));
            Ok(all)
        };
        // At a time of their own, so that a verdict does not depend on the day.
        let probe = |text: &str| language.prompt(&[Message::new("user", text)], 0);
        let probes = PROBES.iter().map(|text| probe(text)).collect::<Result<Vec<_>>>()?;
        let starts = STARTS.iter().map(|text| language.tokens(text, true)).collect::<Result<Vec<_>>>()?;
        let dataset = LanguageDataset {
            examples,
            kept,
            revised,
            neutral: paragraphs(NEUTRAL)?,
            rehearsal: paragraphs(REHEARSAL)?,
            starts: starts.into_iter().filter(|s| known(s)).collect(),
            probes: probes.into_iter().filter(|p| p.len() < context && known(p)).collect(),
            ends: language.config.eos_token_id.clone(),
        };
        Ok(Taught { dataset, superseded, ignored, beyond, too_long: 0 })
    }

    /// What `kind` says about the answer `id`, which `about` holds; none where it teaches nothing.
    fn said(
        &self,
        journal: &Snapshot,
        (id, about): (InteractionId, &StoredConversation),
        kind: &FeedbackKind,
        at_ms: u64,
    ) -> Result<Option<Said>> {
        Ok(match kind {
            FeedbackKind::Edit(text) => {
                let edited = self.usable(id, self.home().language()?.text(&messages(about), text, true, at_ms))?;
                let original = self.text_of(about, id, at_ms)?;
                edited.map(|edited| Said::Edit { edited, original })
            }
            FeedbackKind::Demonstration(text) => {
                let edited = self.usable(id, self.home().language()?.text(&messages(about), text, true, at_ms))?;
                edited.map(|edited| Said::Edit { edited, original: None })
            }
            FeedbackKind::Accept => self.text_of(about, id, at_ms)?.map(Said::Good),
            FeedbackKind::Reject | FeedbackKind::RejectBecause(_) => self.text_of(about, id, at_ms)?.map(Said::Bad),
            FeedbackKind::PreferredOver(other) => {
                // The other answer may have been forgotten since.
                let other = match journal.input(*other) {
                    Ok(StoredInput::Conversation(other)) => self.text_of(&other, id, at_ms)?,
                    Ok(_) => None,
                    Err(e) if e.kind() == ErrorKind::Usage => None,
                    Err(e) => return Err(e),
                };
                let chosen = self.text_of(about, id, at_ms)?;
                chosen.zip(other).map(|(chosen, rejected)| Said::Preference { chosen, rejected })
            }
            FeedbackKind::Ignored | FeedbackKind::Label(_) | FeedbackKind::NoneOfThese => None,
        })
    }

    /// The answer as it was given; none where it holds no token, or does not fit the context.
    fn text_of(&self, of: &StoredConversation, id: InteractionId, at_ms: u64) -> Result<Option<Text>> {
        let text = self.home().language()?.text(&messages(of), &of.answer, of.ended, at_ms);
        self.usable(id, text)
    }

    fn usable(&self, id: InteractionId, text: Result<Text>) -> Result<Option<Text>> {
        match text {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::BadData => {
                tracing::warn!(interaction = %id, error = %e, "an answer teaches nothing");
                Ok(None)
            }
            Err(e) => Err(Error::at(e, id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{FeedbackEntry, InteractionEntry, LastWord};

    /// What was said about answers to these messages, one after the other.
    fn said(all: &[(FeedbackKind, u8)]) -> Vec<Opinion> {
        let one = |(n, (kind, messages)): (usize, &(FeedbackKind, u8))| {
            let id = InteractionId(n as u32);
            let entry = FeedbackEntry { id, at_ms: n as u64, kind: kind.clone(), was: None };
            let word = LastWord { entry, first_ms: n as u64, first: n, last: n };
            let interaction = InteractionEntry { id, at_ms: 0, offset: 0, answer: None, generation: 0, novel: false };
            (word, interaction, [*messages; 32])
        };
        opinions::settled(all.iter().enumerate().map(one).collect())
    }

    #[test]
    fn few_long_texts_are_left_out_and_enough_stay() {
        // Ten layers fit up to a length, fewer beyond it.
        let find = |lengths: &[usize], fits: usize| {
            let within = |length: usize| Ok(if length <= fits { 10 } else { 2 });
            longest_within(lengths, within, |layers| *layers).unwrap()
        };
        let many: Vec<usize> = [vec![100; 15], vec![110, 120, 130, 190, 10_000]].concat();
        for (fits, longest) in [(10_000, 10_000), (500, 190), (189, 130), (115, 110), (100, 100)] {
            assert_eq!(find(&many, fits), (longest, 10), "{fits}");
        }
        assert_eq!(find(&many, 50), (10_000, 2), "nothing is gained without the long ones");
        // As many as a training takes stay.
        assert_eq!(find(&[10, 10, 10, 10, 10, 10, 10, 500], 50), (500, 2));
        assert_eq!(find(&[10, 10, 10, 10, 10, 10, 10, 20, 500], 50), (20, 10));
        assert_eq!((find(&[], 50), find(&[7], 50)), ((0, 10), (7, 10)));
    }

    #[test]
    fn what_teaches_nothing_takes_no_place_from_what_does() {
        let edit = |text: usize| FeedbackKind::Edit(text.to_string());
        // Ten thumbs, ten edits of one answer, ten ignored.
        let thumbs = (0..10).map(|n| (FeedbackKind::Accept, n));
        let edits = (0..10).map(|n| (edit(n), 100));
        let ignored = (0..10).map(|n| (FeedbackKind::Ignored, 200 + n as u8));
        let opinions = said(&thumbs.chain(edits).chain(ignored).collect::<Vec<_>>());
        let count = |most: usize, of: Fate| fates(&opinions, most).iter().filter(|fate| **fate == of).count();
        let all = |most| [Fate::Teaches, Fate::Ignored, Fate::Superseded, Fate::Beyond].map(|of| count(most, of));
        assert_eq!(all(11), [11, 10, 9, 0], "there is room for all that teaches");
        assert_eq!(all(8), [8, 10, 9, 3]);
        let fates = fates(&opinions, 8);
        assert_eq!((fates[19], fates[9], fates[29]), (Fate::Teaches, Fate::Teaches, Fate::Ignored), "{fates:?}");
        let demonstration = FeedbackKind::Demonstration("so".into());
        let opinions =
            said(&[(demonstration.clone(), 1), (demonstration.clone(), 1), (edit(1), 1), (demonstration, 1)]);
        let expected = [Fate::Superseded, Fate::Superseded, Fate::Teaches, Fate::Teaches];
        assert_eq!(super::fates(&opinions, 9), expected);
    }
}
