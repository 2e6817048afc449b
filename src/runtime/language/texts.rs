//! Conversations as the tokens that a model is trained on: what it is prompted with, and what it should have written.

use super::Language;
use crate::chat::{Message, Moment};
use crate::error::{Error, Result};
use crate::journal::StoredConversation;
use crate::plan::Text;

impl Language {
    /// The conversation `messages` with `answer` as the assistant's next turn. The tokens from `start` on are what the
    /// model should write: the answer, and the token that ends it if it `ended`. Where the context does not hold all,
    /// the oldest turns are left out, as for an answer.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) where even the last turn does not fit the context, the model
    /// has no such token, or the answer holds a special token that ends it;
    /// [`ErrorKind::UnsupportedModel`](crate::ErrorKind::UnsupportedModel) where the chat template hides the end of a
    /// turn.
    pub(super) fn text(&self, messages: &[Message], answer: &str, ended: bool, at_ms: u64) -> Result<Text> {
        let context = self.decoder.context();
        let system = messages.iter().take_while(|m| ["system", "developer"].contains(&m.role.as_str())).count();
        let (fixed, turns) = messages.split_at(system);
        let starts = (0..turns.len()).filter(|ix| *ix == 0 || turns[*ix].role == "user");
        let mut least = None;
        for start in starts {
            let kept: Vec<Message> = fixed.iter().chain(&turns[start..]).cloned().collect();
            let text = self.whole_text(kept, answer, ended, at_ms)?;
            if text.tokens.len() <= context {
                self.decoder.knows(&text.tokens)?;
                return Ok(text);
            }
            least = Some(text.tokens.len());
        }
        Err(match least {
            None => Error::bad_data("a conversation without a message to answer"),
            Some(n) => {
                Error::bad_data(format!("the answer and its message take {n} tokens, of a context of {context}"))
                    .hint("shorten it")
            }
        })
    }

    /// The tokens that the model is prompted with to answer `messages` at a time, in milliseconds since 1970.
    ///
    /// # Errors
    /// As the chat template and the tokenizer.
    pub(super) fn prompt(&self, messages: &[Message], at_ms: u64) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            let text: String = messages.iter().map(|m| m.content.as_str()).collect();
            return self.tokens(&text, true);
        };
        let now = Moment::from_unix_seconds(i64::try_from(at_ms / 1000).unwrap_or(0))?;
        self.tokens(&template.render(messages, true, now)?, false)
    }

    fn whole_text(&self, mut messages: Vec<Message>, answer: &str, ended: bool, at_ms: u64) -> Result<Text> {
        let ends = &self.config.eos_token_id;
        let Some(template) = &self.template else {
            let prompt: String = messages.iter().map(|m| m.content.as_str()).collect();
            return self.split(&prompt, &(prompt.clone() + answer), true, ends.first().filter(|_| ended));
        };
        messages.push(Message::new("assistant", answer));
        let names: Vec<String> = ends.iter().filter_map(|id| self.tokenizer.id_to_token(*id)).collect();
        let now = Moment::from_unix_seconds(i64::try_from(at_ms / 1000).unwrap_or(0))?;
        let found = template.supervised_last(&messages, &names, now)?;
        let range = found.assistant.first().cloned().unwrap_or_default();
        let mut text = self.split(&found.text[..range.start], &found.text[..range.end], false, None)?;
        if !ended && text.tokens.last().is_some_and(|last| ends.contains(last)) {
            text.tokens.pop();
        }
        if text.start >= text.tokens.len() {
            return Err(no_token());
        }
        Ok(text)
    }

    /// `whole` and `end` as tokens, of which those behind `prompt` are looked at: from the first token on in which both
    /// differ.
    fn split(&self, prompt: &str, whole: &str, special: bool, end: Option<&u32>) -> Result<Text> {
        let (before, mut tokens) = (self.tokens(prompt, special)?, self.tokens(whole, special)?);
        tokens.extend(end);
        let start = before.iter().zip(&tokens).take_while(|(a, b)| a == b).count().max(1);
        match start < tokens.len() {
            true => Ok(Text { tokens, start }),
            false => Err(no_token()),
        }
    }

    /// Fails where the model cannot be taught to answer `about` with `answer`.
    pub(in crate::runtime) fn can_be_taught(
        &self,
        about: &StoredConversation,
        answer: &str,
        ended: bool,
    ) -> Result<()> {
        self.text(&messages(about), answer, ended, 0).map(drop)
    }
}

fn no_token() -> Error {
    Error::bad_data("the answer holds no token").hint("say what it should have been with --edit")
}

/// The messages before the answer.
pub(super) fn messages(of: &StoredConversation) -> Vec<Message> {
    of.messages.iter().map(|(role, content)| Message::new(role.clone(), content.clone())).collect()
}
