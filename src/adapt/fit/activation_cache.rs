//! What enters the trained part of a model, kept by training example from one epoch to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::plan::Batch;
use crate::sync::lock;

/// A training example at a padded sequence length.
pub(super) type Place = (usize, usize);

/// Rows of entered batches up to a number of bytes; rows that find no room are computed anew at each use.
pub(crate) struct Kept {
    limit: usize,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    by_place: HashMap<Place, Arc<Batch>>,
    bytes: usize,
}

impl Kept {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Kept {
        Kept { limit, rows: Mutex::default() }
    }

    /// The batch of `size` rows with these training examples, if all are kept; its last row fills it up.
    pub fn batch(&self, places: &[Place], size: usize) -> Result<Option<Batch>> {
        let found: Option<Vec<Arc<Batch>>> = {
            let rows = lock(&self.rows);
            places.iter().map(|p| rows.by_place.get(p).cloned()).collect()
        };
        let Some(found) = found else { return Ok(None) };
        let mut parts: Vec<&Batch> = found.iter().map(|b| &**b).collect();
        let Some(&last) = parts.last() else { return Ok(None) };
        parts.resize(size, last);
        Batch::stack(&parts).map(Some)
    }

    /// Keeps the rows of an entered batch of `size` rows, the first of which are these training examples.
    pub fn keep(&self, places: &[Place], size: usize, batch: &Batch) -> Result<()> {
        if lock(&self.rows).bytes >= self.limit {
            return Ok(());
        }
        let parts = batch.rows(size)?;
        let mut rows = lock(&self.rows);
        for (place, row) in places.iter().zip(parts) {
            let bytes = row.bytes();
            if rows.bytes + bytes <= self.limit && !rows.by_place.contains_key(place) {
                rows.bytes += bytes;
                rows.by_place.insert(*place, Arc::new(row));
            }
        }
        Ok(())
    }
}
