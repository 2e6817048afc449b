//! Which answers of the base model an adapter may change.

use ndarray::{ArrayView1, ArrayViewMut1};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::stats::rows::argmax;

/// Of the margins of an adapter on the examples of a pair, one in as many may be smaller than what is asked for.
const LOWEST: usize = 10;
/// Share of that margin which an adapter must have elsewhere: of the first generation of a profile, and of later ones.
/// All three were chosen on lives (docs/training.md).
pub const FIRST_SHARE: f32 = 0.5;
pub const LATER_SHARE: f32 = 1.0 / 3.0;
/// Difference of two runs of the same model on the same input that is rounding, in logits.
const ROUNDING: f32 = 1e-3;

/// The confusions of the base model that feedback has shown.
///
/// An adapter extrapolates where it changes an answer of the base model to one that feedback has never shown to be
/// right in its place, where the base model is surer than it ever was when feedback showed it wrong, or where the
/// adapter is far less sure than it is of what feedback said. Nobody has said anything about that, and the base model
/// answers instead.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Confusions(Vec<Confusion>);

/// One class taken for another by the base model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// What the base model answered.
    pub answered: u32,
    /// What was right.
    pub right: u32,
    /// The largest margin of the base model, `logit(answered) - logit(right)`, at which it was shown to be wrong.
    pub base_margin: f32,
    /// The smallest margin of the adapter, `logit(right) - logit(answered)`, at which it may change the answer.
    pub adapter_margin: f32,
}

impl Confusion {
    fn pair(&self) -> (u32, u32) {
        (self.answered, self.right)
    }
}

impl Confusions {
    /// Of examples with both margins on each, in any order. Of each pair, the base model may be as sure as it was on
    /// any of its examples, and the adapter must be `share` times as sure as on all but a tenth of them.
    pub fn of(examples: impl IntoIterator<Item = Confusion>, share: f32) -> Confusions {
        let mut all: Vec<Confusion> = examples.into_iter().filter(|c| c.answered != c.right).collect();
        all.sort_unstable_by(|a, b| a.pair().cmp(&b.pair()).then(a.adapter_margin.total_cmp(&b.adapter_margin)));
        let limits = |of_pair: &[Confusion]| {
            let low = of_pair.get(of_pair.len() / LOWEST)?;
            let base_margin = of_pair.iter().map(|c| c.base_margin).fold(f32::NEG_INFINITY, f32::max);
            Some(Confusion { base_margin, adapter_margin: (share * low.adapter_margin).max(0.0), ..*low })
        };
        Confusions(all.chunk_by(|a, b| a.pair() == b.pair()).filter_map(limits).collect())
    }

    /// One a pair of classes, ascending.
    pub fn all(&self) -> &[Confusion] {
        &self.0
    }

    /// Whether the answer of the base model may become `right`, at these margins of the two.
    pub fn allow(&self, answered: usize, right: usize, base_margin: f32, adapter_margin: f32) -> bool {
        let (Ok(a), Ok(r)) = (u32::try_from(answered), u32::try_from(right)) else { return false };
        let known = self.0.binary_search_by_key(&(a, r), Confusion::pair).ok().and_then(|at| self.0.get(at));
        let sure =
            |c: &Confusion| base_margin <= c.base_margin + ROUNDING && adapter_margin >= c.adapter_margin - ROUNDING;
        a == r || known.is_some_and(sure)
    }

    /// Puts the base model's logits in the place of the adapter's where its answer stands. Classes that the base model
    /// lacks get the lowest value there is. An adapter that gives a value that is not finite is left as it is: it is
    /// broken, and whoever asked has to see that.
    pub fn let_stand(&self, mut adapted: ArrayViewMut1<f32>, base: ArrayView1<f32>) {
        if adapted.iter().any(|v| !v.is_finite()) {
            return;
        }
        let (Some(answered), Some(right)) = (argmax(base), argmax(adapted.view())) else { return };
        let margin = |z: ArrayView1<f32>, of: usize, over: usize| match (z.get(of), z.get(over)) {
            (Some(of), Some(over)) => of - over,
            _ => f32::INFINITY,
        };
        let adapter_margin = margin(adapted.view(), right, answered);
        if !self.allow(answered, right, margin(base, answered, right), adapter_margin) {
            adapted.fill(f32::MIN);
            adapted.iter_mut().zip(&base).for_each(|(to, from)| *to = *from);
        }
    }

