//! Which answers of the base model an adapter may change.

use ndarray::{ArrayView1, ArrayViewMut1};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The confusions of the base model that feedback has shown: pairs of the class that it answered and the class that is right.
///
/// Where an adapter changes an answer of the base model to one that feedback has never shown to be right in its place, it
/// extrapolates: nobody has said anything about that border, and the base model, which was trained on it, answers instead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confusions(Vec<(u32, u32)>);

impl Confusions {
    /// Of these pairs (answered by the base model, right), in any order and as often as they occur.
    pub fn of(pairs: impl IntoIterator<Item = (u32, u32)>) -> Confusions {
        let mut pairs: Vec<(u32, u32)> = pairs.into_iter().filter(|(answered, right)| answered != right).collect();
        pairs.sort_unstable();
        pairs.dedup();
        Confusions(pairs)
    }

    /// The pairs, ascending.
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Whether an answer of the base model may become another one.
    pub fn allow(&self, answered: usize, right: usize) -> bool {
        let pair = |v: usize| u32::try_from(v).ok();
        let known = |pair: (u32, u32)| self.0.binary_search(&pair).is_ok();
        answered == right || pair(answered).zip(pair(right)).is_some_and(known)
    }

    /// Whether every answer of a base model of `classes` classes may become `right`: then the base model need not be asked.
    pub fn allow_from_all(&self, classes: usize, right: usize) -> bool {
        (0..classes).all(|answered| self.allow(answered, right))
    }

    /// Puts the base model's logits in the place of the adapter's where its answer stands. Classes that the base model lacks get
    /// the lowest value there is.
    pub fn let_stand(&self, mut adapted: ArrayViewMut1<f32>, base: ArrayView1<f32>) {
        use crate::stats::rows::argmax;
        let (Some(answered), Some(right)) = (argmax(base), argmax(adapted.view())) else { return };
        if !self.allow(answered, right) {
            adapted.fill(f32::MIN);
            adapted.iter_mut().zip(&base).for_each(|(to, from)| *to = *from);
        }
    }

    /// # Errors
    /// `BadData` where the pairs are not ascending, name a class twice in one pair, or one beyond `classes`.
    pub(super) fn check(&self, classes: usize) -> Result<()> {
        let inside = |v: u32| (v as usize) < classes;
        let sound = self.0.is_sorted_by(|a, b| a < b)
            && self.0.iter().all(|(answered, right)| answered != right && inside(*answered) && inside(*right));
        match sound {
            true => Ok(()),
            false => Err(Error::bad_data(format!("its confusions are not ascending pairs of {classes} classes"))
                .at("confusions")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn what_feedback_never_showed_is_left_to_the_base_model() {
        let shown = Confusions::of([(1, 2), (0, 2), (1, 2), (1, 1)]);
        assert_eq!(shown.pairs(), [(0, 2), (1, 2)]);
        let base = array![0.5f32, 2.0, 1.0];
        let answer = |adapted: [f32; 3]| {
            let mut z = ndarray::Array1::from(adapted.to_vec());
            shown.let_stand(z.view_mut(), base.view());
            z.to_vec()
        };
        assert_eq!(answer([0.0, 1.0, 3.0]), [0.0, 1.0, 3.0], "1 was confused with 2");
        assert_eq!(answer([3.0, 1.0, 0.0]), base.to_vec(), "nobody said that 1 may be 0");
        assert_eq!(answer([0.0, 9.0, 0.0]), [0.0, 9.0, 0.0], "the same answer, as sure as the adapter is");
        assert!(shown.allow_from_all(3, 2) && !shown.allow_from_all(3, 1));
    }

    #[test]
    fn a_class_that_the_base_model_lacks_is_never_left_standing() {
        let mut z = array![0.0f32, 3.0, 1.0];
        Confusions::default().let_stand(z.view_mut(), array![1.0f32, 0.5].view());
        assert_eq!(z, array![1.0, 0.5, f32::MIN]);
    }

    #[test]
    fn unsound_pairs_are_refused() {
        assert!(Confusions(vec![(0, 1), (2, 0)]).check(3).is_ok());
        for pairs in [vec![(2, 0), (0, 1)], vec![(0, 1), (0, 1)], vec![(1, 1)], vec![(0, 3)]] {
            assert!(Confusions(pairs.clone()).check(3).is_err(), "{pairs:?}");
        }
    }
}
