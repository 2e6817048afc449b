//! Token ids to text, as they come.

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::process::caught;

/// What decoders write for bytes that are not UTF-8, and for a character that lacks bytes at the end.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Decodes one sequence of tokens in parts. The parts together are the decoding of all tokens at once.
///
/// A part holds whole characters. Held back are: a character that lacks bytes; and a run of byte tokens
/// (`<0xE2>`) until another token follows, since one invalid byte makes every byte of its run invalid.
///
/// Decoders are expected to be local: a token's text depends on tokens before it only through the part
/// before. `tokenizers::DecodeStream` differs: it passes byte tokens on before their run ends, and holds the
/// end back for good.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special_tokens: bool,
    /// Tokens of the last part, the context of those that follow it, and the tokens since.
    window: Vec<u32>,
    /// Number of context tokens in `window`.
    context: usize,
    /// Text of `window` that was passed on.
    passed: String,
}

impl<'t> TextStream<'t> {
    /// A stream without tokens. `skip_special_tokens` leaves special tokens out of the text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special_tokens: bool) -> TextStream<'t> {
        TextStream { tokenizer, skip_special_tokens, window: vec![], context: 0, passed: String::new() }
    }

    /// The text that `token` completes; often empty. A token that the tokenizer does not have is ignored.
    ///
    /// Errors: the decoder refuses the tokens.
    pub fn push(&mut self, token: u32) -> Result<String> {
        let Some(text) = self.tokenizer.id_to_token(token) else { return Ok(String::new()) };
        if self.skip_special_tokens && self.tokenizer.get_added_vocabulary().is_special_token(&text) {
            return Ok(String::new());
        }
        self.window.push(token);
        if is_byte(&text) {
            return Ok(String::new());
        }
        let text = self.decode(&self.window)?;
        let whole = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        let Some(new) = whole.strip_prefix(self.passed.as_str()) else { return Ok(String::new()) };
        let new = new.to_owned();
        if whole.len() < text.len() {
            self.passed.push_str(&new);
            if new.starts_with(REPLACEMENT) {
                self.forget_invalid(token)?;
            }
        } else if !new.is_empty() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.passed = self.decode(&self.window)?;
        }
        Ok(new)
    }

    /// The text held back, when no more tokens will come; U+FFFD for bytes that make no character. The stream
    /// then has no tokens.
    ///
    /// Errors: the decoder refuses the tokens.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.decode(&self.window)?;
        let new = text.strip_prefix(self.passed.as_str()).unwrap_or_default().to_owned();
        self.window.clear();
        self.context = 0;
        self.passed.clear();
        Ok(new)
    }

    /// Drops what comes before `token`, which ended an invalid character and began another incomplete one, so
    /// that many of them do not make the window long.
    fn forget_invalid(&mut self, token: u32) -> Result<()> {
        let text = self.decode(&[token])?;
        if let Some(passed) = text.strip_suffix(REPLACEMENT) {
            self.window = vec![token];
            self.context = 0;
            self.passed = passed.to_owned();
        }
        Ok(())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        if tokens.is_empty() {
            return Ok(String::new());
        }
        let what = "cannot decode the tokens";
        // The crate panics on some of what is malformed.
        caught(|| self.tokenizer.decode(tokens, self.skip_special_tokens))
            .map_err(|panic| Error::bad_data(what).because(format!("the tokenizer gave up: {panic}")))?
            .map_err(|e| Error::bad_data(what).because(e))
    }
}

/// Whether `token` stands for one byte, as the decoder `ByteFallback` reads it.
fn is_byte(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
