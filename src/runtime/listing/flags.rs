//! What is doubtful about feedback: each flag is a word that stays the same, and a reason in a sentence.

use std::collections::{BTreeMap, HashMap};

use super::super::doubts::{Doubts, Holds};
use super::super::opinions::{Meaning, Opinion};
use crate::input::label::{NONE_OF_THESE, shown};
use crate::journal::InteractionId;

/// A class with more than so many times the feedback of another is out of balance.
const BALANCE: usize = 3;
/// Feedback that comes later than this after the one before is of another stretch.
const PAUSE_MS: u64 = 3_600_000;

/// What may be doubtful about a feedback item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Flag {
    /// The active generation learned from it, and answers otherwise.
    NotHeld,
    /// Trained without it, the last training's candidate finds another class likely, and this one not.
    LabelDisagrees,
    /// The same input, or nearly the same, has another label.
    Contradicts,
    /// Newer feedback on the same input says otherwise: this teaches nothing.
    Superseded,
    /// Other feedback is on the same input, or nearly the same.
    NearDuplicate,
    /// Its class has more than three times the feedback of another one.
    Imbalance,
    /// All feedback with this label came in one stretch of time.
    OneStretch,
}

impl Flag {
    /// All of them.
    pub const ALL: [Flag; 7] = [
        Flag::NotHeld,
        Flag::LabelDisagrees,
        Flag::Contradicts,
        Flag::Superseded,
        Flag::NearDuplicate,
        Flag::Imbalance,
        Flag::OneStretch,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Flag::NotHeld => "not-held",
            Flag::LabelDisagrees => "label-disagrees",
            Flag::Contradicts => "contradicts",
            Flag::Superseded => "superseded",
            Flag::NearDuplicate => "near-duplicate",
            Flag::Imbalance => "imbalance",
            Flag::OneStretch => "one-stretch",
        }
    }

    /// Whether it is about all feedback of a class.
    pub fn is_of_a_class(self) -> bool {
        matches!(self, Flag::Imbalance | Flag::OneStretch)
    }
}

/// A flag, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flagged {
    /// The flag.
    pub flag: Flag,
    /// In a sentence.
    pub reason: String,
}

/// All flags of a profile.
#[derive(Debug, Default)]
pub(super) struct Flags {
    pub of: HashMap<InteractionId, Vec<Flagged>>,
    /// Those of whole classes, once each.
    pub of_classes: Vec<Flagged>,
}

impl Flags {
    /// All flags; `active` is the generation that answers.
    pub fn find(opinions: &[Opinion], doubts: Option<&Doubts>, active: u64) -> Flags {
        let mut flags = Flags::default();
        if let Some(doubts) = doubts {
            if let Some(holds) = doubts.holds.as_ref().filter(|holds| holds.generation == active) {
                flags.not_held(opinions, holds);
            }
            flags.disagreements(opinions, doubts);
            flags.near_duplicates(opinions, doubts);
            flags.left_out(opinions, doubts);
        }
        for o in opinions {
            flags.identical(o);
        }
        flags.imbalance(opinions);
        flags.one_stretch(opinions);
        for flagged in flags.of.values_mut() {
            flagged.sort_by_key(|f| f.flag);
            flagged.dedup_by_key(|f| f.flag);
        }
        flags
    }

    fn put(&mut self, id: InteractionId, flag: Flag, reason: String) {
        self.of.entry(id).or_default().push(Flagged { flag, reason });
    }

    /// Flags all feedback that says `class`.
    fn put_class(&mut self, opinions: &[Opinion], class: &str, flag: Flag, reason: String) {
        for o in opinions.iter().filter(|o| says(o) == Some(class)) {
            self.put(o.interaction.id, flag, reason.clone());
        }
        self.of_classes.push(Flagged { flag, reason });
    }

