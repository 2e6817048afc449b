//! What holds of the feedback of a profile: the last word on each answer, and of what was said about one identical
//! input the newest. Training and the listing of interactions both read it here.

use std::collections::HashMap;

use crate::error::Result;
use crate::input::label::NONE_OF_THESE;
use crate::journal::{FeedbackKind, InteractionEntry, InteractionId, LastWord, Snapshot};

/// What feedback says about its input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Meaning {
    /// It is of this class, which may be [`NONE_OF_THESE`].
    Is(String),
    /// It is not of this class.
    IsNot(String),
}

impl Meaning {
    /// What was said about an answer; `None` if nothing, or nothing that makes sense without an answer. Of an answer
    /// that the input is like none of the known ones, an accept says that it is none of the classes.
    pub fn of(kind: &FeedbackKind, interaction: &InteractionEntry) -> Option<Meaning> {
        let answer = match interaction.novel {
            true => Some(NONE_OF_THESE),
            false => interaction.answer.as_ref().map(|(label, _)| &**label),
        };
        match (kind, answer) {
            (FeedbackKind::Label(label), _) => Some(Meaning::Is(label.clone())),
            (FeedbackKind::NoneOfThese, _) => Some(Meaning::Is(NONE_OF_THESE.into())),
            (FeedbackKind::Accept, Some(answer)) => Some(Meaning::Is(answer.to_string())),
            (FeedbackKind::Reject, Some(answer)) => Some(Meaning::IsNot(answer.to_string())),
            _ => None,
        }
    }

    /// The class, where it is known.
    pub fn class(&self) -> Option<&str> {
        match self {
            Meaning::Is(class) => Some(class),
            Meaning::IsNot(_) => None,
        }
    }

    /// Whether both can be true of one input.
    fn agrees(&self, other: &Meaning) -> bool {
        match (self, other) {
            (Meaning::Is(a), Meaning::Is(b)) => a == b,
            (Meaning::Is(a), Meaning::IsNot(b)) | (Meaning::IsNot(b), Meaning::Is(a)) => a != b,
            (Meaning::IsNot(_), Meaning::IsNot(_)) => true,
        }
    }
}

/// What holds of the feedback on one interaction.
#[derive(Debug, Clone)]
pub(crate) struct Opinion {
    pub word: LastWord,
    pub interaction: InteractionEntry,
    /// `None` if it is ignored.
    pub meaning: Option<Meaning>,
    /// Of its input.
    pub digest: [u8; 32],
    /// Newer feedback on an identical input says otherwise: that on this interaction.
    pub superseded_by: Option<InteractionId>,
    /// Number of interactions whose feedback on an identical input holds, itself among them.
    pub identical: usize,
    /// Feedback on this many interactions with an identical input is superseded by this one.
    pub supersedes: usize,
}

impl Opinion {
    /// What it teaches; `None` if it is ignored or superseded.
    pub fn teaches(&self) -> Option<&Meaning> {
        self.meaning.as_ref().filter(|_| self.superseded_by.is_none())
    }
    pub fn is_ignored(&self) -> bool {
        self.word.entry.kind == FeedbackKind::Ignored
    }
}

/// What holds among the first `upto` feedback items, in the order in which the interactions got their first.
pub(crate) fn read(journal: &Snapshot, upto: usize) -> Result<Vec<Opinion>> {
    let state = journal.state();
    let mut said = vec![];
    for word in state.last_words(upto)? {
        let Some((interaction, input)) = journal.with_input(word.entry.id)? else { continue };
        said.push((word, interaction, input.digest()));
    }
    Ok(settled(said))
}

/// What holds of `said`: the last word on each interaction, with the digest of its input.
pub(crate) fn settled(said: Vec<(LastWord, InteractionEntry, [u8; 32])>) -> Vec<Opinion> {
    let (mut opinions, mut same): (Vec<Opinion>, HashMap<[u8; 32], Vec<usize>>) = Default::default();
    for (word, interaction, digest) in said {
        let meaning = Meaning::of(&word.entry.kind, &interaction);
        same.entry(digest).or_default().push(opinions.len());
        let (superseded_by, identical, supersedes) = (None, 1, 0);
        opinions.push(Opinion { word, interaction, meaning, digest, superseded_by, identical, supersedes });
    }
    same.into_values().filter(|group| group.len() > 1).for_each(|group| settle(&mut opinions, group));
    opinions
}

