//! How many positions a model takes. Exporters hide that in slices, tables and masks, so it is found by trying.

use std::sync::Mutex;

use tract_core::internal::*;

use super::{Base, Bucket, guarded};
use crate::error::ErrorKind;

/// What was found by trying: lengths up to `works` do, those from `fails` on do not.
#[derive(Debug)]
pub(super) struct Window(Mutex<Tried>);

#[derive(Debug, Clone, Copy)]
struct Tried {
    works: usize,
    fails: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window(Mutex::new(Tried { works: 0, fails: usize::MAX }))
    }
}

impl Window {
    /// The largest of `least..=most` for which `works` holds, which must hold for all lengths below one for which it does.
    fn longest(&self, least: usize, most: usize, works: impl Fn(usize) -> bool) -> Option<usize> {
        let found = |change: &dyn Fn(&mut Tried)| {
            let mut tried = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            change(&mut tried);
            *tried
        };
        let mut tried = found(&|_| ());
        // The longest first: nearly always it will do.
        let mut next = most;
        while tried.works < most && tried.fails > least && tried.fails.saturating_sub(tried.works) > 1 {
            let length = next.clamp(tried.works + 1, tried.fails - 1);
            // Not locked: others, whose lengths are known, need not wait.
            tried = match works(length) {
                true => found(&|tried| tried.works = tried.works.max(length)),
                false => found(&|tried| tried.fails = tried.fails.min(length)),
            };
            let low = tried.works.max(least.saturating_sub(1));
            next = low + (tried.fails.min(most).saturating_sub(low)) / 2;
        }
        let longest = most.min(tried.works);
        (longest >= least).then_some(longest)
    }
}

impl Base {
    /// The longest of `least..=most` positions at which the model's shapes work out: a table of 77 positions takes no 128. None if
    /// not even `least` does, or the model's shapes depend on more than the length. What was found is kept.
    pub(crate) fn longest(&self, least: usize, most: usize) -> Option<usize> {
        if !self.has_sequence() {
            return Some(most);
        }
        self.window.longest(least, most, |sequence| {
            let bucket = Bucket { sequence, ..self.bucket(1, sequence) };
            let agrees = |model: &TypedModel| {
                guarded(ErrorKind::UnsupportedModel, "the shapes do not work out", || shapes_agree(model))
            };
            self.concrete(&bucket).and_then(|model| agrees(&model)).is_ok()
        })
    }
}

/// Fails where an operator does not take its inputs or makes another shape of them than the graph says, and where a shape is not
/// definite: lengths that had to be equal are not.
fn shapes_agree(model: &TypedModel) -> TractResult<()> {
    for id in model.eval_order()? {
        let node = model.node(id);
        let facts = node.op.output_facts(&model.node_input_facts(id)?)?;
        for (fact, output) in facts.iter().zip(&node.outputs) {
            ensure!(fact.shape == output.fact.shape, "{} makes {:?}, not {:?}", node, fact.shape, output.fact.shape);
            ensure!(fact.shape.is_concrete(), "{} makes {:?}", node, fact.shape);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_limit_is_found_with_few_trials() {
        for limit in [1, 7, 8, 63, 64, 65, 77, 127, 128, 512] {
            let (window, trials) = (Window::default(), Cell::new(0));
            let longest = |least, most| {
                window.longest(least, most, |n| {
                    trials.set(trials.get() + 1);
                    n <= limit
                })
            };
            for (least, most) in [(5, 8), (70, 128), (9, 16), (70, 128), (300, 512), (3, 8), (77, 77), (1, 1)] {
                let wanted = most.min(limit);
                assert_eq!(longest(least, most), (wanted >= least).then_some(wanted), "{limit}: {least} to {most}");
            }
            assert!(trials.get() <= 16, "{limit}: {} trials", trials.get());
        }
    }
}