    /// Only what still says what the training doubted.
    fn disagreements(&mut self, opinions: &[Opinion], doubts: &Doubts) {
        let says: HashMap<String, (InteractionId, &str)> = opinions
            .iter()
            .filter_map(|o| Some((o.interaction.id.to_string(), (o.interaction.id, says(o)?))))
            .collect();
        for d in &doubts.disagrees {
            if let Some((id, _)) = says.get(&d.id).filter(|(_, class)| *class == d.given) {
                let (given, likely) = (f64::from(d.p_given), f64::from(d.p_likely));
                let reason = format!(
                    "it is said to be {}, but trained without it the model holds {} for likely: {:.0} % against {:.0} %",
                    shown(&d.given),
                    shown(&d.likely),
                    100.0 * likely,
                    100.0 * given
                );
                self.put(*id, Flag::LabelDisagrees, reason);
            }
        }
    }

    /// Only what still says what the generation learned.
    fn not_held(&mut self, opinions: &[Opinion], holds: &Holds) {
        let by_id: HashMap<String, &Opinion> = opinions.iter().map(|o| (o.interaction.id.to_string(), o)).collect();
        for n in &holds.not_held {
            let Some(o) = by_id.get(&n.id) else { continue };
            let (still, said) = match (o.teaches(), &n.given) {
                (Some(Meaning::Is(class)), Some(given)) => (class == given, format!("to be {given}")),
                (Some(Meaning::IsNot(class)), None) => (*class == n.answer, format!("not to be {}", n.answer)),
                _ => continue,
            };
            if still {
                let reason = format!(
                    "it is said {said}, and generation {} answers {}: {}",
                    holds.generation, n.answer, n.reason
                );
                self.put(o.interaction.id, Flag::NotHeld, reason);
            }
        }
    }

    fn near_duplicates(&mut self, opinions: &[Opinion], doubts: &Doubts) {
        let by_id: HashMap<String, &Opinion> = opinions.iter().map(|o| (o.interaction.id.to_string(), o)).collect();
        for group in &doubts.near_duplicates {
            let group: Vec<&Opinion> = group.iter().filter_map(|id| by_id.get(id).copied()).collect();
            let group: Vec<&Opinion> = group.into_iter().filter(|o| o.teaches().is_some()).collect();
            if group.len() < 2 {
                continue;
            }
            for o in &group {
                let id = o.interaction.id;
                self.put(id, Flag::NearDuplicate, alike(group.len()));
                let other = group.iter().find(|other| says(o).zip(says(other)).is_some_and(|(a, b)| a != b));
                if let Some((other, class)) = other.and_then(|other| Some((other, says(other)?))) {
                    let (twin, class) = (other.interaction.id, shown(class));
                    let reason = format!("interaction {twin} is nearly the same and is said to be {class}");
                    self.put(id, Flag::Contradicts, reason);
                }
            }
        }
    }

    /// Only what still says one of the labels that swapped.
    fn left_out(&mut self, opinions: &[Opinion], doubts: &Doubts) {
        let by_id: HashMap<String, &Opinion> = opinions.iter().map(|o| (o.interaction.id.to_string(), o)).collect();
        for l in &doubts.left_out {
            let Some(o) = by_id.get(&l.id) else { continue };
            let (a, b) = &l.labels;
            let class = match o.teaches() {
                Some(Meaning::Is(class) | Meaning::IsNot(class)) => class,
                None => continue,
            };
            if class == a || class == b {
                let (a, b) = (shown(a), shown(b));
                let reason = format!("{a} and {b} swap their meaning from {} on: this teaches nothing", l.since);
                self.put(o.interaction.id, Flag::Superseded, reason);
            }
        }
    }

    fn identical(&mut self, o: &Opinion) {
        let id = o.interaction.id;
        if let Some(newer) = o.superseded_by {
            let reason =
                format!("newer feedback on the same input, that on {newer}, says otherwise: this teaches nothing");
            self.put(id, Flag::Superseded, reason);
        }
        if o.supersedes > 0 {
            let reason = match o.supersedes {
                1 => "older feedback on the same input says otherwise; it teaches nothing any more".to_string(),
                n => format!("{n} older feedback items on the same input say otherwise; they teach nothing any more"),
            };
            self.put(id, Flag::Contradicts, reason);
        }
        if o.identical > 1 && o.teaches().is_some() {
            self.put(id, Flag::NearDuplicate, alike(o.identical));
        }
    }

