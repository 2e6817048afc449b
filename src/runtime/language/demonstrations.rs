//! Conversations that somebody brings: what a model is to answer, without having been asked.

use std::collections::HashSet;

use super::Language;
use crate::chat::Message;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{FeedbackKind, Snapshot, StoredConversation, StoredInput};
use crate::runtime::now_ms;
use crate::runtime::session::Session;
use crate::sync::lock;

/// What became of conversations that were brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demonstrations {
    /// Answers that were recorded.
    pub recorded: usize,
    /// Answers that had been recorded before.
    pub known: usize,
    /// Answers that the model cannot be taught, and why the first of them.
    pub unfit: usize,
    /// See `unfit`.
    pub reason: Option<String>,
}

impl Session {
    /// Records every answer of these conversations as what the model should answer to the messages before it; the
    /// next training learns from them as from edits. An answer that was recorded before is not recorded again, so
    /// that the same file can be given twice.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`] naming the conversation where one holds no answer; [`ErrorKind::UnsupportedModel`] where
    /// the chat template hides the end of a turn: nothing was recorded then. [`ErrorKind::Io`] when the disk does not
    /// take one: those before it are recorded.
    pub fn record_demonstrations(&self, conversations: &[Vec<Message>]) -> Result<Demonstrations> {
        let language = self.home.language()?;
        let mut found = Demonstrations::default();
        let mut fit: Vec<(StoredConversation, String)> = vec![];
        for (at, messages) in conversations.iter().enumerate() {
            let answers = answers(messages);
            if answers.is_empty() {
                return Err(Error::bad_data("a conversation without an answer of the assistant")
                    .at(format!("conversation {}", at + 1))
                    .hint("leave it out: it says nothing about how to answer"));
            }
            for (about, text) in answers {
                match check(language, &about, &text) {
                    Ok(()) => fit.push((about, text)),
                    Err(e) if e.kind() == ErrorKind::BadData => {
                        found.unfit += 1;
                        found.reason.get_or_insert_with(|| format!("conversation {}: {e}", at + 1));
                    }
                    Err(e) => return Err(e.within(format!("conversation {}", at + 1))),
                }
            }
        }
        let snapshot = {
            let mut journal = lock(&self.journal);
            journal.refresh()?;
            journal.snapshot()
        };
        let mut known = demonstrated(&snapshot)?;
        for (about, text) in fit {
            let input = StoredInput::Conversation(about);
            if !known.insert((input.digest(), text.clone())) {
                found.known += 1;
                continue;
            }
            let id = self.record(input, vec![], 0)?;
            self.writable_journal()?.record_feedback(id, now_ms(), FeedbackKind::Demonstration(text))?;
            found.recorded += 1;
        }
        Ok(found)
    }
}

/// The assistant's turns, each with the messages before it. An answer is the same text wherever it stands, so that
/// what holds it is found when it is to be forgotten.
fn answers(messages: &[Message]) -> Vec<(StoredConversation, String)> {
    let content = |m: &Message| match m.role.as_str() {
        "assistant" => m.content.trim().to_string(),
        _ => m.content.clone(),
    };
    let turns = messages.iter().enumerate().skip(1).filter(|(_, message)| message.role == "assistant");
    let about = |before: &[Message]| StoredConversation {
        messages: before.iter().map(|m| (m.role.clone(), content(m))).collect(),
        answer: String::new(),
        ended: false,
    };
    turns.map(|(at, turn)| (about(&messages[..at]), content(turn))).collect()
}

fn check(language: &Language, about: &StoredConversation, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::bad_data("an empty answer"));
    }
    language.can_be_taught(about, text, true)
}

/// What was demonstrated before: the digest of the messages, and the answer.
fn demonstrated(journal: &Snapshot) -> Result<HashSet<([u8; 32], String)>> {
    let mut known = HashSet::new();
    for entry in journal.state().all_feedback() {
        let entry = entry?;
        if let FeedbackKind::Demonstration(text) = entry.kind {
            known.insert((journal.input(entry.id)?.digest(), text));
        }
    }
    Ok(known)
}
