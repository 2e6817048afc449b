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
    /// An answer that asks is corrected or accepted; nothing else.
    Asked,
    /// As [`Says::Asked`], for as many answers, drawn by chance.
    Random,
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
    /// Greatest share of answers that ask, 0 to 1; without effect unless the person waits to be asked.
    pub ask_rate: f64,
}

impl Default for Person {
    fn default() -> Person {
        Person { says: Says::Corrections, accept_share: ACCEPT_SHARE, wrong_share: 0.0, ask_rate: 0.1 }
    }
}

impl Person {
    /// The share of answers that ask of a home where this person lives.
    pub(super) fn asked_by_home(&self) -> f64 {
        if self.says == Says::Asked { self.ask_rate } else { 0.0 }
    }

    /// # Errors
    /// `Usage` for a share outside 0 to 1.
    pub(super) fn check(&self) -> Result<()> {
        for (what, share) in [("an accept share", self.accept_share), ("a share of wrong feedback", self.wrong_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::usage(format!("{what} of {share}")).hint("choose 0 to 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.ask_rate) {
            return Err(Error::usage(format!("an ask rate of {}", self.ask_rate)).hint("choose 0 to 1"));
        }
        match self.says {
            Says::Corrections | Says::Asked | Says::Random => Ok(()),
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
    lots: Lots,
}

impl Living {
    pub fn new(person: Person, seed: u64) -> Living {
        let chance = ChaCha8Rng::seed_from_u64(seed ^ 0xacce_97ed);
        Living { person, chance, lots: Lots { rate: person.ask_rate, ..Lots::default() } }
    }

    /// What is said about the answer `answered` where `label` is right, and which asked for it if `asked`; `None` for
    /// nothing. `labels` are all that the person knows, `known` those that the profile does.
    ///
    /// Every chance is drawn for every answer, so that one more right answer does not change what is said about others.
    pub fn says(
        &mut self,
        answered: Option<&str>,
        asked: bool,
        label: &str,
        labels: &[String],
        known: &[String],
    ) -> Option<Feedback> {
        let Person { says, accept_share, wrong_share, .. } = self.person;
        let accepts = self.chance.random_range(0.0f32..1.0) < accept_share;
        let (errs, other) = match wrong_share > 0.0 {
            true => (
                self.chance.random_range(0.0f32..1.0) < wrong_share,
                self.chance.random_range(0..labels.len().saturating_sub(1).max(1)),
            ),
            false => (false, 0),
        };
        let speaks = match says {
            Says::Asked => asked,
            Says::Random => self.lots.draw(&mut self.chance),
            _ => answered != Some(label) || accepts,
        };
        if !speaks {
            return None;
        }
        let meant = match errs {
            true => labels.iter().filter(|l| *l != label).nth(other).map_or(label, String::as_str),
            false => label,
        };
        let agrees = answered == Some(meant);
        match says {
            Says::Rejects => (!agrees && answered.is_some()).then_some(Feedback::Reject),
            Says::Accepts => agrees.then_some(Feedback::Accept),
            _ if agrees => Some(Feedback::Accept),
            _ if known.iter().any(|k| k == meant) => Some(Feedback::Label(meant.to_owned())),
            _ => Some(Feedback::NewLabel(meant.to_owned())),
        }
    }
}

/// Answers drawn by chance: of each [`Lots::BLOCK`] as many as a home asks about.
#[derive(Default)]
struct Lots {
    rate: f64,
    seen: u32,
    drawn: u32,
}

impl Lots {
    const BLOCK: u32 = 64;

    fn draw(&mut self, chance: &mut ChaCha8Rng) -> bool {
        let ends = f64::from(self.seen / Self::BLOCK + 1) * f64::from(Self::BLOCK);
        let left = (self.rate * ends).floor() - f64::from(self.drawn);
        let drawn = chance.random_range(0.0..1.0) < left / (ends - f64::from(self.seen));
        self.seen += 1;
        self.drawn += u32::from(drawn);
        drawn
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
        (0..n).map(|_| living.says(Some(answered), false, label, &labels, &labels[..2])).collect()
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
    fn some_speak_when_asked_and_some_as_often_by_chance() {
        let (labels, person) = (words(&["a", "b"]), Person { ask_rate: 0.2, ..Person::default() });
        let mut asked = Living::new(Person { says: Says::Asked, ..person }, 7);
        assert_eq!(asked.says(Some("a"), false, "b", &labels, &labels), None);
        assert_eq!(asked.says(Some("a"), true, "b", &labels, &labels), Some(Feedback::Label("b".into())));
        assert_eq!(asked.says(Some("a"), true, "a", &labels, &labels), Some(Feedback::Accept));
        let random = said(Person { says: Says::Random, ..person }, "a", "b", 640);
        for (n, block) in random.chunks(64).enumerate() {
            let drawn = block.iter().flatten().count();
            assert!((12..=13).contains(&drawn), "{drawn} of block {n}");
        }
        assert_eq!(random.into_iter().flatten().count(), 128);
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