    fn imbalance(&mut self, opinions: &[Opinion]) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        opinions.iter().filter_map(named).for_each(|class| *counts.entry(class).or_default() += 1);
        let Some((fewest, least)) = counts.iter().min_by_key(|(_, n)| **n).map(|(c, n)| (*c, *n)) else { return };
        for (class, n) in counts.iter().filter(|(_, n)| **n > least.saturating_mul(BALANCE)) {
            let reason = format!("{n} feedback items say {class} and {least} {fewest}: more than {BALANCE} to 1");
            self.put_class(opinions, class, Flag::Imbalance, reason);
        }
    }

    fn one_stretch(&mut self, opinions: &[Opinion]) {
        let mut stretches: BTreeMap<&str, usize> = BTreeMap::new();
        let mut before: Option<(&str, u64)> = None;
        for (class, at_ms) in opinions.iter().filter_map(|o| Some((named(o)?, o.word.first_ms))) {
            let goes_on = before.is_some_and(|(c, ms)| c == class && at_ms.saturating_sub(ms) <= PAUSE_MS);
            *stretches.entry(class).or_default() += usize::from(!goes_on);
            before = Some((class, at_ms));
        }
        for (class, _) in stretches.iter().filter(|(_, n)| **n == 1) {
            let reason = format!(
                "all feedback that says {class} came in one stretch: whether it holds at another time cannot be judged"
            );
            self.put_class(opinions, class, Flag::OneStretch, reason);
        }
    }
}

/// The class that it teaches.
fn says(o: &Opinion) -> Option<&str> {
    o.teaches().and_then(|meaning| meaning.class())
}

/// The class that it teaches, where that has a name: what is none of the classes comes as it comes.
fn named(o: &Opinion) -> Option<&str> {
    says(o).filter(|class| *class != NONE_OF_THESE)
}

fn alike(n: usize) -> String {
    format!("{n} feedback items are on the same input, or nearly: less evidence than they look")
}

#[cfg(test)]
mod tests {
    use super::super::super::doubts::{Disagrees, NotHeldEntry};
    use super::*;
    use crate::journal::{FeedbackEntry, FeedbackKind, InteractionEntry, LastWord};

    /// What was said, a minute apart but where a time in minutes is given.
    fn said(classes: &[(&str, Option<u64>)]) -> Vec<Opinion> {
        let one = |(n, (class, minute)): (usize, &(&str, Option<u64>))| {
            let id = InteractionId(n as u32);
            let first_ms = 60_000 * minute.unwrap_or(n as u64);
            let entry = FeedbackEntry { id, at_ms: first_ms, kind: FeedbackKind::Accept, was: None };
            let meaning = match class.strip_prefix('!') {
                Some(class) => Meaning::IsNot(class.into()),
                None => Meaning::Is((*class).into()),
            };
            Opinion {
                word: LastWord { entry, first_ms, first: n, last: n },
                interaction: InteractionEntry { id, at_ms: 0, offset: 0, answer: None, generation: 0, novel: false },
                meaning: Some(meaning),
                digest: [0; 32],
                superseded_by: None,
                identical: 1,
                supersedes: 0,
            }
        };
        classes.iter().enumerate().map(one).collect()
    }

    fn at(classes: &str) -> Vec<Opinion> {
        said(&classes.split(' ').map(|c| (c, None)).collect::<Vec<_>>())
    }

