//! What a candidate answers to what it was not taught with, and to what nobody complained about.

use std::collections::HashMap;

use rand::RngExt;

use super::{LanguageAdaptation, Said, adapted, sum};
use crate::adapter::SiteDelta;
use crate::error::{Error, Result};
use crate::gate::language::{Judged, TextRetention};
use crate::plan::{Difference, KvCache, Text, TextPasses, Variant};
use crate::stats::random::keyed_rng;
use crate::stats::rows::{argmax, softmax};

/// Tokens that an answer may be longer than the longer one of an edit and its original.
const SLACK: usize = 16;
/// Most tokens of an answer that is generated to be judged.
const MOST: usize = 256;
/// Tokens in which a probe is to come to an end, if the base model does.
const PROBE: usize = 64;
/// A candidate may take this many times as many.
const LONGER: usize = 4;
/// Texts of prose by which is seen whether a model knows its language.
const SAMPLE: usize = 4;
/// Texts that the base model goes on with.
const REHEARSALS: usize = 16;
/// Tokens of such a text.
const REHEARSED: usize = 48;
/// An answer repeats itself that ends with the same tokens this many times, and they are this many together.
const TIMES: usize = 4;
const REPEATED: usize = 12;

/// An answer of the base model, and whether it came to an end.
pub(super) struct Answered {
    tokens: Vec<u32>,
    ended: bool,
}

/// Answers by the number of the example.
pub(super) type Answers = HashMap<usize, Vec<u32>>;

/// What models answer that do not change while a training lasts.
#[derive(Default)]
pub(super) struct Known {
    base: Answers,
    active: Answers,
}

/// What a candidate makes of what was said.
#[derive(Default)]
pub(super) struct Judgement {
    /// Against the base model, of every example.
    pub base: Vec<(usize, Judged)>,
    /// Against the active generation, of what that has not learned from; empty where the base model is active.
    pub active: Vec<(usize, Judged)>,
}

impl Judgement {
    pub fn add(&mut self, other: Judgement) {
        self.base.extend(other.base);
        self.active.extend(other.active);
    }
}

