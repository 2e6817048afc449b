//! Times a causal language model on one text: reading it, going on with it, training on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;

use super::bench_timing::{Timing, time};
use crate::adapt::fit::Recipe;
use crate::adapt::language::{LanguageExample, Losses, References, Said, TextFit};
use crate::adapt::select::kept;
use crate::adapter::Pooling;
use crate::base::{Base, Task};
use crate::error::{Error, Result};
use crate::plan::{Decoder, Engine, Keeps, KvCache, SiteKey, Text, TextPasses, TextTrainer, Trains, Variant};
use crate::process::status_bytes;
use crate::profile::{Place, Spent, record};
use crate::stats::random::keyed_rng;
use crate::sync::on_cores;

/// Tokens that are generated to time one.
const TOKENS: usize = 8;
/// Part of a text that is an answer.
const ANSWER: usize = 2;
/// Time between two looks at the memory of the process.
const PAUSE: Duration = Duration::from_millis(2);
/// Ids of the tokens are below this, and below what the model has.
const IDS: usize = 100;

/// Ends the watch of the memory, however the measurement ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A causal language model on one text; times in milliseconds.
#[derive(Debug, Clone, Copy)]
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
}

/// How to measure.
#[derive(Clone, Copy)]
pub(super) struct TextOptions {
    /// Tokens of the text, where the model has as many positions.
    pub length: usize,
    pub threads: usize,
    pub repeats: usize,
    /// Whether a training step keeps less between the passes.
    pub gradient_checkpointing: bool,
    /// Whether to say where training steps spend their time.
    pub profile: bool,
}

/// Where time was spent.
type Profile = Vec<(Place, Spent)>;

/// Measures `base` with low-rank factors at `sites`.
pub(super) fn time_text(base: &Arc<Base>, sites: &SiteKey, options: TextOptions) -> Result<(TextReport, Profile)> {
    let TextOptions { length, threads, repeats, .. } = options;
    let decoder = Decoder::new(base.clone(), length + 2 * TOKENS, threads)?;
    let length = length.min(decoder.context().saturating_sub(2 * TOKENS)).max(2);
    let mut rng = keyed_rng(0, 0, 0);
    let engine = Engine::new(base.clone(), Task::CausalLm, Pooling::None);
    let ids = TextPasses::new(&engine, length)?.vocabulary().unwrap_or(IDS).clamp(1, IDS);
    let tokens: Vec<u32> = (0..length).map(|_| rng.random_range(0..ids) as u32).collect();
    let (train_step_ms, train_anonymous_bytes, profile) = match sites.is_empty() {
        true => (None, 0, vec![]),
        false => {
            let (timing, bytes, profile) = train(&engine, sites, tokens.clone(), options)?;
            (Some(timing), bytes, profile)
        }
    };
    let prefill_ms = time(repeats, || decoder.read(&Variant::Base, &mut KvCache::new(), &tokens).map(drop))?;
    let mut cache = KvCache::new();
    decoder.read(&Variant::Base, &mut cache, &tokens)?;
    let token_ms = time(repeats, || {
        cache.truncate(length);
        (0..TOKENS).try_for_each(|at| decoder.read(&Variant::Base, &mut cache, &[tokens[at % length]]).map(drop))
    })?;
    let token_ms = token_ms.over(TOKENS as f64);
    Ok((TextReport { tokens: length, prefill_ms, token_ms, train_step_ms, train_anonymous_bytes }, profile))
}

/// A training step on a text whose second half is an answer; what it takes of memory that no file backs; and where
/// steps spend their time, if asked for.
fn train(engine: &Engine, sites: &SiteKey, tokens: Vec<u32>, options: TextOptions) -> Result<(Timing, u64, Profile)> {
    let anonymous = || status_bytes("/proc/self/status", "RssAnon:");
    let before = anonymous();
    let context = tokens.len();
    let start = (tokens.len() / ANSWER).max(1);
    let said = Said::Edit { edited: Text { tokens, start }, original: None };
    let example = LanguageExample { said, messages: [0; 32], at_ms: 0, fresh: true };
    let recipe = Recipe { gradient_checkpointing: options.gradient_checkpointing, ..Recipe::default() };
    let keeps = if recipe.gradient_checkpointing { Keeps::Checkpoints } else { kept(Task::CausalLm) };
    let losses = Losses { rehearsal: 0.0, ..Losses::default() };
    let fit = || {
        let trainer = TextTrainer::new(TextPasses::new(engine, context)?, sites, (Trains::Both, keeps));
        TextFit::new(trainer, vec![&example], sites, &recipe, losses)
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(anonymous());
                std::thread::sleep(PAUSE);
            }
            most
        });
        let end = Done(&done);
        let timing = on_cores(options.threads, || {
            let (mut fit, mut references) = (fit()?, References::default());
            time(options.repeats, || fit.step(&[0], &mut references, 1e-4).map(drop))
        });
        drop(end);
        let most = most.join().map_err(|_| Error::internal("the memory could not be watched"))?;
        // Only plans that are compiled while it records are watched.
        engine.drop_train_plans();
        let profile = match options.profile {
            true => on_cores(options.threads, || {
                let mut references = References::default();
                let mut step = |fit: &mut TextFit<'_>| fit.step(&[0], &mut references, 1e-4).map(drop);
                let (result, spent) = record(fit, |fit| {
                    let mut fit = fit?;
                    (0..options.repeats.max(1)).try_for_each(|_| step(&mut fit))
                });
                result.map(|()| spent)
            })?,
            false => vec![],
        };
        Ok((timing?, most.saturating_sub(before), profile))
    })
}
