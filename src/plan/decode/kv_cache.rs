//! Keys and values of the positions that a model has read.

use tract_core::internal::*;

use crate::base::{Base, guarded};
use crate::error::{ErrorKind, Result};
use crate::ops::append;

/// The least capacity that plans are compiled for, and the next one; then it doubles. Attention reads all of it, and it
/// takes memory, so it is not the largest from the start.
const FIRST: usize = 128;
const NEXT: usize = 512;

/// The least capacity for `positions`, no larger than the model's context if that is known.
pub(super) fn capacity(positions: usize, context: usize) -> usize {
    let enough = if positions <= FIRST { FIRST } else { positions.next_power_of_two().max(NEXT) };
    enough.min(context.max(positions))
}

/// The KV cache of one conversation: what was computed of the tokens that were read, so that each is read once.
pub(crate) struct KvCache {
    /// Tokens that are in the cache, in order.
    tokens: Vec<u32>,
    /// Of each entry of the model, `[1, heads, capacity, width]`; the rows after the tokens hold nothing.
    pub(super) entries: Vec<Tensor>,
    pub(super) capacity: usize,
}

impl KvCache {
    /// Without tokens.
    pub fn new() -> KvCache {
        KvCache { tokens: vec![], entries: vec![], capacity: 0 }
    }

    /// The tokens that are in it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all but the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    /// Makes room for `positions` in all.
    pub(super) fn reserve(&mut self, base: &Base, positions: usize, context: usize) -> Result<()> {
        if positions <= self.capacity && self.entries.len() == base.cache().len() {
            return Ok(());
        }
        let wanted = capacity(positions, context);
        let entries = guarded(ErrorKind::Internal, "cannot make room in the KV cache", || {
            let entry = |(ix, of): (usize, &crate::base::CacheEntry)| {
                let mut grown = Tensor::zero::<f32>(&[1, of.heads, wanted, of.width])?;
                if let Some(old) = self.entries.get(ix) {
                    append(&mut grown, old, 0)?;
                }
                Ok(grown)
            };
            base.cache().iter().enumerate().map(entry).collect::<TractResult<Vec<_>>>()
        })?;
        (self.entries, self.capacity) = (entries, wanted);
        Ok(())
    }

    /// Takes `tokens` whose keys and values are those rows of `new`, one tensor an entry.
    pub(super) fn take(&mut self, tokens: &[u32], new: &[TValue]) -> Result<()> {
        let at = self.tokens.len();
        guarded(ErrorKind::Internal, "cannot fill the KV cache", || {
            ensure!(new.len() == self.entries.len(), "{} tensors for {} entries", new.len(), self.entries.len());
            for (entry, new) in self.entries.iter_mut().zip(new) {
                append(entry, &new.slice(2, 0, tokens.len())?, at)?;
            }
            Ok(())
        })?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Takes a token whose keys and values are written already.
    pub(super) fn took(&mut self, token: u32, entries: Vec<Tensor>) {
        self.entries = entries;
        self.tokens.push(token);
    }

    /// Takes tokens of a model that keeps nothing of them.
    pub(super) fn took_all(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Copies of the entries with the first `length` tokens from row `start` on, in tensors of `positions` rows.
    pub(super) fn placed(&self, length: usize, positions: usize, start: usize) -> TractResult<Vec<TValue>> {
        let one = |entry: &Tensor| {
            let &[_, heads, _, width] = entry.shape() else { bail!("an entry of {:?}", entry.shape()) };
            let mut padded = Tensor::zero::<f32>(&[1, heads, positions, width])?;
            if length > 0 {
                append(&mut padded, &entry.slice(2, 0, length)?, start)?;
            }
            Ok(padded.into_tvalue())
        };
        self.entries.iter().map(one).collect()
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvCache({} of {})", self.tokens.len(), self.capacity)
    }
}