impl LanguageAdaptation<'_> {
    /// Judges what was said in `items` by a candidate that was not taught with it, against the base model; and what
    /// the active generation has not learned from, against that. `known` keeps what both answer.
    pub(super) fn judge(
        &self,
        passes: &mut TextPasses,
        deltas: &[SiteDelta],
        items: &[usize],
        known: &mut Known,
    ) -> Result<Judgement> {
        let (sites, factors) = adapted(deltas)?;
        let ours = Variant::Adapted(&sites, &factors);
        let mut answers = HashMap::new();
        let base = self.judge_against(passes, (&Variant::Base, &mut known.base), (&ours, &mut answers), items)?;
        let active = match self.serves_base() {
            true => vec![],
            false => {
                let fresh: Vec<usize> = items.iter().copied().filter(|at| self.dataset.examples[*at].fresh).collect();
                self.judge_against(passes, (&self.serving, &mut known.active), (&ours, &mut answers), &fresh)?
            }
        };
        Ok(Judgement { base, active })
    }

    /// Judges what was said in `items` by two models, of which the first one is `theirs`, each with what it answers
    /// as far as that is known.
    fn judge_against(
        &self,
        passes: &mut TextPasses,
        (theirs, were): (&Variant, &mut Answers),
        (ours, are): (&Variant, &mut Answers),
        items: &[usize],
    ) -> Result<Vec<(usize, Judged)>> {
        let rated = |at: &usize| matches!(self.dataset.examples[*at].said, Said::Good(_) | Said::Bad(_));
        let drift = match items.iter().any(rated) {
            true => [self.usual(passes, theirs)?, self.usual(passes, ours)?],
            false => [0.0; 2],
        };
        let mut judged = vec![];
        for &at in items {
            self.goes_on()?;
            let example = &self.dataset.examples[at];
            let call = match &example.said {
                Said::Edit { edited, original } => {
                    let (wanted, most) = self.wanted(edited, original.as_ref());
                    let close = |variant: &Variant, known: &mut Answers| -> Result<f64> {
                        let answer = match known.get(&at) {
                            Some(answer) => answer,
                            None => {
                                let answer = self.greedy(variant, example.said.prompt(), most)?.0;
                                known.entry(at).or_insert(answer)
                            }
                        };
                        Ok(closeness(answer, wanted))
                    };
                    Judged::Edit {
                        closeness: [close(theirs, were)?, close(ours, are)?],
                        log_prob: [mean(&passes.log_probs(theirs, edited)?), mean(&passes.log_probs(ours, edited)?)],
                    }
                }
                Said::Preference { chosen, rejected } => {
                    let mut margin = |variant: &Variant| -> Result<f64> {
                        Ok(sum(&passes.log_probs(variant, chosen)?) - sum(&passes.log_probs(variant, rejected)?))
                    };
                    Judged::Preference([margin(theirs)?, margin(ours)?])
                }
                Said::Good(text) | Said::Bad(text) => {
                    let good = matches!(example.said, Said::Good(_));
                    let before = mean(&passes.log_probs(theirs, text)?) - drift[0];
                    let after = mean(&passes.log_probs(ours, text)?) - drift[1];
                    Judged::Rated { good, log_prob: [before, after] }
                }
            };
            judged.push((at, call));
        }
        Ok(judged)
    }

    /// What an edit wants, and to how many tokens answers are compared with it.
    fn wanted<'t>(&self, edited: &'t Text, original: Option<&Text>) -> (&'t [u32], usize) {
        let longest = original.map_or(0, |o| o.completion().len()).max(edited.completion().len());
        let most = (longest + SLACK).min(MOST);
        let wanted = self.without_end(edited.completion());
        (&wanted[..wanted.len().min(most)], most)
    }

    /// Mean log-probability of a token of answers that nobody said anything about; of neutral prose where there are
    /// none.
    fn usual(&self, passes: &mut TextPasses, variant: &Variant) -> Result<f64> {
        let texts = if self.dataset.kept.is_empty() { &self.dataset.neutral } else { &self.dataset.kept };
        let mut all = vec![];
        for text in texts {
            all.extend(passes.log_probs(variant, text)?);
        }
        Ok(mean(&all))
    }

    /// What the base answers to the probes.
    pub(super) fn base_answers(&self) -> Result<Vec<Answered>> {
        let answer = |prompt: &Vec<u32>| {
            let (tokens, ended) = self.greedy(&Variant::Base, prompt, PROBE)?;
            Ok(Answered { tokens, ended })
        };
        self.dataset.probes.iter().map(answer).collect()
    }

    /// What a candidate changes on other texts. `base` answers the probes.
    pub(super) fn retention(
        &self,
        passes: &mut TextPasses,
        deltas: &[SiteDelta],
        base: &[Answered],
    ) -> Result<TextRetention> {
        let (sites, factors) = adapted(deltas)?;
        let ours = Variant::Adapted(&sites, &factors);
        let mut compare = |texts: &[Text]| -> Result<Difference> {
            texts.iter().try_fold(Difference::default(), |all, text| {
                self.goes_on()?;
                Ok(all.and(passes.compare(&Variant::Base, &ours, text)?))
            })
        };
        let prose = compare(&self.dataset.neutral)?;
        let own = self.dataset.probes.iter().zip(base).filter(|(_, a)| !a.tokens.is_empty());
        let own: Vec<Text> =
            own.map(|(prompt, a)| Text { tokens: [&prompt[..], &a.tokens].concat(), start: prompt.len() }).collect();
        let (kept, of_its_own) = (compare(&self.dataset.kept)?, compare(&own)?);
        let perplexity = prose.log_probs.map(|sum| (-sum / prose.tokens.max(1) as f64).exp());
        // A model that reads prose worse than by guessing was not made for its language: its answers stand in for it.
        let known = prose.tokens > 0 && passes.vocabulary().is_none_or(|n| perplexity[0] < n as f64);
        let looked_at = if known { prose } else { kept };
        let answers = kept.and(of_its_own);
        let kl = if answers.tokens > 0 { answers.kl / answers.tokens as f64 } else { 0.0 };
        let perplexity = known.then_some(perplexity);
        let mut found = TextRetention { perplexity, kl, tokens: looked_at.tokens, agree: looked_at.agree, endless: 0 };
        for (prompt, base) in self.dataset.probes.iter().zip(base) {
            let most = if base.ended { LONGER * PROBE } else { PROBE };
            let (tokens, ended) = self.greedy(&ours, prompt, most)?;
            let worse = (base.ended && !ended) || (repeats(&tokens) && !repeats(&base.tokens));
            found.endless += u64::from(worse);
        }
        Ok(found)
    }

    /// The most likely tokens after `prompt`, without the one that ends them; and whether there was one, within `most`.
    fn greedy(&self, variant: &Variant, prompt: &[u32], most: usize) -> Result<(Vec<u32>, bool)> {
        let context = self.decoder.context();
        let most = most.min(context.saturating_sub(prompt.len()));
        let mut cache = KvCache::new();
        let mut scores = self.decoder.read(variant, &mut cache, prompt)?;
        let mut tokens = vec![];
        while tokens.len() < most {
            self.goes_on()?;
            if scores.iter().any(|v| !v.is_finite()) {
                return Err(Error::bad_data("the model answered with a value that is not a finite number"));
            }
            let best = argmax(ndarray::ArrayView1::from(&scores)).unwrap_or_default() as u32;
            if self.dataset.ends.contains(&best) {
                return Ok((tokens, true));
            }
            tokens.push(best);
            if tokens.len() < most {
                scores = self.decoder.read(variant, &mut cache, &[best])?;
            }
        }
        Ok((tokens, false))
    }

    /// Texts on which a fit is held to what the base model thinks: prose, where it reads that better than by guessing.
    pub(super) fn rehearsal(&self, passes: &mut TextPasses) -> Result<Vec<Text>> {
        let mut read = vec![];
        for text in self.dataset.rehearsal.iter().take(SAMPLE) {
            read.extend(passes.log_probs(&Variant::Base, text)?);
        }
        let known = passes.vocabulary().is_none_or(|n| -mean(&read) < (n as f64).ln());
        match known && !read.is_empty() {
            true => Ok(self.dataset.rehearsal.clone()),
            false => self.own_texts(),
        }
    }

    /// Texts that the base model goes on with from the dataset's beginnings, each token drawn by its probability:
    /// what it was trained on is not at hand, and this is as near as one comes.
    fn own_texts(&self) -> Result<Vec<Text>> {
        let mut texts = vec![];
        let starts = self.dataset.starts.iter().cycle().take(REHEARSALS.max(self.dataset.starts.len()));
        for (at, start) in starts.enumerate().filter(|(_, start)| !start.is_empty()) {
            let mut rng = keyed_rng(self.settings.seed, 2, at as u64);
            let (mut cache, mut tokens) = (KvCache::new(), start.clone());
            let mut scores = self.decoder.read(&Variant::Base, &mut cache, start)?;
            while tokens.len() < start.len() + REHEARSED && tokens.len() < self.decoder.context() {
                self.goes_on()?;
                let p = softmax(ndarray::ArrayView1::from(&scores));
                let mut drawn: f32 = rng.random_range(0.0..1.0);
                let next = p.iter().position(|p| {
                    drawn -= p;
                    drawn < 0.0
                });
                let next = next.unwrap_or(p.len().saturating_sub(1)) as u32;
                if self.dataset.ends.contains(&next) && tokens.len() > start.len() {
                    break;
                }
                tokens.push(next);
                scores = self.decoder.read(&Variant::Base, &mut cache, &[next])?;
            }
            if tokens.len() > 1 {
                texts.push(Text { tokens, start: 1 });
            }
        }
        Ok(texts)
    }

    fn without_end<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        match tokens.split_last() {
            Some((last, rest)) if self.dataset.ends.contains(last) => rest,
            _ => tokens,
        }
    }
}

