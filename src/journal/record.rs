//! What a journal records. These types are its format (see `docs/journal-format.md`): enumerations only grow at their
//! end.

use serde::{Deserialize, Serialize};

pub use super::id::InteractionId;
use super::index::{Footer, Place, Revised, SegmentInfo};
use crate::adapter::Verdict;

/// Type of the elements of a stored array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned byte.
    U8,
}

impl Dtype {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::I64 => "i64",
            Dtype::U8 => "u8",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::I64 => 8,
            Dtype::U8 => 1,
        }
    }
}

/// One named array of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredArray {
    /// Name of the model's input.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each dimension.
    pub shape: Vec<u64>,
    /// Elements, little-endian, row-major.
    #[serde(with = "bytes")]
    pub data: Vec<u8>,
}

impl StoredArray {
    /// Whether the data have the length that shape and type ask for.
    pub fn is_sound(&self) -> bool {
        let elements = self.shape.iter().try_fold(self.dtype.size() as u64, |n, d| n.checked_mul(*d));
        elements == Some(self.data.len() as u64)
    }
}

/// An input as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StoredInput {
    /// A text.
    Text(String),
    /// The model's inputs as they are.
    Arrays(Vec<StoredArray>),
    /// An image before preprocessing.
    Image {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The PNG file.
        #[serde(with = "bytes")]
        png: Vec<u8>,
    },
    /// A conversation with a language model, and the answer to its last message.
    Conversation(StoredConversation),
}

/// A conversation and the answer that was generated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConversation {
    /// What was said before the answer, in order: who speaks, and what.
    pub messages: Vec<(String, String)>,
    /// The answer, without special tokens.
    pub answer: String,
    /// Whether the model ended it, and not a limit or the reader.
    pub ended: bool,
}

impl StoredInput {
    /// BLAKE3 of what was asked: the same for two inputs only if they are the same, byte for byte.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        match self {
            StoredInput::Text(text) => part(text.as_bytes()),
            StoredInput::Arrays(arrays) => {
                for array in arrays {
                    part(array.name.as_bytes());
                    part(array.dtype.name().as_bytes());
                    array.shape.iter().for_each(|length| part(&length.to_le_bytes()));
                    part(&array.data);
                }
            }
            StoredInput::Conversation(conversation) => {
                part(b"conversation");
                for (role, content) in &conversation.messages {
                    part(role.as_bytes());
                    part(content.as_bytes());
                }
            }
            StoredInput::Image { width, height, png } => {
                part(&width.to_le_bytes());
                part(&height.to_le_bytes());
                part(png);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// What the person said about an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedbackKind {
    /// The right answer is this.
    Label(String),
    /// The answer is right.
    Accept,
    /// The answer is wrong, the right one unknown.
    Reject,
    /// What was said is to teach nothing. Only in a [`Record::Revision`].
    Ignored,
    /// The right answer is none of the classes.
    NoneOfThese,
    /// The answer should have been this text.
    Edit(String),
    /// The answer is better than the one of this interaction, to the same messages.
    PreferredOver(InteractionId),
    /// The answer is wrong, and why; what is right is not known.
    RejectBecause(String),
    /// The answer to these messages is to be this text. Nobody was answered: the text came along with the messages.
    Demonstration(String),
}

impl FeedbackKind {
    /// The word for it on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            FeedbackKind::Label(_) => "label",
            FeedbackKind::Accept => "accept",
            FeedbackKind::Reject | FeedbackKind::RejectBecause(_) => "reject",
            FeedbackKind::Ignored => "ignored",
            FeedbackKind::NoneOfThese => "none",
            FeedbackKind::Edit(_) => "edit",
            FeedbackKind::PreferredOver(_) => "preferred-over",
            FeedbackKind::Demonstration(_) => "demonstration",
        }
    }

    /// Whether it says that the answer is wrong, and not what is right.
    pub fn rejects(&self) -> bool {
        matches!(self, FeedbackKind::Reject | FeedbackKind::RejectBecause(_))
    }

    /// A revision of `was` to this, counted.
    pub(super) fn in_place_of(&self, was: &FeedbackKind) -> Revised {
        Revised {
            revisions: 1,
            were_rejected: u64::from(was.rejects()),
            ignored: u64::from(*self == FeedbackKind::Ignored),
            were_ignored: u64::from(*was == FeedbackKind::Ignored),
        }
    }
}

