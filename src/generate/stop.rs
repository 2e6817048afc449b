//! When an answer ends, by its tokens.

use std::fmt;

use super::config::GenerationConfig;
use crate::error::Result;

/// Why an answer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// A token of `eos_token_id` or a stop string.
    Stop,
    /// `max_new_tokens`, `max_length` or the context length.
    Length,
}

impl FinishReason {
    /// "stop" or "length".
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The stop tokens of an answer and its greatest length.
#[derive(Debug, Clone)]
pub struct StoppingCriteria {
    eos_token_id: Vec<u32>,
    left: usize,
}

impl StoppingCriteria {
    /// The criteria of `config` after a prompt of `prompt_tokens`.
    ///
    /// Errors: as [`GenerationConfig::validate`] and [`GenerationConfig::new_tokens`].
    pub fn new(config: &GenerationConfig, prompt_tokens: usize) -> Result<StoppingCriteria> {
        config.validate()?;
        let left = config.new_tokens(prompt_tokens)?;
        Ok(StoppingCriteria { eos_token_id: config.eos_token_id.clone(), left })
    }

    /// Adds a stop token.
    pub fn stop_at(&mut self, token: u32) {
        self.eos_token_id.push(token);
    }

    /// Whether `token` is a stop token.
    pub fn is_eos(&self, token: u32) -> bool {
        self.eos_token_id.contains(&token)
    }

    /// Tokens that may still come.
    pub fn tokens_left(&self) -> usize {
        self.left
    }

    /// Counts a token of the answer; why it is the last one, if it is. A stop token at the greatest length is
    /// a stop.
    pub fn push(&mut self, token: u32) -> Option<FinishReason> {
        self.left = self.left.saturating_sub(1);
        match self.left {
            _ if self.is_eos(token) => Some(FinishReason::Stop),
            0 => Some(FinishReason::Length),
            _ => None,
        }
    }
}
