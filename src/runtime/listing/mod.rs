//! What a profile was asked, what it answered and what was said about it, to be looked through by the person.

mod flags;

use std::collections::HashMap;

use super::{Session, now_ms, opinions};
use crate::error::Result;
use crate::input::label::{NONE_OF_THESE, shown};
use crate::journal::{
    FeedbackEntry, FeedbackKind, InteractionEntry, InteractionId, Snapshot, StoredConversation, StoredInput,
};
use crate::sync::lock;
use flags::Flags;
pub use flags::{Flag, Flagged};

/// Which interactions to list; all when nothing is set.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those with feedback, or only those without.
    pub feedback: Option<bool>,
    /// Only those that were said to be this class, or were answered so and nothing was said.
    pub label: Option<String>,
    /// Only those with a flag.
    pub flagged: bool,
    /// Only those with one of these flags; with any, or none, where this is empty.
    pub flags: Vec<Flag>,
    /// Only answers of this generation.
    pub generation: Option<u64>,
    /// Only those of the last so many milliseconds.
    pub last_ms: Option<u64>,
    /// At most so many, the latest.
    pub limit: Option<usize>,
}

/// An interaction as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub id: InteractionId,
    /// When it was asked, in Unix milliseconds.
    pub at_ms: u64,
    /// What was asked.
    pub input: Asked,
    /// The best label and its probability; `None` if no class was known.
    pub answer: Option<(String, f32)>,
    /// Whether the answer was that it is none of the classes.
    pub none: bool,
    /// Generation that answered.
    pub generation: u64,
    /// What was said about the answer, if anything.
    pub feedback: Option<FeedbackEntry>,
    /// What is doubtful about it, in the order of [`Flag::ALL`].
    pub flags: Vec<Flagged>,
}

/// An input, without what fills pages.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A text.
    Text(String),
    /// Arrays: name, type and shape of each.
    Arrays(Vec<(String, &'static str, Vec<u64>)>),
    /// A conversation, and the answer to it.
    Conversation(StoredConversation),
    /// A picture.
    Image {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

/// What [`Session::interactions`] found.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The latest first.
    pub interactions: Vec<Listed>,
    /// Whether there are more than the limit.
    pub more: bool,
    /// What is doubtful about whole classes of this profile, whatever is listed.
    pub of_classes: Vec<Flagged>,
}

impl Session {
    internal! {
        /// Interactions that pass `filter`, the latest first. What is recorded meanwhile is not among them.
        ///
        /// # Errors
        /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) if a record is damaged,
        /// [`ErrorKind::Busy`](crate::ErrorKind::Busy), [`ErrorKind::Io`](crate::ErrorKind::Io).
        pub fn interactions(&self, filter: &Filter) -> Result<Listing> {
            let journal = {
                let mut journal = lock(&self.journal);
                journal.refresh()?;
                journal.snapshot()
            };
            let since = filter.last_ms.map_or(0, |ms| now_ms().saturating_sub(ms));
            let limit = filter.limit.unwrap_or(usize::MAX);
            let opinions = opinions::read(&journal, usize::MAX)?;
            let mut flags = Flags::find(&opinions, self.doubts()?.as_ref(), self.store.current()?);
            let of_classes = std::mem::take(&mut flags.of_classes);
            let mut listing = Listing { of_classes, ..Listing::default() };
            let said: HashMap<InteractionId, FeedbackEntry> =
                opinions.into_iter().map(|o| (o.interaction.id, o.word.entry)).collect();
            for entry in journal.state().all_interactions().rev() {
                let entry = entry?;
                if entry.at_ms < since || filter.generation.is_some_and(|g| g != entry.generation) {
                    continue;
                }
                let feedback = said.get(&entry.id);
                let flagged = flags.of.remove(&entry.id).unwrap_or_default();
                if !filter.takes(&entry, feedback, &flagged) {
                    continue;
                }
                if listing.interactions.len() >= limit {
                    listing.more = true;
                    break;
                }
                listing.interactions.push(listed(&journal, entry, feedback.cloned(), flagged)?);
            }
            Ok(listing)
        }
    }
}

impl Filter {
    fn takes(&self, entry: &InteractionEntry, feedback: Option<&FeedbackEntry>, flagged: &[Flagged]) -> bool {
        (!self.flagged || !flagged.is_empty())
            && (self.flags.is_empty() || flagged.iter().any(|f| self.flags.contains(&f.flag)))
            && self.feedback.is_none_or(|wanted| wanted == feedback.is_some())
            && self.label.as_deref().is_none_or(|label| class(entry, feedback.map(|f| &f.kind)) == Some(label))
    }
}

/// The class that was said to be right; where nothing was said, the one that was answered.
fn class<'a>(entry: &'a InteractionEntry, said: Option<&'a FeedbackKind>) -> Option<&'a str> {
    match said {
        Some(FeedbackKind::Label(label)) => Some(label),
        Some(FeedbackKind::NoneOfThese) => Some(shown(NONE_OF_THESE)),
        Some(
            FeedbackKind::Reject
            | FeedbackKind::RejectBecause(_)
            | FeedbackKind::Ignored
            | FeedbackKind::Edit(_)
            | FeedbackKind::PreferredOver(_)
            | FeedbackKind::Demonstration(_),
        ) => None,
        Some(FeedbackKind::Accept) | None if entry.novel => Some(shown(NONE_OF_THESE)),
        Some(FeedbackKind::Accept) | None => entry.answer.as_ref().map(|(label, _)| shown(label)),
    }
}

fn listed(
    journal: &Snapshot,
    entry: InteractionEntry,
    feedback: Option<FeedbackEntry>,
    flags: Vec<Flagged>,
) -> Result<Listed> {
    let input = asked(journal.input(entry.id)?);
    let none = entry.novel || entry.answer.as_ref().is_some_and(|(label, _)| &**label == NONE_OF_THESE);
    let answer = entry.answer.map(|(label, p)| (shown(&label).to_string(), p));
    Ok(Listed { id: entry.id, at_ms: entry.at_ms, input, answer, none, generation: entry.generation, feedback, flags })
}

fn asked(input: StoredInput) -> Asked {
    match input {
        StoredInput::Text(text) => Asked::Text(text),
        StoredInput::Conversation(conversation) => Asked::Conversation(conversation),
        StoredInput::Image { width, height, png: _ } => Asked::Image { width, height },
        StoredInput::Arrays(arrays) => {
            Asked::Arrays(arrays.into_iter().map(|a| (a.name, a.dtype.name(), a.shape)).collect())
        }
    }
}
