//! A causal language model, run token by token over a KV cache.
//!
//! Plans are compiled for definite sizes, and a cache grows with every token. So there are plans for few sizes:
//! - a *block* reads several tokens at once behind a cache that is filled up on its left, as a batch of texts of
//!   several lengths is padded. A model that is not told positions may count them by the length of its cache. So a
//!   block of some tokens is compared with a pass over them. A model of which it is wrong, or one without a mask,
//!   has no use of a cache, and reads everything again;
//! - a *step* reads one token and writes its keys and values into the cache where it lies, behind those of the
//!   tokens before. Nothing is copied. What the rows after them hold is masked. A model to which the place of a row
//!   in the cache matters (one that looks back over a window) reads single tokens by blocks: at each capacity a
//!   step is compared with one whose cache is filled up on its left.

mod feed;
mod graph;
mod kv_cache;
#[cfg(test)]
mod padded_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tract_core::internal::*;

use self::feed::Places;
pub(super) use self::graph::vocabulary;
pub(crate) use self::kv_cache::KvCache;
use super::SiteKey;
use super::cache::{PlanCache, limit};
use super::decode_plans::{DecodePlans, PLANS, Plan, Step, Tried};
use super::graph::Deltas;
use super::variant::Variant;
use crate::adapter::SiteDelta;
use crate::base::{Base, Bucket, Dim, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Role;
use crate::sync::on_cores;

/// Tokens that a block reads behind a cache.
const BLOCKS: [usize; 3] = [8, 32, 128];
/// Tokens that the first block of a conversation reads, as many times this.
const FIRST: usize = 32;
/// Tokens of each of two blocks that are tried.
const SAMPLE: usize = 3;
/// Lengths at which a text is read again are multiples of this.
const REREAD: usize = 32;
/// How far a step's hidden state may be from a block's, of its largest number.
const SAME: f32 = 1e-3;

/// The plans of a language model; shared by all conversations.
pub(crate) struct Decoder {
    base: Arc<Base>,
    cores: usize,
    /// Positions that the model has, as far as it is known.
    context: usize,
    /// Of the base, and with low-rank inputs.
    plans: DecodePlans,
    vocabulary: PlanCache<usize, Plan>,
    /// Whether blocks behind a cache that is filled up answer as a pass over everything does.
    caches: Tried,
}

/// A forward pass and its plans.
#[derive(Clone, Copy)]
struct Way<'a> {
    plans: &'a DecodePlans,
    sites: &'a SiteKey,
    factors: &'a [TValue],
    merged: Option<&'a [SiteDelta]>,
}

impl Way<'_> {
    fn deltas(&self) -> Deltas<'_> {
        match self.merged {
            Some(deltas) => Deltas::Merged(deltas),
            None => Deltas::Inputs(self.sites),
        }
    }
}

impl Decoder {
    /// For a model of `context` positions, run on `cores`.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedModel`] where the model has inputs that no text fills, or reads several texts at a time.
    pub fn new(base: Arc<Base>, context: usize, cores: usize) -> Result<Decoder> {
        feed::check(&base)?;
        let rows = [base.position_rows(), base.rotary_rows()].into_iter().flatten().min();
        let context = context.min(rows.unwrap_or(usize::MAX));
        let caches = Tried::default();
        let has = |role: Role| base.roles().contains(&role);
        if base.cache().is_empty() || !has(Role::Mask) {
            // Rows that are filled up could not be hidden.
            caches.set(false);
        } else if has(Role::Positions) || base.rotary_rows().is_some() {
            // Positions are told, or taken from the mask.
            caches.set(true);
        }
        Ok(Decoder {
            cores,
            context,
            caches,
            plans: DecodePlans::new(&base),
            vocabulary: PlanCache::new(limit(&base, PLANS), Plan::bytes),
            base,
        })
    }

    /// Most positions of a conversation.
    pub fn context(&self) -> usize {
        self.context
    }

