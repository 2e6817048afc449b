//! Labels that swapped their meaning: what was said before teaches nothing any more.

use super::doubts::LeftOut;
use super::lessons::Lessons;
use crate::adapt::fit::{Target, TrainingExample};
use crate::adapt::swaps;
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

impl Lessons {
    /// Without what was said about two classes before they swapped their meaning, and without answers of theirs that were
    /// left standing. Looks at the frozen features, and runs the base model only if there is enough feedback to find a swap.
    pub fn without_swapped(mut self, engine: &Engine, threads: usize, micro_batch: usize) -> Result<Lessons> {
        let taught = &self.dataset.training_examples;
        let classes: Vec<Option<usize>> = taught.iter().map(said).collect();
        if !swaps::may_be(&classes) {
            return Ok(self);
        }
        let examples: Vec<&Example> = taught.iter().map(|t| &t.example).collect();
        let rows = engine.many(&Variant::Base, &examples, threads, micro_batch)?;
        let found = swaps::find(&classes, &rows.features);
        let mut kept = vec![true; taught.len()];
        for swap in &found {
            let (a, b) = swap.classes;
            let of_them = |class: usize| class == a || class == b;
            let older: Vec<usize> = (0..swap.since).filter(|&i| of_them(taught[i].target.class())).collect();
            older.iter().for_each(|&i| kept[i] = false);
            self.swapped.push(Swapped {
                labels: (self.labels[a].clone(), self.labels[b].clone()),
                since: self.ids[swap.since],
                since_ms: taught[swap.since].at_ms,
                left_out: older.iter().map(|&i| self.ids[i]).collect(),
            });
            self.dataset.standing.retain(|s| !of_them(s.class));
        }
        keep(&mut self.dataset.training_examples, &kept);
        keep(&mut self.dataset.served_right, &kept);
        keep(&mut self.ids, &kept);
        keep(&mut self.kinds, &kept);
        Ok(self)
    }
}

fn said(example: &TrainingExample) -> Option<usize> {
    match example.target {
        Target::Class(class) => Some(class),
        Target::Not(_) | Target::Keep(_) => None,
    }
}

fn keep<T>(all: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    all.retain(|_| kept.next().is_none_or(|k| *k));
}

/// As the profile keeps them.
pub(super) fn left_out(swapped: &[Swapped]) -> Vec<LeftOut> {
    let one = |s: &Swapped| {
        let (labels, since) = (s.labels.clone(), s.since.to_string());
        s.left_out
            .iter()
            .map(move |id| LeftOut { id: id.to_string(), labels: labels.clone(), since: since.clone() })
            .collect::<Vec<_>>()
    };
    swapped.iter().flat_map(one).collect()
}
