//! What there is to learn from a conversation: what somebody said about an answer.

use crate::plan::Text;

/// What somebody said about an answer that is text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// It should have been the edited one.
    Edit { edited: Text, original: Option<Text> },
    /// One of two answers to the same messages is better.
    Preference { chosen: Text, rejected: Text },
    /// It was good.
    Good(Text),
    /// It was bad.
    Bad(Text),
}

impl Said {
    /// The texts that are looked at: the better one first.
    pub fn texts(&self) -> Vec<&Text> {
        match self {
            Said::Edit { edited, original } => [edited].into_iter().chain(original).collect(),
            Said::Preference { chosen, rejected } => vec![chosen, rejected],
            Said::Good(text) | Said::Bad(text) => vec![text],
        }
    }

    /// What the model was prompted with.
    pub fn prompt(&self) -> &[u32] {
        match self {
            Said::Edit { edited: text, .. }
            | Said::Preference { chosen: text, .. }
            | Said::Good(text)
            | Said::Bad(text) => &text.tokens[..text.start],
        }
    }
}

/// One thing to learn from.
#[derive(Debug, Clone)]
pub(crate) struct LanguageExample {
    pub said: Said,
    /// Names the messages that were answered.
    pub messages: [u8; 32],
    /// When it was said, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What there is to learn from, and what is to stay as it is.
pub(crate) struct LanguageDataset {
    /// In order of time.
    pub examples: Vec<LanguageExample>,
    /// Answers that nobody said anything about.
    pub kept: Vec<Text>,
    /// Prose that has nothing to do with the person.
    pub neutral: Vec<Text>,
    /// Beginnings of texts that the base model goes on with: what it thinks of these is to stay.
    pub starts: Vec<Vec<u32>>,
    /// Prompts whose answers must come to an end as the base model's do.
    pub probes: Vec<Vec<u32>>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
}
