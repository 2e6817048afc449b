//! Forgetting an answer takes the rest of its conversation along, which holds it as well.

use std::collections::HashSet;

use crate::error::Result;
use crate::journal::{InteractionId, StoredConversation, StoredInput};
use crate::runtime::session::Session;
use crate::store::Selection;
use crate::sync::lock;

impl Session {
    /// `what`, with the answers later in the same conversations: their messages begin with those of a selected one.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(in crate::runtime) fn with_later_turns(&self, what: &Selection) -> Result<Selection> {
        let journal = {
            let mut journal = lock(&self.journal);
            journal.refresh()?;
            journal.snapshot()
        };
        let all = || journal.state().all_interactions();
        let ids: Vec<InteractionId> = match what {
            Selection::All => return Ok(what.clone()),
            Selection::Ids(ids) => ids.clone(),
            Selection::Before(ms) => {
                let older = all().filter(|i| i.as_ref().map_or(true, |i| i.at_ms < *ms));
                older.map(|i| i.map(|i| i.id)).collect::<Result<_>>()?
            }
        };
        let conversation = |id: InteractionId| -> Result<Option<StoredConversation>> {
            Ok(match journal.input(id)? {
                StoredInput::Conversation(c) => Some(c),
                _ => None,
            })
        };
        let mut begins: HashSet<[u8; 32]> = HashSet::new();
        for id in &ids {
            begins.extend(conversation(*id)?.map(|c| digest(&c.messages)));
        }
        let mut selected: Vec<InteractionId> = ids;
        let known: HashSet<InteractionId> = selected.iter().copied().collect();
        for entry in all() {
            let id = entry?.id;
            if known.contains(&id) {
                continue;
            }
            let Some(later) = conversation(id)? else { continue };
            if (1..later.messages.len()).any(|n| begins.contains(&digest(&later.messages[..n]))) {
                selected.push(id);
            }
        }
        Ok(Selection::Ids(selected))
    }
}

fn digest(messages: &[(String, String)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for text in messages.iter().flat_map(|(role, content)| [role, content]) {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
