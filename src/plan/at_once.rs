//! How many examples a pass takes at once.

use tract_core::internal::{TypedFact, TypedNode};
use tract_core::ops::konst::Const;

use crate::base::{Base, Bucket};

/// The largest values that pass between the operators of all examples together. Larger ones leave the cache between one
/// operator and the next (docs/performance.md has measurements).
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(name: &str) -> Base {
        Base::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    #[test]
    fn small_values_pass_together_and_large_ones_do_not() {
        let base = open("models/har_cnn.onnx");
        assert_eq!((at_once(&base, 8), at_once(&base, 1)), (8, 1));
        let most = at_once(&base, usize::MAX);
        let model = base.concrete(&Bucket { batch: 1, sequence: 0, past: 0 }).unwrap();
        let values = model.nodes().iter().filter(|n| !n.op_is::<Const>()).flat_map(|n| &n.outputs);
        let largest = values.map(|o| bytes(&o.fact)).max().unwrap();
        // One more would be too large.
        assert!(most as u64 * largest <= CACHED && (most as u64 + 1) * largest > CACHED, "{most} of {largest}");
        // Texts are not cut.
        assert_eq!(at_once(&open("models/intents_encoder.onnx"), usize::MAX), usize::MAX);
    }
}
