//! What enters the trained part of a language model, kept by text: the layers before the first trained site compute the
//! same in every epoch of every fit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{Batch, Text};
use crate::error::Result;
use crate::sync::lock;

/// Entered batches up to a number of bytes, of one model trained at the same sites each time; a text that finds no
/// room is computed anew at each pass. Clones share them.
#[derive(Clone)]
pub(crate) struct EnteredTexts {
    limit: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    by_text: HashMap<Text, Batch>,
    bytes: usize,
}

impl EnteredTexts {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> EnteredTexts {
        EnteredTexts { limit, kept: Arc::default() }
    }

    /// What enters for `text`: kept, or computed by `enter`.
    pub fn of(&self, text: &Text, enter: impl FnOnce() -> Result<Batch>) -> Result<Batch> {
        if let Some(batch) = lock(&self.kept).by_text.get(text) {
            return Ok(batch.clone());
        }
        let batch = enter()?;
        let (bytes, mut kept) = (batch.bytes(), lock(&self.kept));
        if kept.bytes + bytes <= self.limit {
            kept.bytes += bytes;
            kept.by_text.insert(text.clone(), batch.clone());
        }
        Ok(batch)
    }

    /// Texts that are kept, and their bytes.
    #[cfg(test)]
    pub fn held(&self) -> (usize, usize) {
        let kept = lock(&self.kept);
        (kept.by_text.len(), kept.bytes)
    }
}
