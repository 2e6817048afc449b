//! Journals of language models, as seeds.

use std::sync::Arc;

use acclimate::disk::RealDisk;
use acclimate::journal::{FeedbackKind, InteractionId, JournalWriter, Record, StoredConversation, StoredInput};

/// A journal of answers that are text, with everything that can be said about them.
pub fn journal() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.log");
    JournalWriter::create(&RealDisk, &path, 1).expect("a journal");
    let mut writer = JournalWriter::open(Arc::new(RealDisk), &path).expect("its writer");
    let said = [
        FeedbackKind::Edit("In the den.".into()),
        FeedbackKind::RejectBecause("too long".into()),
        FeedbackKind::PreferredOver(InteractionId(0)),
        FeedbackKind::Demonstration("Yes.".into()),
        FeedbackKind::Accept,
    ];
    for (at, kind) in said.into_iter().enumerate() {
        let id = InteractionId(at as u32);
        let input = answered(at);
        let asked = Record::Interaction { id, at_ms: 1, input, top: vec![], generation: 0 };
        writer.append(asked).expect("a record");
        writer.append(Record::Feedback { id, at_ms: 2, kind }).expect("a record");
    }
    drop(writer);
    std::fs::read(path).expect("the journal")
}

/// An answer of a language model to so many messages.
pub fn answered(turns: usize) -> StoredInput {
    let message =
        |at: usize| (if at.is_multiple_of(2) { "user" } else { "assistant" }.to_string(), "Where? ".repeat(at));
    let messages = (0..2 * turns + 1).map(message).collect();
    StoredInput::Conversation(StoredConversation { messages, answer: "Here.".into(), ended: turns.is_multiple_of(2) })
}