    /// # Errors
    /// `BadData` where the pairs are not ascending, name a class twice in one pair, or one beyond `classes`, or a
    /// margin is no number.
    pub(super) fn check(&self, classes: usize) -> Result<()> {
        let sound = |c: &Confusion| {
            let inside = |class: u32| (class as usize) < classes;
            let finite = c.base_margin.is_finite() && c.adapter_margin.is_finite();
            c.answered != c.right && inside(c.answered) && inside(c.right) && finite
        };
        if self.0.is_sorted_by(|a, b| a.pair() < b.pair()) && self.0.iter().all(sound) {
            return Ok(());
        }
        let what = format!("its confusions are not ascending pairs of {classes} classes with finite margins");
        Err(Error::bad_data(what).at("confusions"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn confusion(answered: u32, right: u32, base_margin: f32, adapter_margin: f32) -> Confusion {
        Confusion { answered, right, base_margin, adapter_margin }
    }

    #[test]
    fn a_pair_asks_for_a_third_of_what_all_but_a_tenth_of_its_examples_have() {
        let examples = (0..20).map(|i| confusion(1, 2, -(i as f32), (20 - i) as f32 * 3.0));
        let others = [confusion(0, 2, 0.25, -4.0), confusion(1, 1, 9.0, 9.0)];
        let shown = Confusions::of(examples.chain(others), LATER_SHARE);
        assert_eq!(shown.all(), [confusion(0, 2, 0.25, 0.0), confusion(1, 2, 0.0, 3.0)]);
    }

    #[test]
    fn what_feedback_never_showed_is_left_to_the_base_model() {
        let shown = Confusions::of([confusion(1, 2, 1.0, 2.0)], FIRST_SHARE);
        let answer = |adapted: [f32; 3], base: [f32; 3]| {
            let mut z = ndarray::Array1::from(adapted.to_vec());
            shown.let_stand(z.view_mut(), ArrayView1::from(&base));
            z.to_vec()
        };
        let base = [0.5, 2.0, 1.0];
        assert_eq!(
            answer([0.0, 1.0, 2.0], base),
            [0.0, 1.0, 2.0],
            "as it was confused, and the adapter is sure enough"
        );
        assert_eq!(answer([0.0, 1.0, 1.9], base), base, "the adapter is less than half as sure");
        assert_eq!(answer([3.0, 1.0, 0.0], base), base, "nobody said that 1 may be 0");
        assert_eq!(answer([0.0, 9.0, 0.0], base), [0.0, 9.0, 0.0], "the same answer, as sure as the adapter is");
        let surer = [0.5, 2.1, 1.0];
        assert_eq!(answer([0.0, 1.0, 3.0], surer), surer, "the base model never was as sure when it was wrong");
    }

    #[test]
    fn a_class_that_the_base_model_lacks_is_never_answered() {
        let mut z = array![0.0f32, 1.0, 3.0];
        Confusions::of([confusion(0, 2, 9.0, 0.0)], 1.0).let_stand(z.view_mut(), array![1.0f32, 0.5].view());
        assert_eq!(z, array![1.0, 0.5, f32::MIN]);
    }

    #[test]
    fn a_broken_adapter_is_not_hidden() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut z = array![0.0f32, odd];
            Confusions::default().let_stand(z.view_mut(), array![1.0f32, 0.5].view());
            assert_eq!((z[0], z[1].to_bits()), (0.0, odd.to_bits()));
        }
    }

    #[test]
    fn unsound_pairs_are_refused() {
        let of = |pairs: &[(u32, u32, f32)]| Confusions(pairs.iter().map(|p| confusion(p.0, p.1, p.2, 0.0)).collect());
        assert!(of(&[(0, 1, 0.0), (2, 0, 1.0)]).check(3).is_ok());
        let unsound: [&[(u32, u32, f32)]; 5] = [
            &[(2, 0, 0.0), (0, 1, 0.0)],
            &[(0, 1, 0.0), (0, 1, 1.0)],
            &[(1, 1, 0.0)],
            &[(0, 3, 0.0)],
            &[(0, 1, f32::NAN)],
        ];
        assert!(unsound.iter().all(|pairs| of(pairs).check(3).is_err()));
    }
}