/// Beside the classes of an answer: that the input is like none of the known ones, with its familiarity. No class has
/// this label.
pub const NOVEL: &str = "\0novel";

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A question and its answer.
    Interaction {
        /// Its name.
        id: InteractionId,
        /// Unix time in milliseconds.
        at_ms: u64,
        /// What was asked.
        input: StoredInput,
        /// Labels and probabilities, best first.
        top: Vec<(String, f32)>,
        /// Generation that answered.
        generation: u64,
    },
    /// What the person said about an interaction.
    Feedback {
        /// The interaction.
        id: InteractionId,
        /// Unix time in milliseconds.
        at_ms: u64,
        /// What was said.
        kind: FeedbackKind,
    },
    /// A training run that says nothing about feedback recorded while it ran: [`Record::decode`] makes a
    /// [`Record::Training`] of it. No longer written.
    TrainingOfAll {
        /// Unix time in milliseconds.
        at_ms: u64,
        /// The new generation, if one was promoted.
        generation: Option<u64>,
        /// What the gate said.
        verdict: Verdict,
        /// Optimiser steps.
        steps: u64,
        /// Duration.
        seconds: f32,
    },
    /// Every byte before this record was durable before this record was written.
    Synced,
    /// The segments that come before what this file holds, oldest first; only ever the first record of a file.
    Segments(Vec<SegmentInfo>),
    /// In a sealed segment: where the records of these interactions stand, by growing id.
    Index(Vec<Place>),
    /// In a sealed segment: what it holds.
    Footer(Box<Footer>),
    /// A training run and its outcome.
    Training {
        /// Unix time in milliseconds.
        at_ms: u64,
        /// The new generation, if one was promoted.
        generation: Option<u64>,
        /// What the gate said.
        verdict: Verdict,
        /// Optimiser steps.
        steps: u64,
        /// Duration.
        seconds: f32,
        /// Feedback items before this record that the training did not read: they were recorded while it ran.
        unread: u64,
    },
    /// What was said last about an interaction is replaced.
    Revision {
        /// The interaction.
        id: InteractionId,
        /// Unix time in milliseconds.
        at_ms: u64,
        /// What holds from now on.
        kind: FeedbackKind,
        /// What was said last.
        was: FeedbackKind,
    },
    /// In a sealed segment with revisions, in the place of [`Record::Footer`].
    RevisedFooter(Box<Footer>, Revised),
}

impl Record {
    /// The record whose postcard is all of `bytes`; `None` if they are not the postcard of exactly one.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        match postcard::take_from_bytes(bytes) {
            Ok((Record::TrainingOfAll { at_ms, generation, verdict, steps, seconds }, [])) => {
                Some(Record::Training { at_ms, generation, verdict, steps, seconds, unread: 0 })
            }
            Ok((record, [])) => Some(record),
            _ => None,
        }
    }

    /// Whether it tells of something that happened, and not of the file.
    pub fn is_told(&self) -> bool {
        matches!(
            self,
            Record::Interaction { .. } | Record::Feedback { .. } | Record::Revision { .. } | Record::Training { .. }
        )
    }

    /// The interaction that it is or speaks of.
    pub fn interaction(&self) -> Option<InteractionId> {
        match self {
            Record::Interaction { id, .. } | Record::Feedback { id, .. } | Record::Revision { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Byte strings as one block, which postcard copies at once.
mod bytes {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Block;
        impl Visitor<'_> for Block {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Block)
    }
}