    fn flagged(flags: &Flags, flag: Flag) -> Vec<u32> {
        let mut ids: Vec<u32> =
            flags.of.iter().filter(|(_, f)| f.iter().any(|f| f.flag == flag)).map(|(id, _)| id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn classes_beyond_three_to_one() {
        let balanced = Flags::find(&at("a b a a"), None, 0);
        assert!(flagged(&balanced, Flag::Imbalance).is_empty());
        let flags = Flags::find(&at("a b a a !a a c c"), None, 0);
        assert_eq!(flagged(&flags, Flag::Imbalance), [0, 2, 3, 5]);
        assert_eq!(flags.of_classes[0].reason, "4 feedback items say a and 1 b: more than 3 to 1");
        assert!(
            flagged(&Flags::find(&at("a a a a a"), None, 0), Flag::Imbalance).is_empty(),
            "there is nothing beside it"
        );
    }

    #[test]
    fn a_stretch_ends_where_another_class_comes_or_time_passes() {
        assert!(flagged(&Flags::find(&at("a a b b a !b b"), None, 0), Flag::OneStretch).is_empty());
        assert_eq!(flagged(&Flags::find(&at("a a b b a"), None, 0), Flag::OneStretch), [2, 3]);
        let later = [("a", Some(0)), ("a", Some(1)), ("b", Some(2)), ("b", Some(90)), ("a", Some(91))];
        assert!(flagged(&Flags::find(&said(&later), None, 0), Flag::OneStretch).is_empty(), "an hour lies between");
    }

    #[test]
    fn what_a_training_doubted_is_flagged_while_it_is_still_said() {
        let mut opinions = at("a b a b");
        let id = |n: u32| InteractionId(n).to_string();
        let doubt = |n: u32, given: &str| {
            let (given, likely) = (given.to_string(), "z".to_string());
            Disagrees { id: id(n), given, likely, p_given: 0.03, p_likely: 0.91 }
        };
        let disagrees = vec![doubt(0, "a"), doubt(1, "a"), doubt(3, "b"), doubt(9, "a")];
        let near_duplicates = vec![vec![id(0), id(1)], vec![id(2), id(9)]];
        let doubts = Doubts { format: 1, at_ms: 0, near_duplicates, disagrees, holds: None, left_out: vec![] };
        let flags = Flags::find(&opinions, Some(&doubts), 1);
        assert_eq!(flagged(&flags, Flag::LabelDisagrees), [0, 3], "1 has another label by now, 9 is gone");
        assert_eq!(flagged(&flags, Flag::NearDuplicate), [0, 1], "2 has lost its twin");
        assert_eq!(flagged(&flags, Flag::Contradicts), [0, 1]);
        let reasons = &flags.of[&InteractionId(0)];
        assert!(reasons[0].reason.ends_with("91 % against 3 %"), "{reasons:?}");
        assert!(reasons[1].reason.ends_with("is nearly the same and is said to be b"), "{reasons:?}");
        opinions[3].meaning = None;
        assert_eq!(flagged(&Flags::find(&opinions, Some(&doubts), 1), Flag::LabelDisagrees), [0], "3 is ignored");
    }

    #[test]
    fn what_does_not_hold_is_flagged_while_that_generation_is_active_and_it_is_still_said() {
        let mut opinions = at("a !b a");
        let entry = |n: u32, given: Option<&str>, answer: &str| NotHeldEntry {
            id: InteractionId(n).to_string(),
            given: given.map(String::from),
            answer: answer.into(),
            reason: "because".into(),
        };
        let not_held =
            vec![entry(0, Some("a"), "z"), entry(1, None, "b"), entry(2, Some("b"), "z"), entry(9, None, "z")];
        let holds = Some(Holds { generation: 3, not_held });
        let doubts =
            Doubts { format: 1, at_ms: 0, near_duplicates: vec![], disagrees: vec![], holds, left_out: vec![] };
        let flags = Flags::find(&opinions, Some(&doubts), 3);
        assert_eq!(flagged(&flags, Flag::NotHeld), [0, 1], "2 says something else by now, 9 is gone");
        let reason = |id| &flags.of[&InteractionId(id)][0].reason;
        assert_eq!(reason(0), "it is said to be a, and generation 3 answers z: because");
        assert_eq!(reason(1), "it is said not to be b, and generation 3 answers b: because");
        assert!(flagged(&Flags::find(&opinions, Some(&doubts), 2), Flag::NotHeld).is_empty(), "another is active");
        opinions[0].meaning = None;
        assert_eq!(flagged(&Flags::find(&opinions, Some(&doubts), 3), Flag::NotHeld), [1], "0 is ignored");
    }
}
