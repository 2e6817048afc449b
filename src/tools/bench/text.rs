//! Times a causal language model on one text: reading it, going on with it, training on it.

use std::sync::Arc;

use rand::RngExt;

use super::memory::{Anonymous, most_anonymous};
use super::timing::{Repeats, Timing, time};
use crate::adapt::fit::Recipe;
use crate::adapt::language::{LanguageExample, Losses, References, Said, TextFit};
use crate::adapt::select::kept;
use crate::adapter::Pooling;
use crate::base::{Base, Task};
use crate::error::Result;
use crate::plan::{Decoder, Engine, Keeps, KvCache, SiteKey, Text, TextPasses, TextTrainer, Trains, Variant};
use crate::profile::{Place, Spent, record};
use crate::stats::random::keyed_rng;
use crate::sync::on_cores;

/// Tokens that are generated to time one.
const TOKENS: usize = 8;
/// Part of a text that is an answer.
const ANSWER: usize = 2;
/// Ids of the tokens are below this, and below what the model has.
const IDS: usize = 100;

/// A causal language model on one text; times in milliseconds.
#[derive(Debug, Clone)]
pub struct TextReport {
    /// Tokens of the text.
    pub tokens: usize,
    /// Reading it.
    pub prefill_ms: Timing,
    /// One token behind it.
    pub token_ms: Timing,
    /// A training step on it, of which the second half is an answer: forward, backward and optimiser; none when no
    /// site can be trained.
    pub train_step_ms: Option<Timing>,
    /// What that takes, with all that is compiled for it, of memory that no file backs.
    pub train_anonymous_bytes: u64,
    /// The same with what the process held before.
    pub(super) train_most_bytes: u64,
}

/// How to measure.
#[derive(Clone, Copy)]
pub(in crate::tools) struct TextOptions {
    /// Tokens of the text, where the model has as many positions.
    pub length: usize,
    pub threads: usize,
    pub repeats: Repeats,
    /// Whether a training step keeps less between the passes.
    pub gradient_checkpointing: bool,
}

/// What reads a text, and the text.
pub(super) struct Reading {
    pub decoder: Decoder,
    pub engine: Engine,
    pub tokens: Vec<u32>,
}

impl Reading {
    /// Of `length` tokens, or of as many as `base` has positions for.
    pub fn of(base: &Arc<Base>, length: usize, threads: usize) -> Result<Reading> {
        let decoder = Decoder::new(base.clone(), length + 2 * TOKENS, threads)?;
        let length = length.min(decoder.context().saturating_sub(2 * TOKENS)).max(2);
        let mut rng = keyed_rng(0, 0, 0);
        let engine = Engine::new(base.clone(), Task::CausalLm, Pooling::None);
        let ids = TextPasses::new(&engine, length)?.vocabulary().unwrap_or(IDS).clamp(1, IDS);
        let tokens = (0..length).map(|_| rng.random_range(0..ids) as u32).collect();
        Ok(Reading { decoder, engine, tokens })
    }
}

/// Measures `base` with low-rank factors at `sites`.
pub(in crate::tools) fn time_text(base: &Arc<Base>, sites: &SiteKey, options: TextOptions) -> Result<TextReport> {
    let TextOptions { length, threads, repeats, .. } = options;
    let Reading { decoder, engine, tokens } = Reading::of(base, length, threads)?;
    let length = tokens.len();
    let (train_step_ms, held) = match sites.is_empty() {
        true => (None, None),
        false => {
            let (timing, held) = train(&engine, sites, tokens.clone(), options)?;
            (Some(timing), Some(held))
        }
    };
    let train_anonymous_bytes = held.map_or(0, Anonymous::more);
    let train_most_bytes = held.map_or(0, |held| held.most);
    let prefill_ms = time(repeats, || decoder.read(&Variant::Base, &mut KvCache::new(), &tokens).map(drop))?;
    let mut cache = KvCache::new();
    decoder.read(&Variant::Base, &mut cache, &tokens)?;
    let token_ms = time(repeats, || {
        cache.truncate(length);
        (0..TOKENS).try_for_each(|at| decoder.read(&Variant::Base, &mut cache, &[tokens[at % length]]).map(drop))
    })?;
    let token_ms = token_ms.times(1.0 / TOKENS as f64);
    Ok(TextReport { tokens: length, prefill_ms, token_ms, train_step_ms, train_anonymous_bytes, train_most_bytes })
}

/// A training step on a text whose second half is an answer; and what it takes of memory.
fn train(engine: &Engine, sites: &SiteKey, tokens: Vec<u32>, options: TextOptions) -> Result<(Timing, Anonymous)> {
    let (timing, held) = most_anonymous(|| steps(engine, sites, tokens, &options, |step| time(options.repeats, step)))?;
    Ok((timing?, held))
}

/// Where training steps spend their time.
pub(super) fn profile(base: &Arc<Base>, sites: &SiteKey, options: &TextOptions) -> Result<Vec<(Place, Spent)>> {
    let Reading { engine, tokens, .. } = Reading::of(base, options.length, options.threads)?;
    let all = |step: &mut dyn FnMut() -> Result<()>| (0..options.repeats.runs.max(1)).try_for_each(|_| step());
    let (result, spent) = record(|| (), |()| steps(&engine, sites, tokens, options, all));
    result.map(|()| spent)
}

/// What `with` makes of training steps on a text whose second half is an answer.
pub(super) fn steps<T>(
    engine: &Engine,
    sites: &SiteKey,
    tokens: Vec<u32>,
    options: &TextOptions,
    with: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<T>,
) -> Result<T> {
    let context = tokens.len();
    let start = (tokens.len() / ANSWER).max(1);
    let said = Said::Edit { edited: Text { tokens, start }, original: None };
    let example = LanguageExample { said, messages: [0; 32], conversation: 0, at_ms: 0, fresh: true };
    let recipe = Recipe { gradient_checkpointing: options.gradient_checkpointing, ..Recipe::default() };
    let keeps = if recipe.gradient_checkpointing { Keeps::Checkpoints } else { kept(Task::CausalLm) };
    let losses = Losses { rehearsal: 0.0, ..Losses::default() };
    on_cores(options.threads, || {
        let trainer = TextTrainer::new(TextPasses::new(engine, context)?, sites, (Trains::Both, keeps));
        let mut fit = TextFit::new(trainer, vec![&example], sites, &recipe, losses)?;
        let mut references = References::default();
        with(&mut || fit.step(&[0], &mut references, 1e-4).map(drop))
    })
}
