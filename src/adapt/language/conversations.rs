//! What follows from it that the answers of a conversation are not independent.

use std::collections::{BTreeMap, HashMap};

use super::LanguageExample;
use crate::gate::language::{Call, Calls};
use crate::stats::random::{keyed_rng, shuffle};

/// Conversations without which the paired test shows nothing.
const FEWEST_CONVERSATIONS: usize = 5;

/// The calls that count in the test: one a conversation, by most of its answers, since these are not independent. Of
/// fewer conversations than the test needs, each answer counts. Whether conversations do. Each call comes with the
/// conversation of its answer.
pub(super) fn independent(calls: impl Iterator<Item = (usize, Call)> + Clone) -> (Calls, bool) {
    let mut balance: BTreeMap<usize, i64> = BTreeMap::new();
    calls.clone().for_each(|(of, call)| *balance.entry(of).or_default() += call.sign());
    match balance.len() >= FEWEST_CONVERSATIONS {
        true => (Calls::count(balance.into_values().map(Call::of_sign)), true),
        false => (Calls::count(calls.map(|(_, call)| call)), false),
    }
}

/// Of each example its fold, `most` at most: a conversation is on one side. Where there are fewer conversations than
/// folds, or one has more than half of the examples, the same messages are.
pub(super) fn folds(examples: &[LanguageExample], most: usize, seed: u64) -> Vec<usize> {
    let sizes = |groups: &[usize]| {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        groups.iter().for_each(|group| *sizes.entry(*group).or_default() += 1);
        sizes
    };
    let conversations: Vec<usize> = examples.iter().map(|e| e.conversation).collect();
    let of_conversations = sizes(&conversations);
    let largest = of_conversations.values().max().copied().unwrap_or(0);
    let same = |e: &LanguageExample| examples.iter().position(|other| other.messages == e.messages).unwrap_or(0);
    let groups = match of_conversations.len() >= most && 2 * largest <= examples.len() {
        true => conversations,
        false => examples.iter().map(same).collect(),
    };
    let sizes = sizes(&groups);
    let mut order: Vec<usize> = sizes.keys().copied().collect();
    shuffle(&mut order, keyed_rng(seed, 0, 0));
    // Larger ones first, each to the fold that has the fewest.
    order.sort_by_key(|group| std::cmp::Reverse(sizes[group]));
    let mut held = vec![0; most.min(order.len()).max(1)];
    let mut fold: HashMap<usize, usize> = HashMap::new();
    for group in order {
        let least = (0..held.len()).min_by_key(|at| held[*at]).unwrap_or(0);
        held[least] += sizes[&group];
        fold.insert(group, least);
    }
    groups.iter().map(|group| fold[group]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::language::Said;
    use crate::plan::Text;

    /// Answers, each to its messages and in its conversation.
    fn examples(of: &[(u8, usize)]) -> Vec<LanguageExample> {
        let text = || Text { tokens: vec![0, 1], start: 1 };
        let one = |&(messages, conversation): &(u8, usize)| LanguageExample {
            said: Said::Good(text()),
            messages: [messages; 32],
            conversation,
            at_ms: 0,
            fresh: true,
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn a_conversation_is_in_one_fold() {
        // Six conversations of three turns each.
        let all: Vec<(u8, usize)> = (0..18).map(|at| (at as u8, at / 3)).collect();
        for seed in 0..8 {
            let of = folds(&examples(&all), 3, seed);
            assert!(of.chunks(3).all(|turns| turns.iter().all(|fold| *fold == turns[0])), "{of:?}");
            let size = |fold: usize| of.iter().filter(|f| **f == fold).count();
            assert_eq!([size(0), size(1), size(2)], [6, 6, 6]);
        }
    }

    #[test]
    fn one_conversation_of_many_turns_leaves_the_folds_alike() {
        let all: Vec<(u8, usize)> = (0..20).map(|at| (at as u8, usize::from(at >= 18) * at)).collect();
        let of = folds(&examples(&all), 3, 0);
        let size = |fold: usize| of.iter().filter(|f| **f == fold).count();
        assert!((0..3).all(|fold| (6..=7).contains(&size(fold))), "{of:?}");
    }

    #[test]
    fn a_conversation_counts_once() {
        // One of twenty better answers, and seven of a worse one each.
        let one = (0..20).map(|_| (0, Call::Better));
        let others = (1..8).map(|of| (of, Call::Worse));
        let (calls, by_conversation) = independent(one.clone().chain(others));
        assert_eq!((calls, by_conversation), (Calls { better: 1, worse: 7, n: 8 }, true));
        let mixed = [Call::Better, Call::Worse, Call::Better, Call::Same].map(|call| (0, call));
        let (calls, _) = independent(mixed.into_iter().chain((1..5).map(|of| (of, Call::Same))));
        assert_eq!(calls, Calls { better: 1, worse: 0, n: 5 });
        let (calls, by_conversation) = independent(one.chain([(1, Call::Worse)]));
        assert_eq!((calls.better, calls.worse, by_conversation), (20, 1, false));
    }

    #[test]
    fn one_long_conversation_is_cut_by_its_messages() {
        let all: Vec<(u8, usize)> = (0..12).map(|at| (at / 2, 0)).collect();
        let of = folds(&examples(&all), 3, 0);
        assert!(of.chunks(2).all(|same| same[0] == same[1]), "{of:?}");
        assert!((0..3).all(|fold| of.contains(&fold)), "{of:?}");
        assert_eq!(folds(&examples(&[(1, 0), (1, 0)]), 3, 0), [0, 0], "all of one message");
    }
}
