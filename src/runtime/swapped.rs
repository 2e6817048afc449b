//! Labels that swapped their meaning: what was said before teaches nothing any more.

use super::doubts::LeftOut;
use crate::adapt::fit::{Target, TrainingExample};
use crate::adapt::swaps::{self, Swap};
use crate::error::Result;
use crate::input::Example;
use crate::journal::InteractionId;
use crate::plan::{Engine, Variant};

/// Two labels that feedback uses the other way round from some time on, by inputs that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swapped {
    /// The two labels.
    pub labels: (String, String),
    /// The first feedback that uses them in the newer way is on this interaction.
    pub since: InteractionId,
    /// When it was given, in milliseconds since 1970.
    pub since_ms: u64,
    /// The interactions whose older feedback on the two teaches nothing any more, in order of time.
    pub left_out: Vec<InteractionId>,
}

/// Looks for swaps in the frozen features of what is taught. Runs the base model only if there is enough feedback to
/// find one.
pub(super) fn find(
    taught: &[TrainingExample],
    engine: &Engine,
    threads: usize,
    micro_batch: usize,
) -> Result<Vec<Swap>> {
    let classes: Vec<Option<usize>> = taught.iter().map(said).collect();
    if !swaps::may_be(&classes) {
        return Ok(vec![]);
    }
    let examples: Vec<&Example> = taught.iter().map(|t| &t.example).collect();
    let rows = engine.many(&Variant::Base, &examples, threads, micro_batch)?;
    Ok(swaps::find(&classes, &rows.features))
}

fn said(example: &TrainingExample) -> Option<usize> {
    match example.target {
        Target::Class(class) => Some(class),
        Target::Not(_) | Target::Keep(_) => None,
    }
}

/// As the profile keeps them.
pub(super) fn left_out(swapped: &[Swapped]) -> Vec<LeftOut> {
    let of = |s: &Swapped, id: &InteractionId| LeftOut {
        id: id.to_string(),
        labels: s.labels.clone(),
        since: s.since.to_string(),
    };
    swapped.iter().flat_map(|s| s.left_out.iter().map(|id| of(s, id)).collect::<Vec<_>>()).collect()
}
