//! What people say about answers.

use std::sync::MutexGuard;

use super::Session;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result, names};
use crate::input::label;
use crate::journal::{FeedbackKind, InteractionId, Journal};
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
    /// Of a language model's answer: it is wrong, and why, for people to read.
    RejectBecause(String),
    /// The input is none of the classes.
    NoneOfThese,
    /// Of a language model's answer: it should have been this text.
    Edit(String),
    /// Of a language model's answer: it is better than that of this interaction, to the same messages.
    PreferredOver(InteractionId),
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
    /// The active generation, if it learned from feedback that this replaces or that is ignored from now on: the next training
    /// leaves that out.
    pub unlearns: Option<u64>,
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
        let kind = self.kind(id, feedback)?;
        let waiting = self.writable_journal()?.record_feedback(id, now_ms(), kind)?;
        Ok(FeedbackReceipt { id, durable: true, waiting, unlearns: None, rolled_back: self.watched() })
    }

    /// Puts `feedback` in the place of what was said about an answer before; returns when it is durable. The next training
    /// learns from this instead.
    ///
    /// # Errors
    /// As [`Session::feedback`]; [`ErrorKind::Usage`] also if nothing was said before, or exactly this.
    pub fn replace_feedback(&self, id: InteractionId, feedback: Feedback) -> Result<FeedbackReceipt> {
        let kind = self.kind(id, feedback)?;
        self.revise(id, kind)
    }

    /// From now on what was said about an answer teaches nothing. It stays in the journal, and [`Session::replace_feedback`] makes it
    /// teach again; [`Session::forget`] removes it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown id, or if nothing was said, or it is ignored already; [`ErrorKind::Io`] when the disk does
    /// not take it: then nothing has changed.
    pub fn ignore_feedback(&self, id: InteractionId) -> Result<FeedbackReceipt> {
        lock(&self.journal).refresh()?;
        self.revise(id, FeedbackKind::Ignored)
    }

    fn revise(&self, id: InteractionId, kind: FeedbackKind) -> Result<FeedbackReceipt> {
        let serving = self.follow()?;
        let mut journal = self.writable_journal()?;
        let taught = serving.generation > 0 && journal.state().was_said_within(id, serving.examples)?;
        let (was, waiting) = journal.revise_feedback(id, now_ms(), kind)?;
        drop(journal);
        lock(&self.base_says).remove(&id);
        let unlearns = (taught && was != FeedbackKind::Ignored).then_some(serving.generation);
        let rolled_back = self.watched();
        let unlearns = unlearns.filter(|generation| rolled_back != Some(*generation));
        Ok(FeedbackReceipt { id, durable: true, waiting, unlearns, rolled_back })
    }

    /// The journal, opened again where a write has failed before.
    pub(in crate::runtime) fn writable_journal(&self) -> Result<MutexGuard<'_, Journal>> {
        let mut journal = lock(&self.journal);
        if journal.writer().is_poisoned() {
            journal.reopen()?;
        }
        Ok(journal)
    }

    /// What the journal keeps of `feedback`, if it may be said about this answer.
    fn kind(&self, id: InteractionId, feedback: Feedback) -> Result<FeedbackKind> {
        lock(&self.journal).refresh()?;
        if self.home.generates() {
            return self.kind_for_text(id, feedback);
        }
        Ok(match feedback {
            Feedback::Edit(_) | Feedback::PreferredOver(_) | Feedback::RejectBecause(_) => {
                return Err(Error::usage("the model of this home answers with classes, not with text")
                    .at(id)
                    .hint("say what is right with --label"));
            }
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
            Feedback::NoneOfThese => FeedbackKind::NoneOfThese,
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
        })
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
