//! Is an adapted language model better on what was said about its answers, and what did it change elsewhere?

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::stats::paired::{Decision, Paired};

/// Share of a text by which an answer must come closer to count as closer.
const CLOSER: f64 = 0.02;
/// Greatest rise of the perplexity of neutral prose.
pub const PERPLEXITY_LIMIT: f64 = 1.02;

/// What two models make of one thing that was said, by models that were not taught with it: of the active generation,
/// and of the candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judged {
    /// An edit.
    Edit {
        /// How close the answer to the same messages comes to the edited one: 1 over 1 and its edit rate.
        closeness: [f64; 2],
        /// Mean log-probability of a token of the edited answer, nats.
        log_prob: [f64; 2],
    },
    /// The better of two answers: by how many nats it is more probable than the worse one.
    Preference([f64; 2]),
    /// A good answer, or a bad one.
    Rated {
        /// Whether it was good.
        good: bool,
        /// Mean log-probability of a token, nats, less that of answers that nobody said anything about.
        log_prob: [f64; 2],
    },
}

/// Whether the candidate would have done better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The person would have had less to say.
    Better,
    /// About the same.
    Same,
    /// They would have had more to say.
    Worse,
}

impl Call {
    /// 1, 0 or -1.
    pub fn sign(self) -> i64 {
        match self {
            Call::Better => 1,
            Call::Same => 0,
            Call::Worse => -1,
        }
    }

    /// That of a sum of signs.
    pub fn of_sign(sum: i64) -> Call {
        match sum.signum() {
            1 => Call::Better,
            0 => Call::Same,
            _ => Call::Worse,
        }
    }
}

impl Judged {
    /// An edit counts as better where the answer comes closer to it and the edit is more probable: either alone may
    /// be luck.
    pub fn call(&self) -> Call {
        let sign = |difference: f64, least: f64| match difference {
            d if d > least => Call::Better,
            d if d < -least => Call::Worse,
            _ => Call::Same,
        };
        match *self {
            Judged::Edit { closeness: [was, is], log_prob: [before, after] } => match sign(is - was, CLOSER) {
                Call::Better if after <= before => Call::Same,
                call => call,
            },
            Judged::Preference([before, after]) => sign(after - before, 0.0),
            Judged::Rated { good: true, log_prob: [before, after] } => sign(after - before, 0.0),
            Judged::Rated { good: false, log_prob: [before, after] } => sign(before - after, 0.0),
        }
    }
}

/// What a candidate changed on texts that nobody complained about.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TextRetention {
    /// Perplexity of neutral prose: of the base, and of the candidate; none where the base does not know its language.
    pub perplexity: Option<[f64; 2]>,
    /// Mean divergence from the base on its own answers and on those that nobody said anything about, nats a token.
    pub kl: f64,
    /// Tokens of prose; where the base does not know its language, of answers that nobody said anything about.
    pub tokens: u64,
    /// Of them, those whose most likely token stays.
    pub agree: u64,
    /// Prompts to which the candidate repeats itself or comes to no end, and the base does not.
    pub endless: u64,
}

impl TextRetention {
    /// Of a candidate that gives values that are not finite numbers.
    pub const NOT_FINITE: TextRetention =
        TextRetention { perplexity: None, kl: f64::INFINITY, tokens: 0, agree: 0, endless: 0 };

    /// Share of tokens whose most likely one stays.
    pub fn share(&self) -> f64 {
        if self.tokens == 0 { 1.0 } else { self.agree as f64 / self.tokens as f64 }
    }

