//! The text of an answer, from its tokens to its end.

use tokenizers::Tokenizer;

use super::config::GenerationConfig;
use super::stop::{FinishReason, StoppingCriteria};
use super::stop_strings::StopStrings;
use super::stream::TextStream;
use crate::error::{Error, Result};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text that goes on where the last part ended; may be empty.
    pub text: String,
    /// Why this part is the last one, if it is.
    pub finish_reason: Option<FinishReason>,
}

/// Turns the tokens of one answer into text, without special tokens, and says when it ends.
#[derive(Debug)]
pub struct GeneratedText<'t> {
    stream: TextStream<'t>,
    stop_strings: StopStrings,
    criteria: StoppingCriteria,
    finish_reason: Option<FinishReason>,
}

impl<'t> GeneratedText<'t> {
    /// An answer to a prompt of `prompt_tokens`. A stop string that is a special token of `tokenizer` is a
    /// stop token.
    ///
    /// Errors: as [`StoppingCriteria::new`].
    pub fn new(tokenizer: &'t Tokenizer, config: &GenerationConfig, prompt_tokens: usize) -> Result<Self> {
        let mut criteria = StoppingCriteria::new(config, prompt_tokens)?;
        for string in &config.stop_strings {
            let special = tokenizer.get_added_vocabulary().is_special_token(string);
            if let Some(token) = tokenizer.token_to_id(string).filter(|_| special) {
                criteria.stop_at(token);
            }
        }
        Ok(GeneratedText {
            stream: TextStream::new(tokenizer, true),
            stop_strings: StopStrings::new(config.stop_strings.clone())?,
            criteria,
            finish_reason: None,
        })
    }

    /// Why the answer has ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// The text that `token` completes. A stop token, a stop string and what follows it are no part of the
    /// text.
    ///
    /// Errors: the answer has ended; the decoder refuses the tokens.
    pub fn push(&mut self, token: u32) -> Result<Piece> {
        if self.finish_reason.is_some() {
            return Err(Error::usage("a token after the end of the answer"));
        }
        let end = self.criteria.push(token);
        let decoded = if self.criteria.is_eos(token) { String::new() } else { self.stream.push(token)? };
        let mut text = self.stop_strings.push(&decoded);
        if end.is_some() {
            let rest = self.stream.finish()?;
            text.push_str(&self.stop_strings.push(&rest));
            text.push_str(&self.stop_strings.finish());
        }
        self.finish_reason = if self.stop_strings.stopped() { Some(FinishReason::Stop) } else { end };
        Ok(Piece { text, finish_reason: self.finish_reason })
    }

    /// Ends the answer early, as when it is cancelled: the text held back.
    ///
    /// Errors: the decoder refuses the tokens.
    pub fn finish(mut self) -> Result<String> {
        let rest = self.stream.finish()?;
        let mut text = self.stop_strings.push(&rest);
        text.push_str(&self.stop_strings.finish());
        Ok(text)
    }
}
