//! What a simulated person says about an answer: corrections, accepts and rejections, some of them wrong.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::runtime::Feedback;

/// Share of right answers that are accepted when nothing is said.
pub const ACCEPT_SHARE: f32 = 0.25;

/// Which feedback a person gives at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Says {
    /// A wrong answer is corrected, a right one accepted now and then.
    #[default]
    Corrections,
    /// A wrong answer is rejected; nothing else.
    Rejects,
    /// A right answer is accepted now and then; nothing else.
    Accepts,
}

/// A person's habits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Person {
    /// Which feedback is given.
    pub says: Says,
    /// Share of right answers that are accepted, 0 to 1.
    pub accept_share: f32,
    /// Share of the feedback that is wrong, 0 to 1: the person takes another class, drawn from all others, for the right
    /// one. 0 where there are no labels to be wrong in, which is with [`Says::Rejects`] and [`Says::Accepts`].
    pub wrong_share: f32,
}

impl Default for Person {
    fn default() -> Person {
        Person { says: Says::Corrections, accept_share: ACCEPT_SHARE, wrong_share: 0.0 }
    }
}

impl Person {
    /// # Errors
    /// `Usage` for a share outside 0 to 1.
    pub(super) fn check(&self) -> Result<()> {
        for (what, share) in [("an accept share", self.accept_share), ("a share of wrong feedback", self.wrong_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::usage(format!("{what} of {share}")).hint("choose 0 to 1"));
            }
        }
        match self.says {
            Says::Corrections => Ok(()),
            _ if self.wrong_share == 0.0 => Ok(()),
            _ => Err(Error::usage("a share of wrong feedback, of a person who gives no labels")
                .hint("leave it away, or let the person give corrections")),
        }
    }
}

/// A person with a stream of chances.
pub(super) struct Living {
    person: Person,
    chance: ChaCha8Rng,
}

impl Living {
    pub fn new(person: Person, seed: u64) -> Living {
        Living { person, chance: ChaCha8Rng::seed_from_u64(seed ^ 0xacce_97ed) }
    }

    /// What is said about the answer `answered` where `label` is right; `None` for nothing. `labels` are all that the
    /// person knows, `known` those that the profile does.
    ///
    /// Every chance is drawn for every answer, so that one more right answer does not change what is said about others.
    pub fn says(
        &mut self,
        answered: Option<&str>,
        label: &str,
        labels: &[String],
        known: &[String],
    ) -> Option<Feedback> {
        let Person { says, accept_share, wrong_share } = self.person;
        let accepts = self.chance.random_range(0.0f32..1.0) < accept_share;
        let (errs, other) = match wrong_share > 0.0 {
            true => (
                self.chance.random_range(0.0f32..1.0) < wrong_share,
                self.chance.random_range(0..labels.len().saturating_sub(1).max(1)),
            ),
            false => (false, 0),
        };
        if answered == Some(label) && !accepts {
            return None;
        }
        let meant = match errs {
            true => labels.iter().filter(|l| *l != label).nth(other).map_or(label, String::as_str),
            false => label,
        };
        let agrees = answered == Some(meant);
        match says {
            Says::Corrections if agrees => Some(Feedback::Accept),
            Says::Corrections if known.iter().any(|k| k == meant) => Some(Feedback::Label(meant.to_owned())),
            Says::Corrections => Some(Feedback::NewLabel(meant.to_owned())),
            Says::Rejects => (!agrees && answered.is_some()).then_some(Feedback::Reject),
            Says::Accepts => agrees.then_some(Feedback::Accept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(of: &[&str]) -> Vec<String> {
        of.iter().map(|s| s.to_string()).collect()
    }

    fn said(person: Person, answered: &str, label: &str, n: usize) -> Vec<Option<Feedback>> {
        let (labels, mut living) = (words(&["a", "b", "c"]), Living::new(person, 7));
        (0..n).map(|_| living.says(Some(answered), label, &labels, &labels[..2])).collect()
    }

    #[test]
    fn a_person_corrects_accepts_and_errs_as_often_as_asked() {
        let person = Person::default();
        let accepted = said(person, "a", "a", 4000).into_iter().flatten().count();
        assert!((900..1100).contains(&accepted), "{accepted}");
        assert!(said(person, "a", "b", 50).iter().all(|f| *f == Some(Feedback::Label("b".into()))));
        assert!(said(person, "a", "c", 50).iter().all(|f| *f == Some(Feedback::NewLabel("c".into()))));
        let errs = Person { wrong_share: 0.3, ..person };
        let wrong = said(errs, "a", "b", 4000).into_iter().filter(|f| *f != Some(Feedback::Label("b".into()))).count();
        assert!((1080..1320).contains(&wrong), "{wrong}");
        // A wrong answer that is taken for right is accepted.
        assert!(said(errs, "a", "b", 4000).contains(&Some(Feedback::Accept)));
    }

    #[test]
    fn some_only_reject_and_some_only_accept() {
        let rejects = Person { says: Says::Rejects, ..Person::default() };
        assert!(said(rejects, "a", "b", 50).iter().all(|f| *f == Some(Feedback::Reject)));
        assert!(said(rejects, "a", "a", 50).iter().all(Option::is_none));
        let accepts = Person { says: Says::Accepts, ..Person::default() };
        assert!(said(accepts, "a", "b", 50).iter().all(Option::is_none));
        assert!(said(accepts, "a", "a", 50).contains(&Some(Feedback::Accept)));
    }
}
