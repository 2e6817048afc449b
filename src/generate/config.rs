//! How text is generated: names, defaults and ranges as in the `GenerationConfig` of transformers.

use crate::error::{Error, Result};

/// New tokens where neither `max_new_tokens` nor `max_length` is given: the default of transformers.
pub const DEFAULT_NEW_TOKENS: usize = 20;

/// Parameters of one generation. The default is that of transformers where neither model nor user says
/// anything.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// Whether tokens are sampled. If not, the most likely one is taken (greedy search).
    pub do_sample: bool,
    /// Logits are divided by it before sampling. Above 0 where `do_sample` is set.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens are sampled; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability are sampled; 1 for all.
    pub top_p: f64,
    /// Only tokens with at least this share of the greatest probability are sampled.
    pub min_p: Option<f64>,
    /// Logits of tokens in the prompt or the answer are divided by it if positive and multiplied if negative;
    /// 1 for none.
    pub repetition_penalty: f64,
    /// Most tokens of the answer. It precedes `max_length`.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of prompt and answer together.
    pub max_length: Option<usize>,
    /// Most tokens that the model can take. No other limit exceeds it.
    pub context_length: Option<usize>,
    /// Tokens that end the answer.
    pub eos_token_id: Vec<u32>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Token that pads a batch.
    pub pad_token_id: Option<u32>,
    /// Texts that end the answer and are no part of it. None is empty.
    pub stop_strings: Vec<String>,
    /// Seed of sampling; without one, the operating system's random numbers choose it.
    pub seed: Option<u64>,
}

impl Default for GenerationConfig {
    fn default() -> GenerationConfig {
        GenerationConfig {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: None,
            repetition_penalty: 1.0,
            max_new_tokens: None,
            max_length: None,
            context_length: None,
            eos_token_id: vec![],
            bos_token_id: None,
            pad_token_id: None,
            stop_strings: vec![],
            seed: None,
        }
    }
}

impl GenerationConfig {
    /// Checks every value.
    ///
    /// Errors ([`crate::ErrorKind::Usage`]): a value out of its range.
    pub fn validate(&self) -> Result<()> {
        match self.fault() {
            Some((key, must)) => Err(Error::usage(format!("{key} must be {must}"))),
            None => Ok(()),
        }
    }

    /// Tokens that may follow a prompt of `prompt_tokens`, at least 1: `max_new_tokens`, else what
    /// `max_length` leaves, else [`DEFAULT_NEW_TOKENS`]; and no more than `context_length` leaves.
    ///
    /// Errors ([`crate::ErrorKind::Usage`]): the prompt leaves no room; a limit is 0.
    pub fn new_tokens(&self, prompt_tokens: usize) -> Result<usize> {
        let left = |name: &str, most: usize| match most.checked_sub(prompt_tokens) {
            None | Some(0) => Err(Error::usage(format!(
                "a prompt of {prompt_tokens} tokens leaves no room for an answer: {name} is {most}"
            ))
            .hint("shorten the prompt")),
            Some(left) => Ok(left),
        };
        let asked = match (self.max_new_tokens, self.max_length) {
            (Some(0), _) => return Err(Error::usage("max_new_tokens must be 1 or more")),
            (Some(most), _) => most,
            (None, Some(most)) => left("max_length", most)?,
            (None, None) => DEFAULT_NEW_TOKENS,
        };
        Ok(match self.context_length {
            Some(most) => asked.min(left("the context length", most)?),
            None => asked,
        })
    }

    /// The first value out of its range: its name, and what it must be.
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        let numbers = [
            ("temperature", Some(self.temperature)),
            ("top_p", Some(self.top_p)),
            ("min_p", self.min_p),
            ("repetition_penalty", Some(self.repetition_penalty)),
        ];
        let number = |(key, value): (&'static str, Option<f64>)| Some((key, number_fault(key, value?)?));
        if let Some(fault) = numbers.into_iter().find_map(number) {
            return Some(fault);
        }
        if self.do_sample && self.temperature as f32 <= 0.0 {
            return Some(("temperature", "above 0 where do_sample is true"));
        }
        let counts = [
            ("max_new_tokens", self.max_new_tokens),
            ("max_length", self.max_length),
            ("context_length", self.context_length),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Some((key, AT_LEAST_ONE));
        }
        self.stop_strings.iter().any(String::is_empty).then_some(("stop_strings", NO_EMPTY_TEXT))
    }
}

pub(super) const AT_LEAST_ONE: &str = "a whole number, 1 or more";
pub(super) const NO_EMPTY_TEXT: &str = "a text or a list of texts, none of them empty";

/// What the number `key` must be, where `value` is not.
///
/// Computations are in `f32`, so what must be above 0 or finite must be so as `f32`.
pub(super) fn number_fault(key: &str, value: f64) -> Option<&'static str> {
    let single = value as f32;
    let (right, must) = match key {
        "temperature" => (value >= 0.0 && single.is_finite(), "a finite number, 0 or more"),
        "repetition_penalty" => (single > 0.0 && single.is_finite(), "a finite number above 0"),
        _ => ((0.0..=1.0).contains(&value), "a number from 0 to 1"),
    };
    (!right).then_some(must)
}
