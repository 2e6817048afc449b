//! What goes when a journal is larger than it may be: the oldest interactions without feedback, a segment at a time.

use std::collections::HashSet;

use super::record::InteractionId;
use super::rewrite::Change;
use super::writer::JournalWriter;
use crate::error::Result;

/// Interactions without feedback that stay whatever the limit, the latest.
pub const ALWAYS_KEPT: usize = 256;
/// A segment is at most this part of the limit, so that one that goes makes room, and no more than that.
pub(super) const PARTS: u64 = 8;

/// Drops from the oldest segments what has no feedback, until all files together have at most `limit` bytes or nothing is left
/// that may go; the segments with the latest `always_kept` of them stay whole. To be called with the profile's short lock held.
pub(super) fn shrink(writer: &mut JournalWriter, limit: u64, always_kept: usize) -> Result<()> {
    let mut left = writer.bytes();
    if left <= limit {
        return Ok(());
    }
    let state = writer.state();
    let kept: HashSet<InteractionId> = state.latest_unspoken(always_kept)?.into_iter().map(|i| i.id).collect();
    let (mut going, mut touched) = (HashSet::new(), HashSet::new());
    for info in state.segments().into_iter().filter(|info| !info.spoken_only) {
        let silent = state.unspoken_in(info.number)?;
        // As far as lengths tell before the file is written.
        if left <= limit || silent.iter().any(|id| kept.contains(id)) {
            break;
        }
        going.extend(silent);
        touched.insert(info.number);
        left = left.saturating_sub(info.bytes);
    }
    if touched.is_empty() {
        return Ok(());
    }
    // What is left of an earlier time is small, and becomes one segment with what is left now.
    let small = writer.size().bytes / 2;
    let listed = state.segments();
    let earlier = listed.iter().take_while(|info| !touched.contains(&info.number));
    let earlier: Vec<u32> = earlier.filter(|i| i.spoken_only && i.bytes < small).map(|i| i.number).collect();
    touched.extend(earlier);
    writer.rewrite(&Change {
        touches: &|segment| Ok(touched.contains(&segment.info.number)),
        keep: &|record| record.interaction().is_none_or(|id| !going.contains(&id)),
        spoken_only: true,
        seal: false,
    })
}
