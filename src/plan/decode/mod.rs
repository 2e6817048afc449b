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
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tract_core::internal::*;

use self::feed::Places;
pub(crate) use self::kv_cache::KvCache;
use super::cache::PlanCache;
use super::compiled::Compiled;
use super::engine::limit;
use crate::base::{Base, Bucket, guarded};
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
/// Block and step plans that are kept.
const PLANS: usize = 12;
/// How far a step's hidden state may be from a block's, of its largest number.
const SAME: f32 = 1e-3;

/// The plans of a language model; shared by all conversations.
pub(crate) struct Decoder {
    base: Arc<Base>,
    cores: usize,
    /// Positions that the model has, as far as it is known.
    context: usize,
    blocks: PlanCache<Bucket, Plan>,
    steps: PlanCache<usize, Step>,
    vocabulary: PlanCache<usize, Plan>,
    /// Whether blocks behind a cache that is filled up answer as a pass over everything does.
    caches: Tried,
}

/// What is known of a way to run the model once it was compared with another one.
#[derive(Default)]
struct Tried(AtomicU8);

impl Tried {
    const YES: u8 = 1;
    /// Final, whatever another thread finds.
    const NO: u8 = 2;

    fn known(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            Tried::NO => Some(false),
            Tried::YES => Some(true),
            _ => None,
        }
    }

    fn set(&self, works: bool) {
        self.0.fetch_max(if works { Tried::YES } else { Tried::NO }, Ordering::Relaxed);
    }
}

struct Plan {
    plan: Arc<Compiled>,
    inputs: Vec<TypedFact>,
}

/// The plan of a step, where there can be one, and whether it answers as a block does.
struct Step {
    plan: Option<Plan>,
    in_place: Tried,
}

impl Plan {
    fn new(base: &Base, mut model: TypedModel, what: &'static str) -> Result<Plan> {
        let inputs = guarded(ErrorKind::Internal, "cannot fuse operators", || {
            crate::ops::fuse(&mut model)?;
            (0..model.inputs.len()).map(|ix| model.input_fact(ix).cloned()).collect()
        })?;
        Ok(Plan { plan: Compiled::new(base, model, what)?, inputs })
    }

    fn bytes(&self) -> u64 {
        self.plan.bytes()
    }