    fn way<'a>(&'a self, variant: &Variant<'a>) -> Way<'a> {
        const NONE: &SiteKey = &SiteKey::new();
        let plans = &self.plans;
        match variant {
            Variant::Base => Way { plans, sites: NONE, factors: &[], merged: None },
            Variant::Adapted(sites, factors) => Way { plans, sites, factors: &factors.0, merged: None },
            Variant::Merged(merged) => {
                Way { plans: &merged.decode, sites: NONE, factors: &[], merged: Some(&merged.deltas) }
            }
        }
    }

    /// Reads `tokens` after those in `cache`, which takes them, and gives the scores of the token after the last
    /// one, as many as the vocabulary has. What the cache holds was read by the same forward pass. A cache that is left
    /// by a failure holds no tokens.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`] where a token is none of the model's, or there are more than the context has
    /// positions for.
    pub fn read(&self, variant: &Variant, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>> {
        self.read_while(variant, cache, tokens, &mut || true)
    }

    /// [`Decoder::read`], which asks between blocks of many tokens whether it is to go on.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] where it is not; the cache then holds what was read so far.
    pub fn read_while(
        &self,
        variant: &Variant,
        cache: &mut KvCache,
        tokens: &[u32],
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<f32>> {
        let way = self.way(variant);
        self.check(cache.tokens().len(), tokens)?;
        let hidden = on_cores(self.cores, || {
            if self.caches.known().is_none() {
                self.try_cache(tokens);
            }
            match self.caches.known() {
                Some(true) => self.read_on(way, cache, tokens, goes_on),
                _ => self.reread(way, cache, tokens),
            }
        });
        let scores = hidden.and_then(|hidden| on_cores(self.cores, || self.scores(hidden)));
        scores.inspect_err(|e| {
            if e.kind() != ErrorKind::Interrupted {
                *cache = KvCache::new();
            }
        })
    }

    fn check(&self, before: usize, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::internal("no token to read"));
        }
        if before + tokens.len() > self.context {
            let what = format!("{} tokens, of which the model's context holds {}", before + tokens.len(), self.context);
            return Err(Error::bad_data(what).hint("shorten the text, or begin a new conversation"));
        }
        self.knows(tokens)
    }

    /// How many tokens the model has embeddings and scores of; none where that does not show.
    pub fn tokens(&self) -> Option<usize> {
        let ids = self.base.roles().iter().position(|role| *role == Role::Ids).unwrap_or(0);
        let rows = self.base.tables(ids).iter().filter_map(|t| t.least(usize::MAX));
        let scored = self.base.outputs().first().and_then(|port| match port.dims.last() {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        });
        rows.filter_map(|rows| usize::try_from(rows).ok()).chain(scored).min()
    }

    /// # Errors
    /// [`ErrorKind::BadData`] where one of `tokens` is none of the model's.
    pub fn knows(&self, tokens: &[u32]) -> Result<()> {
        let rows = self.tokens().unwrap_or(usize::MAX);
        match tokens.iter().find(|token| **token as usize >= rows) {
            None => Ok(()),
            Some(token) => Err(Error::bad_data(format!("the token {token}, of a model that has {rows}"))
                .hint("the tokenizer must be the model's own")),
        }
    }

