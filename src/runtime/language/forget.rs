//! Forgetting an answer takes the rest of its conversation along, which holds it as well.

use std::collections::HashSet;

use crate::error::Result;
use crate::journal::{FeedbackKind, InteractionId, Journal, StoredConversation, StoredInput};
use crate::store::Selection;

/// `what`, with the answers later in the same conversations: their messages begin with those of a selected one and its
/// answer, as it was given or edited.
///
/// # Errors
/// When the journal cannot be read.
pub(in crate::runtime) fn with_later_turns(journal: &mut Journal, what: &Selection) -> Result<Selection> {
    journal.refresh()?;
    let journal = journal.snapshot();
    let all = || journal.state().all_interactions();
    let mut selected: Vec<InteractionId> = match what {
        Selection::All => return Ok(what.clone()),
        Selection::Ids(ids) => ids.clone(),
        Selection::Before(ms) => {
            let older = all().filter(|i| i.as_ref().map_or(true, |i| i.at_ms < *ms));
            older.map(|i| i.map(|i| i.id)).collect::<Result<_>>()?
        }
    };
    let known: HashSet<InteractionId> = selected.iter().copied().collect();
    let conversation = |id: InteractionId| -> Result<Option<StoredConversation>> {
        Ok(match journal.input(id)? {
            StoredInput::Conversation(c) => Some(c),
            _ => None,
        })
    };
    let mut begins: HashSet<[u8; 32]> = HashSet::new();
    let mut begin = |of: &StoredConversation, answer: &str| {
        let mut hasher = blake3::Hasher::new();
        of.messages.iter().for_each(|(role, content)| add(&mut hasher, role, content));
        add(&mut hasher, "assistant", answer);
        begins.insert(*hasher.finalize().as_bytes());
    };
    for id in &selected {
        if let Some(c) = conversation(*id)? {
            begin(&c, &c.answer);
        }
    }
    for said in journal.state().all_feedback() {
        let said = said?;
        if let (FeedbackKind::Edit(text) | FeedbackKind::Demonstration(text), true) =
            (&said.kind, known.contains(&said.id))
            && let Some(c) = conversation(said.id)?
        {
            begin(&c, text);
        }
    }
    for entry in all() {
        let id = entry?.id;
        let Some(later) = conversation(id)?.filter(|_| !known.contains(&id)) else { continue };
        let mut hasher = blake3::Hasher::new();
        let holds = later.messages.iter().any(|(role, content)| {
            add(&mut hasher, role, content);
            begins.contains(hasher.clone().finalize().as_bytes())
        });
        if holds {
            selected.push(id);
        }
    }
    Ok(Selection::Ids(selected))
}

/// Adds a message to the hash of those before it.
pub(super) fn add(hasher: &mut blake3::Hasher, role: &str, content: &str) {
    for text in [role, content] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
}