    fn run(&self, inputs: Vec<TValue>) -> TractResult<TVec<TValue>> {
        self.plan.state()?.run(inputs.into())
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
            blocks: PlanCache::new(limit(&base, PLANS), Plan::bytes),
            steps: PlanCache::new(limit(&base, PLANS), |step| step.plan.as_ref().map_or(0, Plan::bytes)),
            vocabulary: PlanCache::new(limit(&base, PLANS), Plan::bytes),
            base,
        })
    }

    /// Most positions of a conversation.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Reads `tokens` after those in `cache`, which takes them, and gives the scores of the token after the last
    /// one, as many as the vocabulary has. A cache that is left by a failure holds no tokens.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`] where a token is none of the model's, or there are more than the context has
    /// positions for.
    pub fn read(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check(cache.tokens().len(), tokens)?;
        let hidden = on_cores(self.cores, || {
            if self.caches.known().is_none() {
                self.try_cache(tokens);
            }
            match self.caches.known() {
                Some(true) => self.read_on(cache, tokens),
                _ => self.reread(cache, tokens),
            }
        });
        let scores = hidden.and_then(|hidden| on_cores(self.cores, || self.scores(hidden)));
        scores.inspect_err(|_| *cache = KvCache::new())
    }

    fn check(&self, before: usize, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::internal("no token to read"));
        }
        if before + tokens.len() > self.context {
            let what = format!("{} tokens, of which the model's context holds {}", before + tokens.len(), self.context);
            return Err(Error::bad_data(what).hint("shorten the text, or begin a new conversation"));
        }
        let ids = self.base.roles().iter().position(|role| *role == Role::Ids).unwrap_or(0);
        let rows = self.base.tables(ids).iter().filter_map(|t| t.least(usize::MAX)).min();
        match tokens.iter().find(|token| rows.is_some_and(|rows| i64::from(**token) >= rows)) {
            None => Ok(()),
            Some(token) => {
                Err(Error::bad_data(format!("the token {token}, of a model that has {}", rows.unwrap_or_default()))
                    .hint("the tokenizer must be the model's own"))
            }
        }
    }

    /// The hidden state of the last token, with a cache that is kept.
    fn read_on(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
        cache.reserve(&self.base, cache.tokens().len() + tokens.len(), self.context)?;
        if let ([token], false) = (tokens, cache.tokens().is_empty()) {
            let step = self.steps.get(cache.capacity, || self.compile_step(cache.capacity))?;
            if step.in_place.known().is_none() {
                self.try_step(&step, cache, *token)?;
            }
            if let (Some(plan), Some(true)) = (&step.plan, step.in_place.known()) {
                return self.step(plan, cache, *token);
            }
        }
        if cache.tokens().is_empty() {
            // What answers is compiled while the prompt is read.
            return std::thread::scope(|scope| {
                let capacity = cache.capacity;
                scope.spawn(move || self.steps.get(capacity, || self.compile_step(capacity)).is_ok());
                self.read_blocks(cache, tokens)
            });
        }
        self.read_blocks(cache, tokens)
    }

    /// The hidden state of the last token, several tokens at a time.
    fn read_blocks(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
        let mut hidden = None;
        for block in tokens.chunks(BLOCKS[BLOCKS.len() - 1]) {
            hidden = Some(self.block(cache, block)?);
        }
        hidden.ok_or_else(|| Error::internal("no token to read"))
    }

    /// Finds out whether a block behind a cache that is filled up answers as a pass over everything, with some of
    /// `tokens`.
    fn try_cache(&self, tokens: &[u32]) {
        let sample: Vec<u32> = tokens.iter().copied().cycle().take(2 * SAMPLE).collect();
        let both = || -> Result<[Tensor; 2]> {
            let mut cache = KvCache::new();
            cache.reserve(&self.base, sample.len(), self.context)?;
            self.block(&mut cache, &sample[..SAMPLE])?;
            Ok([self.block(&mut cache, &sample[SAMPLE..])?, self.pass(&sample)?])
        };
        // A model that cannot be run so has no use of a cache either.
        self.caches.set(both().is_ok_and(|[behind, whole]| near(&behind, &whole)));
    }

    /// Finds out whether a step answers the same wherever the rows of the tokens before lie, with the first tokens of
    /// `cache`, of which there are some.
    fn try_step(&self, step: &Step, cache: &KvCache, token: u32) -> Result<()> {
        let Some(plan) = &step.plan else { return Ok(()) };
        let (capacity, last) = (cache.capacity, cache.capacity - 1);
        let before = cache.tokens().len().min(capacity / 4).max(1);
        let placed = |start: usize| {
            guarded(ErrorKind::Internal, "cannot read the KV cache", || cache.placed(before, capacity, start))
        };
        let (wanted, _) = self.run_step(plan, capacity, before, last, placed(last - before)?, token)?;
        let (hidden, _) = self.run_step(plan, capacity, before, before, placed(0)?, token)?;
        step.in_place.set(near(&wanted, &hidden));
        Ok(())
    }

    /// The hidden state of the last token of a model without a cache: everything is read again.
    fn reread(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
        cache.took_all(tokens);
        self.pass(cache.tokens())
    }

    /// The hidden state of the last token of a pass over all of them.
    fn pass(&self, tokens: &[u32]) -> Result<Tensor> {
        let sequence = tokens.len().next_multiple_of(REREAD).min(self.context.max(tokens.len()));
        let (hidden, _) = self.run_block(&Bucket { batch: 1, sequence, past: 0 }, tokens, 0, vec![])?;
        Ok(hidden)
    }

    /// The hidden state of the last of `tokens`, at most a block.
    fn block(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<Tensor> {
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
        let (hidden, new) = self.run_block(&Bucket { batch: 1, sequence, past }, tokens, before, entries)?;
        cache.take(tokens, &new)?;
        Ok(hidden)
    }

    /// The hidden state of the last of `tokens`, and all new keys and values.
    fn run_block(
        &self,
        bucket: &Bucket,
        tokens: &[u32],
        before: usize,
        entries: Vec<TValue>,
    ) -> Result<(Tensor, Vec<TValue>)> {
        let base = &self.base;
        let compile = || Plan::new(base, graph::trunk(base, bucket)?, "prefill");
        let plan = self.blocks.get(bucket.clone(), compile)?;
        guarded(ErrorKind::Internal, "reading tokens failed", || {
            let mut inputs = feed::inputs(base, &plan.inputs, tokens, Places { bucket, before, from_start: false })?;
            inputs.extend(entries);
            let mut values = plan.run(inputs)?.into_iter();
            let hidden = values.next().context("the plan lost its hidden state")?;
            Ok((hidden.slice(1, tokens.len() - 1, tokens.len())?, values.collect()))
        })
    }

    fn compile_step(&self, capacity: usize) -> Result<Step> {
        let model = graph::step(&self.base, capacity)?;
        let plan = model.map(|model| Plan::new(&self.base, model, "decode")).transpose()?;
        Ok(Step { plan, in_place: Tried::default() })
    }

    /// The hidden state of a token whose keys and values are written into the cache.
    fn step(&self, plan: &Plan, cache: &mut KvCache, token: u32) -> Result<Tensor> {
        let before = cache.tokens().len();
        let entries = std::mem::take(&mut cache.entries).into_iter().map(Tensor::into_tvalue).collect();
        let (hidden, entries) = self.run_step(plan, cache.capacity, before, before, entries, token)?;
        cache.took(token, entries);
        Ok(hidden)
    }

    /// The hidden state of a token after `before` others, and the cache with its keys and values in row `row`: behind
    /// those others, or in the last row behind a cache that is filled up on its left.
    fn run_step(
        &self,
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
            let mut values = plan.run(inputs)?.into_iter();
            let hidden = values.next().context("the plan lost its hidden state")?.into_tensor();
            Ok((hidden, values.map(TValue::into_tensor).collect()))
        })
    }

    fn scores(&self, hidden: Tensor) -> Result<Vec<f32>> {
        let compile = || Plan::new(&self.base, graph::vocabulary(&self.base, 1)?, "vocabulary");
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
