//! From logits to the tokens that may come next, with their probabilities.
//!
//! Each step is a processor of transformers' `generation/logits_process.py`, in the order in which `generate`
//! applies them: repetition penalty, temperature, top-k, top-p, min-p. Comparisons are made in `f32`, as
//! there.

use super::candidate::Candidate;
use super::config::GenerationConfig;
use super::select::{largest, sort_front};
use crate::error::{Error, Result};

/// The processors that a [`GenerationConfig`] asks for, and their buffers.
#[derive(Debug, Clone)]
pub struct LogitsProcessors {
    repetition_penalty: f32,
    temperature: f32,
    top_k: usize,
    top_p: f64,
    min_p: Option<f32>,
    seen: Vec<bool>,
    candidates: Vec<Candidate>,
}

impl LogitsProcessors {
    /// The processors of `config`.
    ///
    /// Errors: as [`GenerationConfig::validate`].
    pub fn new(config: &GenerationConfig) -> Result<LogitsProcessors> {
        config.validate()?;
        Ok(LogitsProcessors {
            repetition_penalty: config.repetition_penalty as f32,
            temperature: config.temperature as f32,
            top_k: config.top_k,
            top_p: config.top_p,
            min_p: config.min_p.map(|p| p as f32),
            seen: vec![],
            candidates: vec![],
        })
    }

    /// Applies the repetition penalty to `logits` (`[vocabulary]`) in place, once for each distinct token of
    /// `ids`, the prompt's and the answer's. Ids outside the vocabulary are ignored. This is all that greedy
    /// search does.
    ///
    /// Source: `RepetitionPenaltyLogitsProcessor`; Keskar et al., "CTRL" (2019), section 4.1.
    ///
    /// Errors: no logits, a NaN, +inf, or nothing but -inf, before or after.
    pub fn penalise(&mut self, logits: &mut [f32], ids: &[u32]) -> Result<()> {
        greatest(logits)?;
        let penalty = self.repetition_penalty;
        if penalty == 1.0 {
            return Ok(());
        }
        self.seen.resize(logits.len(), false);
        for id in ids.iter().map(|id| *id as usize) {
            if let (Some(logit), Some(seen @ false)) = (logits.get_mut(id), self.seen.get_mut(id)) {
                *seen = true;
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        for id in ids {
            self.seen.get_mut(*id as usize).into_iter().for_each(|seen| *seen = false);
        }
        greatest(logits).map(drop).map_err(|e| overflow("repetition_penalty", penalty, e))
    }

    /// The tokens that may be sampled, with their probabilities (sum 1), in an order that depends on `logits`
    /// alone.
    ///
    /// `logits` (`[vocabulary]`) are penalised and divided by the temperature in place; -inf excludes a
    /// token. `ids` are as in [`LogitsProcessors::penalise`].
    ///
    /// Errors: as [`LogitsProcessors::penalise`]; a temperature so low that logits overflow.
    pub fn candidates(&mut self, logits: &mut [f32], ids: &[u32]) -> Result<&[Candidate]> {
        self.penalise(logits, ids)?;
        if self.temperature != 1.0 {
            logits.iter_mut().for_each(|logit| *logit /= self.temperature);
        }
        let greatest = greatest(logits).map_err(|e| overflow("temperature", self.temperature, e))?;
        largest(logits, self.top_k, &mut self.candidates);
        let weigh = |c: &mut Candidate| c.probability = libm::exp(f64::from(c.logit) - f64::from(greatest));
        self.candidates.iter_mut().for_each(weigh);
        if self.top_p < 1.0 {
            top_p(&mut self.candidates, self.top_p);
        }
        if let Some(share) = self.min_p {
            min_p(&mut self.candidates, share);
        }
        let total = sum(&self.candidates);
        self.candidates.iter_mut().for_each(|c| c.probability /= total);
        Ok(&self.candidates)
    }
}

/// The token with the greatest logit, the first of equals.
///
/// Errors: no logits, a NaN, +inf, or nothing but -inf.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    let greatest = greatest(logits)?;
    let first = logits.iter().position(|logit| *logit == greatest);
    first.and_then(|token| u32::try_from(token).ok()).ok_or_else(|| Error::bad_data("too many logits"))
}

/// Leaves the least number of most likely tokens outside which no more than `1 - p` is left, and at least
/// one. Of equal logits, those with lower ids are left out first.
///
/// Source: `TopPLogitsWarper`; Holtzman et al., "The Curious Case of Neural Text Degeneration" (2019),
/// section 3.1.
fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let total = sum(candidates);
    let single = |c: &Candidate| f64::from((c.probability / total) as f32);
    let outside = (1.0 - p) as f32;
    // Probability of a token and of all that are less likely.
    let mut below: f64 = candidates.iter().map(single).sum();
    // Together they are less than what is left out.
    let negligible = f64::from(outside) / 2.0 / candidates.len() as f64;
    candidates.retain(|c| single(c) >= negligible);
    let mut kept = 0;
    while kept < candidates.len() {
        let sorted = sort_front(candidates, kept);
        for candidate in &candidates[kept..sorted] {
            if kept > 0 && below as f32 <= outside {
                candidates.truncate(kept);
                return;
            }
            below -= single(candidate);
            kept += 1;
        }
    }
}

/// Leaves the tokens with at least `share` of the greatest probability.
///
/// Source: `MinPLogitsWarper`; Nguyen et al., "Turning Up the Heat: Min-p Sampling" (2024), section 3.
fn min_p(candidates: &mut Vec<Candidate>, share: f32) {
    let total = sum(candidates);
    let single = |c: &Candidate| (c.probability / total) as f32;
    let least = share * candidates.iter().map(single).fold(0.0, f32::max);
    candidates.retain(|c| single(c) >= least);
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| c.probability).sum()
}

/// The greatest logit. Errors: there is none, a NaN, +inf, or nothing but -inf.
fn greatest(logits: &[f32]) -> Result<f32> {
    let refused = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    // Lanes, since the compiler does not reorder a maximum of floats.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut wrong = false;
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            wrong |= refused(logit);
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    wrong |= rest.iter().any(|logit| refused(*logit));
    let greatest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    if wrong && let Some(token) = logits.iter().position(|logit| refused(*logit)) {
        return Err(Error::bad_data(format!("the logit of token {token} is {}", logits[token])));
    }
    match greatest {
        f32::NEG_INFINITY if logits.is_empty() => Err(Error::bad_data("there are no logits")),
        f32::NEG_INFINITY => Err(Error::bad_data("every logit is -inf: no token can follow")),
        greatest => Ok(greatest),
    }
}

fn overflow(key: &str, value: f32, why: Error) -> Error {
    Error::usage(format!("{key} {value:e} takes the logits out of range")).because(why)
}
