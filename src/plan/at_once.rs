//! How many examples a pass takes at once.

use tract_core::internal::{TypedFact, TypedNode};
use tract_core::ops::konst::Const;

use crate::base::{Base, Bucket};

/// The largest values that pass between the operators of all examples together. Larger ones would leave the cache
/// between one operator and the next, which takes longer than what one pass over several examples saves.
const CACHED: u64 = 4 << 20;

/// How many examples of `base` a pass takes at once, `most` at most. Of sequences it takes all: their weights are
/// larger than their values, and each pass reads the weights.
pub(crate) fn at_once(base: &Base, most: usize) -> usize {
    if most < 2 || base.has_sequence() || base.fixed_batch().is_some() {
        return most;
    }
    let one = Bucket { batch: 1, sequence: 0, past: 0 };
    let Ok(model) = base.concrete(&one) else { return most };
    let made = |node: &&TypedNode| !node.op_is::<Const>();
    let values = model.nodes().iter().filter(made).flat_map(|node| &node.outputs).filter(|o| o.fact.konst.is_none());
    let largest = values.map(|o| bytes(&o.fact)).max().unwrap_or(0);
    usize::try_from(CACHED / largest.max(1)).unwrap_or(most).clamp(1, most)
}

/// Bytes of a value; none while its shape is open.
pub(super) fn bytes(fact: &TypedFact) -> u64 {
    fact.shape
        .as_concrete()
        .map_or(0, |shape| shape.iter().fold(fact.datum_type.size_of() as u64, |all, &d| all.saturating_mul(d as u64)))
}
