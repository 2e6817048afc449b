//! Which answers are turns of one conversation.

use std::collections::{HashMap, HashSet};

use super::forget::add;
use crate::journal::StoredConversation;

/// Of each answer the conversation that it is a turn of, by number. Answers to the same messages are of one, and an
/// answer whose messages go on from those of another one is of that one's: the one nearest before it. Where several
/// conversations go on from the same messages, these belong to the first of them; so a greeting that all begin with
/// does not make them one.
pub(super) fn conversations(answers: &[StoredConversation]) -> Vec<usize> {
    let names: Vec<[u8; 32]> = answers.iter().map(|a| *named(&a.messages).finalize().as_bytes()).collect();
    let mut firsts: HashMap<[u8; 32], usize> = HashMap::new();
    names.iter().enumerate().for_each(|(at, name)| {
        firsts.entry(*name).or_insert(at);
    });
    // Shorter ones first: what comes before a turn is known when it is its turn.
    let mut order: Vec<usize> = firsts.values().copied().collect();
    order.sort_by_key(|at| (answers[*at].messages.len(), *at));
    let mut of: Vec<usize> = (0..answers.len()).collect();
    let mut gone_on: HashSet<usize> = HashSet::new();
    for at in order {
        let before = before(&answers[at].messages).into_iter().rev().find_map(|name| firsts.get(&name).copied());
        if let Some(before) = before.filter(|before| gone_on.insert(*before)) {
            of[at] = of[before];
        }
    }
    names.iter().map(|name| of[firsts[name]]).collect()
}

type Messages = [(String, String)];

/// The names of the messages before each turn of the assistant.
fn before(messages: &Messages) -> Vec<[u8; 32]> {
    let mut hasher = named(&[]);
    let mut names = vec![];
    for message in messages {
        if message.0 == "assistant" {
            names.push(*hasher.clone().finalize().as_bytes());
        }
        add(&mut hasher, &message.0, &message.1);
    }
    names
}

fn named(messages: &Messages) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    messages.iter().for_each(|(role, content)| add(&mut hasher, role, content));
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to a user who says this, with the turns of the assistant between.
    fn after(said: &[&str]) -> StoredConversation {
        let mut messages = vec![("system".to_string(), "Be brief.".to_string())];
        for (at, text) in said.iter().enumerate() {
            if at > 0 {
                messages.push(("assistant".into(), format!("To {}.", said[at - 1])));
            }
            messages.push(("user".into(), text.to_string()));
        }
        StoredConversation { messages, answer: "Yes.".into(), ended: true }
    }

    #[test]
    fn turns_of_a_conversation_are_together_whatever_their_order() {
        let answers = [after(&["a", "b", "c"]), after(&["x"]), after(&["a"]), after(&["a", "b"]), after(&["x"])];
        let of = conversations(&answers);
        assert!(of[0] == of[2] && of[2] == of[3], "{of:?}");
        assert!(of[1] == of[4] && of[1] != of[0], "{of:?}");
        // Nothing was said about the turn between.
        let of = conversations(&[after(&["a", "b", "c"]), after(&["a"])]);
        assert_eq!(of[0], of[1]);
    }

    #[test]
    fn a_common_greeting_does_not_make_one_conversation_of_many() {
        let answers = [after(&["hi"]), after(&["hi", "a"]), after(&["hi", "b"]), after(&["hi", "b", "c"])];
        let of = conversations(&answers);
        assert!(of[0] == of[1] && of[2] == of[3] && of[1] != of[2], "{of:?}");
        // Nothing was said about the greeting.
        let of = conversations(&answers[1..]);
        assert!(of[0] != of[1] && of[1] == of[2], "{of:?}");
    }
}