    /// Why it may not serve; none where it may.
    pub fn refusal(&self, limits: &Limits) -> Option<String> {
        if self.perplexity.is_some_and(|[_, after]| !after.is_finite()) || !self.kl.is_finite() {
            return Some("it gives values that are not finite numbers".into());
        }
        if let Some([before, after]) = self.perplexity.filter(|[before, after]| *after > PERPLEXITY_LIMIT * before) {
            return Some(format!(
                "the perplexity of neutral text rises from {before:.2} to {after:.2}, by more than {:.0} %",
                100.0 * (PERPLEXITY_LIMIT - 1.0)
            ));
        }
        if 1.0 - self.share() > limits.disagreement {
            return Some(format!(
                "{:.1} % of the tokens of other texts would be others, the limit is {:.1} % (disagreement_limit)",
                100.0 * (1.0 - self.share()),
                100.0 * limits.disagreement
            ));
        }
        (self.endless > 0).then(|| format!("to {} prompts it repeats itself or comes to no end", self.endless))
    }
}

/// Counts of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Better ones.
    pub better: u64,
    /// Worse ones.
    pub worse: u64,
    /// All.
    pub n: u64,
}

impl Calls {
    /// Of these.
    pub fn count(calls: impl Iterator<Item = Call>) -> Calls {
        calls.fold(Calls::default(), |all, call| Calls {
            better: all.better + u64::from(call == Call::Better),
            worse: all.worse + u64::from(call == Call::Worse),
            n: all.n + 1,
        })
    }

    /// The paired test (`stats::paired`) that the candidate is better more often than worse.
    pub fn decide(&self, limits: &Limits) -> Decision {
        let test = Paired { wins: self.better, losses: self.worse, n: self.n };
        test.decide(test.p(), limits.alpha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(judged: &[Judged]) -> Calls {
        Calls::count(judged.iter().map(Judged::call))
    }

    fn edit(closeness: [f64; 2], log_prob: [f64; 2]) -> Judged {
        Judged::Edit { closeness, log_prob }
    }

    #[test]
    fn an_edit_is_better_only_where_the_answer_comes_closer_and_the_edit_is_more_probable() {
        assert_eq!(edit([0.3, 0.9], [-2.0, -1.0]).call(), Call::Better);
        assert_eq!(edit([0.3, 0.9], [-1.0, -2.0]).call(), Call::Same);
        assert_eq!(edit([0.3, 0.31], [-2.0, -1.0]).call(), Call::Same);
        assert_eq!(edit([0.9, 0.3], [-2.0, -1.0]).call(), Call::Worse);
        assert_eq!(Judged::Preference([-1.0, 2.0]).call(), Call::Better);
        assert_eq!(Judged::Rated { good: false, log_prob: [-1.0, -2.0] }.call(), Call::Better);
        assert_eq!(Judged::Rated { good: true, log_prob: [-1.0, -2.0] }.call(), Call::Worse);
    }

    #[test]
    fn as_many_worse_as_better_is_not_shown() {
        let limits = Limits::default();
        let half: Vec<Judged> = (0..20)
            .map(|i| if i % 2 == 0 { edit([0.3, 0.9], [-2.0, -1.0]) } else { edit([0.9, 0.3], [-2.0, -1.0]) })
            .collect();
        assert!(!count(&half).decide(&limits).passed());
        let all = vec![edit([0.3, 0.9], [-2.0, -1.0]); 8];
        assert!(count(&all).decide(&limits).passed());
    }

    #[test]
    fn what_changes_other_texts_is_refused_in_words() {
        let limits = Limits::default();
        let good = TextRetention { perplexity: Some([20.0, 20.3]), kl: 0.01, tokens: 1000, agree: 960, endless: 0 };
        assert_eq!(good.refusal(&limits), None);
        let says = |r: TextRetention, what: &str| assert!(r.refusal(&limits).unwrap().contains(what), "{r:?}");
        says(TextRetention { perplexity: Some([20.0, 20.5]), ..good }, "perplexity");
        says(TextRetention { agree: 850, ..good }, "15.0 %");
        says(TextRetention { endless: 2, ..good }, "2 prompts");
        says(TextRetention { perplexity: Some([20.0, f64::NAN]), ..good }, "finite");
        says(TextRetention::NOT_FINITE, "finite");
    }
}
