//! What people say about answers.

use super::Session;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result, names};
use crate::input::label;
use crate::journal::{FeedbackKind, InteractionId};
use crate::runtime::config::NewClasses;
use crate::runtime::now_ms;
use crate::sync::lock;

/// What a person says about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feedback {
    /// The right answer is this class.
    Label(String),
    /// The right answer is this class, and it may be one that nobody has named before.
    NewLabel(String),
    /// The answer is right.
    Accept,
    /// The answer is wrong; the right one is not said.
    Reject,
}

/// What happened to feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedbackReceipt {
    /// The interaction.
    pub id: InteractionId,
    /// Whether it is durable; always true, since feedback is not acknowledged before.
    pub durable: bool,
    /// Feedback items that the last training did not read: those recorded after it began.
    pub waiting: usize,
    /// The generation that this feedback showed to be worse than the base, and that was rolled back automatically (never without the feature
    /// `train`).
    pub rolled_back: Option<u64>,
}

impl Session {
    /// Records what a person said about an answer; returns when it is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown or already used id, an unknown label, or an `Accept` or `Reject` of an interaction
    /// without an answer; [`ErrorKind::Io`] when the disk does not take it: then nothing was recorded.
    pub fn feedback(&self, id: InteractionId, feedback: Feedback) -> Result<FeedbackReceipt> {
        lock(&self.journal).refresh()?;
        let kind = match feedback {
            Feedback::Accept | Feedback::Reject => {
                let journal = lock(&self.journal);
                let answered = journal.state().interaction(id)?.is_none_or(|i| i.answer.is_some());
                if !answered {
                    return Err(Error::usage("there was no answer to accept or reject")
                        .at(id)
                        .hint("say what is right with --label"));
                }
                if feedback == Feedback::Accept { FeedbackKind::Accept } else { FeedbackKind::Reject }
            }
            Feedback::NewLabel(label) => FeedbackKind::Label(check_label(label)?),
            Feedback::Label(label) => {
                let label = check_label(label)?;
                if self.home.config().new_classes == NewClasses::Ask {
                    let known = self.known_labels();
                    if !known.contains(&label) {
                        return Err(unknown_label(&label, &known));
                    }
                }
                FeedbackKind::Label(label)
            }
        };
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            journal.reopen()?;
        }
        let waiting = journal.record_feedback(id, now_ms(), kind)?;
        drop(journal);
        Ok(FeedbackReceipt { id, durable: true, waiting, rolled_back: self.watched() })
    }
}

fn check_label(text: String) -> Result<String> {
    label::clean(&text).map_err(|e| Error::usage(e.what()).hint(e.next_step().unwrap_or_default()))
}

fn unknown_label(label: &str, known: &[String]) -> Error {
    let near = names::near(label, known.iter().map(String::as_str));
    let (shown, more) = match near.is_empty() {
        true => {
            (known.iter().take(8).map(String::as_str).collect::<Vec<_>>(), if known.len() > 8 { ", …" } else { "" })
        }
        false => (near, ""),
    };
    Error::usage(format!("unknown label {label:?}"))
        .because(format!("known labels: {}{more}", shown.join(", ")))
        .hint("correct the label, or add --new-class to teach a class that nobody has named before")
}