/// Of the opinions `group` on one input, the newest holds, and what agrees with all newer ones that hold.
fn settle(opinions: &mut [Opinion], mut group: Vec<usize>) {
    group.sort_by_key(|&i| opinions.get(i).map(|o| std::cmp::Reverse(o.word.last)));
    // Of those that say the same the newest stands for all, however many they are.
    let (mut hold, mut said): (Vec<usize>, Vec<(Meaning, usize)>) = Default::default();
    for i in group {
        let Some(opinion) = opinions.get(i) else { continue };
        let Some(meaning) = opinion.meaning.clone() else { continue };
        let newer = said.iter().find(|(other, _)| !other.agrees(&meaning)).map(|(_, h)| *h);
        let by = newer.and_then(|h| opinions.get_mut(h)).map(|newer| {
            newer.supersedes = newer.supersedes.saturating_add(1);
            newer.interaction.id
        });
        if by.is_none() {
            hold.push(i);
            if said.iter().all(|(other, _)| *other != meaning) {
                said.push((meaning, i));
            }
        }
        if let Some(opinion) = opinions.get_mut(i) {
            opinion.superseded_by = by;
        }
    }
    for &i in &hold {
        if let Some(opinion) = opinions.get_mut(i) {
            opinion.identical = hold.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::FeedbackEntry;

    fn opinions(said: &[Meaning]) -> Vec<Opinion> {
        let one = |(n, meaning): (usize, &Meaning)| {
            let id = InteractionId(n as u32);
            let entry = FeedbackEntry { id, at_ms: n as u64, kind: FeedbackKind::Reject, was: None };
            let word = LastWord { entry, first_ms: n as u64, first: n, last: n };
            let interaction = InteractionEntry { id, at_ms: 0, offset: 0, answer: None, generation: 0, novel: false };
            let meaning = Some(meaning.clone());
            let (digest, superseded_by, identical, supersedes) = ([0; 32], None, 1, 0);
            Opinion { word, interaction, meaning, digest, superseded_by, identical, supersedes }
        };
        let mut opinions: Vec<Opinion> = said.iter().enumerate().map(one).collect();
        let group = (0..opinions.len()).collect();
        settle(&mut opinions, group);
        opinions
    }

    #[test]
    fn of_several_labels_for_one_input_the_newest_holds() {
        let is = |class: &str| Meaning::Is(class.into());
        let not = |class: &str| Meaning::IsNot(class.into());
        let hold = |said: &[Meaning]| -> Vec<bool> { opinions(said).iter().map(|o| o.teaches().is_some()).collect() };
        assert_eq!(hold(&[is("a"), is("a")]), [true, true]);
        assert_eq!(hold(&[is("a"), is("a"), is("b")]), [false, false, true]);
        assert_eq!(hold(&[is("a"), is("b"), is("a")]), [true, false, true], "back to what was said first");
        assert_eq!(hold(&[is("a"), not("a")]), [false, true]);
        assert_eq!(hold(&[not("a"), is("b"), not("c")]), [true, true, true]);
        assert_eq!(hold(&[not("b"), is("b")]), [false, true]);
        let all = opinions(&[is("a"), is("a"), is("b")]);
        assert_eq!((all[2].supersedes, all[0].superseded_by, all[2].identical), (2, Some(InteractionId(2)), 1));
    }

    #[test]
    fn a_year_of_the_same_on_one_input_takes_no_time() {
        const YEAR: usize = 200_000;
        let said: Vec<Meaning> = (0..YEAR).map(|_| Meaning::Is("a".into())).collect();
        let begun = std::time::Instant::now();
        let all = opinions(&said);
        let took = begun.elapsed();
        assert!(all.iter().all(|o| o.identical == YEAR && o.teaches().is_some()));
        // Each against each other one would be 20 thousand million comparisons.
        assert!(took.as_secs() < 5, "{took:?}");
    }
}
