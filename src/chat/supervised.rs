//! Which part of a conversation's text is the assistant's: what supervised fine-tuning trains on.

use std::ops::Range;

use super::date::Moment;
use super::message::Message;
use super::template::ChatTemplate;
use crate::error::{Error, Result};

const ASSISTANT: &str = "assistant";

/// A conversation's text and the parts of it that the assistant is trained to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervised {
    /// The rendered conversation.
    pub text: String,
    /// One range of bytes of `text` an assistant turn, in order: from the end of the generation prompt to the
    /// end of the turn's end token.
    pub assistant: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The text of a conversation and its assistant turns. `ends` are the tokens that end generation, as
    /// texts (those of `eos_token_id` in the model's `generation_config.json`).
    ///
    /// Each turn has to stand in the text as the model would have been prompted for it and would have written
    /// it.
    ///
    /// Errors: as [`ChatTemplate::render`]; no assistant turn, nothing before the first one, or a turn that
    /// holds an end token itself ([`crate::ErrorKind::BadData`]); a template that ends turns with none of
    /// `ends`, that does not continue its own generation prompt, or that writes a turn otherwise when others
    /// follow, as some that take reasoning away do ([`crate::ErrorKind::UnsupportedModel`]); `ends` without a
    /// token ([`crate::ErrorKind::Usage`]).
    pub fn supervised(&self, messages: &[Message], ends: &[String], now: Moment) -> Result<Supervised> {
        let turns = assistant_turns(messages)?;
        let text = self.render(messages, false, now)?;
        let mut assistant = Vec::with_capacity(turns.len());
        for turn in turns {
            let alone = self.turn(messages, turn, ends, now)?;
            let range = alone.range;
            if text.get(..range.end) != alone.text.get(..range.end) {
                return Err(Error::unsupported(format!(
                    "the chat template writes turn {} otherwise when other turns follow it",
                    turn + 1
                ))
                .hint("train on one conversation for each assistant turn, each of which ends with that turn"));
            }
            assistant.push(range);
        }
        Ok(Supervised { text, assistant })
    }

    /// One example for each assistant turn: the conversation up to that turn, with that turn alone as the
    /// assistant's. It serves templates that write earlier turns otherwise than the last one.
    ///
    /// Errors: as [`ChatTemplate::supervised`], but for turns that are written otherwise when others follow.
    pub fn supervised_turns(&self, messages: &[Message], ends: &[String], now: Moment) -> Result<Vec<Supervised>> {
        let example = |turn| {
            let Turn { text, range } = self.turn(messages, turn, ends, now)?;
            Ok(Supervised { text, assistant: vec![range] })
        };
        assistant_turns(messages)?.into_iter().map(example).collect()
    }

    /// The whole conversation, which ends with an assistant turn, with that turn alone as the assistant's.
    ///
    /// Errors: as [`ChatTemplate::supervised_turns`].
    pub fn supervised_last(&self, messages: &[Message], ends: &[String], now: Moment) -> Result<Supervised> {
        let last = assistant_turns(messages)?.pop().filter(|turn| turn + 1 == messages.len());
        let last = last.ok_or_else(|| Error::internal("a conversation that does not end with the assistant"))?;
        let Turn { text, range } = self.turn(messages, last, ends, now)?;
        Ok(Supervised { text, assistant: vec![range] })
    }

    /// The conversation up to the assistant turn at `index`.
    fn turn(&self, messages: &[Message], index: usize, ends: &[String], now: Moment) -> Result<Turn> {
        let number = index + 1;
        if ends.is_empty() || ends.iter().any(String::is_empty) {
            return Err(Error::usage("no token that ends generation").hint("give the model's eos token"));
        }
        if let Some(end) = ends.iter().find(|end| messages[index].content.contains(end.as_str())) {
            return Err(Error::bad_data(format!("assistant turn {number} holds the end token {end:?}"))
                .hint("take special tokens out of the texts: the chat template writes them"));
        }
        let prompt = self.render(&messages[..index], true, now)?;
        let text = self.render(&messages[..=index], false, now)?;
        let Some(answer) = text.strip_prefix(prompt.as_str()) else {
            return Err(Error::unsupported(format!(
                "the chat template does not continue its own generation prompt in turn {number}"
            ))
            .hint("use a chat template made for training, or one without reasoning"));
        };
        // The first end token is where generation stops; of several at one place the longest.
        let found = ends.iter().filter_map(|end| Some((answer.find(end.as_str())?, end.len())));
        let end = found.min_by_key(|&(start, length)| (start, usize::MAX - length));
        let Some((start, length)) = end else {
            return Err(Error::unsupported(format!(
                "the chat template writes no end-of-turn token after assistant turn {number}: none of {ends:?}"
            ))
            .hint("a model trained so would not stop: use a chat template that writes one of these tokens"));
        };
        let range = prompt.len()..prompt.len() + start + length;
        Ok(Turn { text, range })
    }
}

/// A conversation that ends with an assistant turn, and the bytes of that turn.
struct Turn {
    text: String,
    range: Range<usize>,
}

/// The indices of the assistant turns.
fn assistant_turns(messages: &[Message]) -> Result<Vec<usize>> {
    let turns: Vec<usize> = (0..messages.len()).filter(|&i| messages[i].role == ASSISTANT).collect();
    match turns.first() {
        None => {
            Err(Error::bad_data("a conversation without an assistant turn").hint("there is nothing to learn in it"))
        }
        Some(0) => Err(Error::bad_data("a conversation that starts with an assistant turn")
            .hint("put the user turn that it answers before it")),
        Some(_) => Ok(turns),
    }
}