    /// The hidden state of the last token, with a cache that is kept.
    fn read_on(
        &self,
        way: Way,
        cache: &mut KvCache,
        tokens: &[u32],
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Tensor> {
        cache.reserve(&self.base, cache.tokens().len() + tokens.len(), self.context)?;
        if let ([token], false) = (tokens, cache.tokens().is_empty()) {
            let step = self.compiled_step(way, cache.capacity)?;
            if step.in_place.known().is_none() {
                self.try_step(way, &step, cache, *token)?;
            }
            if let (Some(plan), Some(true)) = (&step.plan, step.in_place.known()) {
                return self.step(way, plan, cache, *token);
            }
        }
        if cache.tokens().is_empty() {
            // What answers is compiled while the prompt is read.
            return std::thread::scope(|scope| {
                let capacity = cache.capacity;
                scope.spawn(move || self.compiled_step(way, capacity).is_ok());
                self.read_blocks(way, cache, tokens, goes_on)
            });
        }
        self.read_blocks(way, cache, tokens, goes_on)
    }

    /// The hidden state of the last token, several tokens at a time.
    fn read_blocks(
        &self,
        way: Way,
        cache: &mut KvCache,
        tokens: &[u32],
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Tensor> {
        let mut hidden = None;
        for block in tokens.chunks(BLOCKS[BLOCKS.len() - 1]) {
            if hidden.is_some() && !goes_on() {
                return Err(Error::new(ErrorKind::Interrupted, "reading was stopped"));
            }
            hidden = Some(self.block(way, cache, block)?);
        }
        hidden.ok_or_else(|| Error::internal("no token to read"))
    }

    /// Finds out whether a block behind a cache that is filled up answers as a pass over everything, with some of
    /// `tokens`.
    fn try_cache(&self, tokens: &[u32]) {
        let way = self.way(&Variant::Base);
        let sample: Vec<u32> = tokens.iter().copied().cycle().take(2 * SAMPLE).collect();
        let both = || -> Result<[Tensor; 2]> {
            let mut cache = KvCache::new();
            cache.reserve(&self.base, sample.len(), self.context)?;
            self.block(way, &mut cache, &sample[..SAMPLE])?;
            Ok([self.block(way, &mut cache, &sample[SAMPLE..])?, self.pass(way, &sample)?])
        };
        // A model that cannot be run so has no use of a cache either.
        self.caches.set(both().is_ok_and(|[behind, whole]| near(&behind, &whole)));
    }

    /// Finds out whether a step answers the same wherever the rows of the tokens before lie, with the first tokens of
    /// `cache`, of which there are some.
    fn try_step(&self, way: Way, step: &Step, cache: &KvCache, token: u32) -> Result<()> {
        let Some(plan) = &step.plan else { return Ok(()) };
        let (capacity, last) = (cache.capacity, cache.capacity - 1);
        let before = cache.tokens().len().min(capacity / 4).max(1);
        let placed = |start: usize| {
            guarded(ErrorKind::Internal, "cannot read the KV cache", || cache.placed(before, capacity, start))
        };
        let (wanted, _) = self.run_step(way, plan, capacity, before, last, placed(last - before)?, token)?;
        let (hidden, _) = self.run_step(way, plan, capacity, before, before, placed(0)?, token)?;
        step.in_place.set(near(&wanted, &hidden));
        Ok(())
    }

    /// The hidden state of the last token of a model without a cache: everything is read again.
    fn reread(&self, way: Way, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
        cache.took_all(tokens);
        self.pass(way, cache.tokens())
    }

    /// The hidden state of the last token of a pass over all of them.
    fn pass(&self, way: Way, tokens: &[u32]) -> Result<Tensor> {
        let sequence = tokens.len().next_multiple_of(REREAD).min(self.context.max(tokens.len()));
        let (hidden, _) = self.run_block(way, &Bucket { batch: 1, sequence, past: 0 }, tokens, 0, vec![])?;
        Ok(hidden)
    }

    /// The hidden state of the last of `tokens`, at most a block.
    fn block(&self, way: Way, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
        let before = cache.tokens().len();
        let sequence = match before {
            0 => tokens.len().next_multiple_of(FIRST),
            _ => BLOCKS.into_iter().find(|n| *n >= tokens.len()).unwrap_or(tokens.len()),
        };
        // Padding stays within the model's positions, too.
        let sequence = sequence.min(self.context.saturating_sub(before)).max(tokens.len());
        let past = match before {
            0 => 0,
            _ => kv_cache::capacity(before, self.context).min(self.context.saturating_sub(sequence)).max(before),
        };
        let entries = match past {
            0 => vec![],
            past => {
                guarded(ErrorKind::Internal, "cannot read the KV cache", || cache.placed(before, past, past - before))?
            }
        };
        let (hidden, new) = self.run_block(way, &Bucket { batch: 1, sequence, past }, tokens, before, entries)?;
        cache.take(tokens, &new)?;
        Ok(hidden)
    }

    /// The hidden state of the last of `tokens`, and all new keys and values.
    fn run_block(
        &self,
        way: Way,
        bucket: &Bucket,
        tokens: &[u32],
        before: usize,
        entries: Vec<TValue>,
    ) -> Result<(Tensor, Vec<TValue>)> {
        let base = &self.base;
        let compile = || Plan::new(base, graph::trunk(base, bucket, &way.deltas())?, "prefill");
        let plan = way.plans.blocks.get((way.sites.clone(), bucket.clone()), compile)?;
        guarded(ErrorKind::Internal, "reading tokens failed", || {
            let mut inputs = feed::inputs(base, &plan.inputs, tokens, Places { bucket, before, from_start: false })?;
            inputs.extend(entries);
            inputs.extend(way.factors.iter().cloned());
            let mut values = plan.run(inputs)?.into_iter();
            let hidden = values.next().context("the plan lost its hidden state")?;
            Ok((hidden.slice(1, tokens.len() - 1, tokens.len())?, values.collect()))
        })
    }

    fn compiled_step(&self, way: Way, capacity: usize) -> Result<Arc<Step>> {
        way.plans.steps.get((way.sites.clone(), capacity), || self.compile_step(way, capacity))
    }

    fn compile_step(&self, way: Way, capacity: usize) -> Result<Step> {
        let model = graph::step(&self.base, capacity, &way.deltas())?;
        let plan = model.map(|model| Plan::new(&self.base, model, "decode")).transpose()?;
        Ok(Step { plan, in_place: Tried::default() })
    }

    /// The hidden state of a token whose keys and values are written into the cache.
    fn step(&self, way: Way, plan: &Plan, cache: &mut KvCache, token: u32) -> Result<Tensor> {
        let before = cache.tokens().len();
        let entries = std::mem::take(&mut cache.entries).into_iter().map(Tensor::into_tvalue).collect();
        let (hidden, entries) = self.run_step(way, plan, cache.capacity, before, before, entries, token)?;
        cache.took(token, entries);
        Ok(hidden)
    }

    /// The hidden state of a token after `before` others, and the cache with its keys and values in row `row`: behind
    /// those others, or in the last row behind a cache that is filled up on its left.
    #[allow(clippy::too_many_arguments)]
    fn run_step(
        &self,
        way: Way,
        plan: &Plan,
        capacity: usize,
        before: usize,
        row: usize,
        entries: Vec<TValue>,
        token: u32,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let bucket = Bucket { batch: 1, sequence: 1, past: capacity - 1 };
        let places = Places { bucket: &bucket, before, from_start: row == before };
        guarded(ErrorKind::Internal, "reading a token failed", || {
            let mut inputs = feed::inputs(&self.base, &plan.inputs, &[token], places)?;
            inputs.extend(entries);
            inputs.push(tensor0(row as i64).into_tvalue());
            inputs.extend(way.factors.iter().cloned());
            let mut values = plan.run(inputs)?.into_iter();
            let hidden = values.next().context("the plan lost its hidden state")?.into_tensor();
            Ok((hidden, values.map(TValue::into_tensor).collect()))
        })
    }

    fn scores(&self, hidden: Tensor) -> Result<Vec<f32>> {
        let compile = || Plan::new(&self.base, vocabulary(&self.base, 1)?, "vocabulary");
        let plan = self.vocabulary.get(1, compile)?;
        guarded(ErrorKind::Internal, "scoring the next token failed", || {
            let scores = plan.run(vec![hidden.into_tvalue()])?.remove(0);
            let scores = scores.cast_to::<f32>()?;
            Ok(scores.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
        })
    }
}

/// Whether two hidden states are the same but for rounding.
fn near(a: &Tensor, b: &Tensor) -> bool {
    let values = |t: &Tensor| t.to_plain_array_view::<f32>().map(|v| v.iter().copied().collect::<Vec<f32>>());
    let (Ok(a), Ok(b)) = (values(a), values(b)) else { return false };
    let most = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= SAME * most)
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({:?}, {} positions)", self.base, self.context)
    }
}