/// `1 / (1 + rate)` of the edit rate of an answer: how many tokens would have to be inserted, removed or replaced for
/// each token of what is wanted (TER without shifts; Snover et al. 2006).
fn closeness(answer: &[u32], wanted: &[u32]) -> f64 {
    let edits = strsim::generic_levenshtein(&answer.to_vec(), &wanted.to_vec());
    let wanted = wanted.len().max(1) as f64;
    wanted / (wanted + edits as f64)
}

/// Whether `tokens` end with the same few of them again and again.
fn repeats(tokens: &[u32]) -> bool {
    (1..=tokens.len() / TIMES).any(|n| {
        let times = TIMES.max(REPEATED.div_ceil(n));
        let tail = n * times;
        tail <= tokens.len() && tokens[tokens.len() - tail..].windows(n + 1).all(|w| w[0] == w[n])
    })
}

fn mean(log_probs: &[f32]) -> f64 {
    sum(log_probs) / log_probs.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_answers_and_repeated_ones() {
        assert_eq!(closeness(&[1, 2, 3, 4], &[1, 2, 3, 4]), 1.0);
        assert_eq!(closeness(&[1, 2, 3, 4], &[1, 3, 4]), 0.75);
        assert_eq!((closeness(&[], &[1, 2]), closeness(&[], &[])), (0.5, 1.0));
        let long: Vec<u32> = (0..40).collect();
        assert!(closeness(&[7, 8, 9, 9], &long[..4]) > closeness(&long, &long[..4]), "less to change");
        let cycle = |n: u32, times: usize| -> Vec<u32> { (0..n).cycle().take(n as usize * times).collect() };
        assert!(repeats(&cycle(1, 12)) && repeats(&cycle(3, 4)) && repeats(&cycle(5, 4)));
        assert!(!repeats(&cycle(1, 11)) && !repeats(&cycle(5, 3)) && !repeats(&(0..64).collect::<Vec<_>>()));
    }
}
