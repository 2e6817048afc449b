//! What a person may say about an answer that is text.

use crate::error::{Error, Result};
use crate::journal::{FeedbackKind, InteractionId, StoredConversation, StoredInput};
use crate::runtime::session::{Feedback, Session};
use crate::sync::lock;

/// Longest text that an answer is edited to.
const LONGEST_EDIT: usize = 1 << 20;
/// Longest reason that is kept.
const LONGEST_REASON: usize = 4 << 10;

impl Session {
    /// What the journal keeps of `feedback` on the answer `id` of a language model.
    pub(in crate::runtime) fn kind_for_text(&self, id: InteractionId, feedback: Feedback) -> Result<FeedbackKind> {
        let about = self.stored_conversation(id)?;
        // What could not be learned is not acknowledged.
        let teaches = |of: &StoredConversation| {
            self.home().language()?.can_be_taught(of, &of.answer, of.ended).map_err(|e| e.at(id))
        };
        match feedback {
            Feedback::Accept => teaches(&about).map(|()| FeedbackKind::Accept),
            Feedback::Reject => teaches(&about).map(|()| FeedbackKind::Reject),
            Feedback::RejectBecause(why) => {
                teaches(&about)?;
                let why = why.trim();
                match why.len() {
                    0 => Ok(FeedbackKind::Reject),
                    1..=LONGEST_REASON => Ok(FeedbackKind::RejectBecause(why.into())),
                    n => Err(Error::bad_data(format!("a reason of {n} bytes; at most {LONGEST_REASON} are kept"))
                        .at(id)
                        .hint("shorten it")),
                }
            }
            Feedback::Edit(text) => {
                let text = text.trim().to_string();
                if text.is_empty() {
                    return Err(Error::usage("an edit to nothing")
                        .at(id)
                        .hint("--reject says that the answer was wrong"));
                }
                if text == about.answer.trim() {
                    return Err(Error::usage("the edited text is the answer itself")
                        .at(id)
                        .hint("--accept says that the answer was right"));
                }
                if text.len() > LONGEST_EDIT {
                    let what = format!("a text of {} bytes; an answer is edited to at most {LONGEST_EDIT}", text.len());
                    return Err(Error::bad_data(what).at(id));
                }
                self.home().language()?.can_be_taught(&about, &text, true).map_err(|e| e.at(id))?;
                Ok(FeedbackKind::Edit(text))
            }
            Feedback::PreferredOver(other) => {
                if other == id {
                    return Err(Error::usage("an answer cannot be better than itself").at(id));
                }
                let than = self.stored_conversation(other)?;
                if than.messages != about.messages {
                    return Err(Error::usage(format!("the answers {id} and {other} are to other messages"))
                        .hint("compare two answers to the same messages"));
                }
                teaches(&about)?;
                teaches(&than)?;
                Ok(FeedbackKind::PreferredOver(other))
            }
            Feedback::Label(_) | Feedback::NewLabel(_) | Feedback::NoneOfThese => {
                Err(Error::usage("the model of this home answers with text, not with classes")
                    .at(id)
                    .hint("say what the answer should have been with --edit"))
            }
        }
    }

    /// The conversation that the answer `id` belongs to.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where there is no such interaction.
    pub(in crate::runtime) fn stored_conversation(&self, id: InteractionId) -> Result<StoredConversation> {
        let snapshot = lock(&self.journal).snapshot();
        match snapshot.input(id)? {
            StoredInput::Conversation(conversation) => Ok(conversation),
            _ => Err(Error::bad_data("the journal holds another kind of input than a conversation").at(id)),
        }
    }
}
