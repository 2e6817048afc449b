//! A conversation with a home's language model.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Language;
use crate::chat::{Message, Moment};
use crate::error::{Error, Result};
use crate::generate::{FinishReason, GeneratedText, GenerationConfig, Sampler};
use crate::plan::KvCache;
use crate::runtime::Home;

/// Share of the context that is left to an answer at least: one part of these.
const ANSWER: usize = 4;

/// Messages, and what the model has read of them: a new one costs its own tokens only.
pub struct Conversation {
    home: Home,
    messages: Vec<Message>,
    cache: KvCache,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// Its text, without special tokens.
    pub text: String,
    /// Tokens that were generated, with the one that ended it.
    pub tokens: usize,
    /// Why it ended; none where the caller stopped it.
    pub finish_reason: Option<FinishReason>,
    /// Tokens before the answer, and how many of them had been read for an earlier one.
    pub prompt_tokens: usize,
    /// See `prompt_tokens`.
    pub cached_tokens: usize,
    /// Messages, the oldest but for a system message, that were left out since the context does not hold them.
    pub left_out: usize,
    /// Generation of the adapter that answered; 0 is the base model.
    pub generation: u64,
    /// Milliseconds to the first token.
    pub prefill_ms: f64,
    /// Milliseconds a token after it; 0 where there was none.
    pub token_ms: f64,
}

impl Conversation {
    /// An empty one.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the home's model generates no text.
    pub fn new(home: &Home) -> Result<Conversation> {
        home.language()?;
        Ok(Conversation { home: home.clone(), messages: vec![], cache: KvCache::new() })
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces all messages. What was read of those that stay is kept.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes the last message back.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// How the home generates where nothing else is said.
    pub fn defaults(&self) -> Result<GenerationConfig> {
        Ok(self.home.language()?.config.clone())
    }

    /// Whether the model has a chat template; without one it goes on where the text of the messages ends.
    pub fn has_template(&self) -> Result<bool> {
        Ok(self.home.language()?.template.is_some())
    }

    /// Answers the messages, and adds the answer to them. Text is handed to `on_text` as it comes, in whole characters;
    /// when it says `false` the answer ends there.
    ///
    /// # Errors
    /// `BadData` where the messages do not fit the model's context or its chat template; `Usage` for a config out
    /// of range.
    pub fn answer(&mut self, config: &GenerationConfig, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Generated> {
        let home = self.home.clone();
        let language = home.language()?;
        let started = Instant::now();
        let (prompt, left_out) = self.prompt(language, config)?;
        let mut sampler = Sampler::new(config)?;
        let mut text = GeneratedText::new(&language.tokenizer, config, prompt.len())?;
        // One token at least is read, since its scores are wanted.
        let same = prompt.iter().zip(self.cache.tokens()).take_while(|(a, b)| a == b).count();
        let cached = same.min(prompt.len() - 1);
        self.cache.truncate(cached);
        let mut scores = language.decoder.read(&mut self.cache, &prompt[cached..])?;
        let prefill_ms = started.elapsed().as_secs_f64() * 1e3;
        let (mut ids, mut answer) = (prompt.clone(), String::new());
        let mut goes_on = true;
        let generating = Instant::now();
        while goes_on {
            let token = sampler.next_token(&mut scores, &ids)?;
            ids.push(token);
            let piece = text.push(token)?;
            answer.push_str(&piece.text);
            goes_on = on_text(&piece.text) && piece.finish_reason.is_none();
            if goes_on {
                scores = language.decoder.read(&mut self.cache, &[token])?;
            }
        }
        let finish_reason = text.finish_reason();
        if finish_reason.is_none() {
            let held = text.finish()?;
            on_text(&held);
            answer.push_str(&held);
        }
        let tokens = ids.len() - prompt.len();
        let later = tokens.saturating_sub(1);
        let token_ms = if later > 0 { generating.elapsed().as_secs_f64() * 1e3 / later as f64 } else { 0.0 };
        self.messages.push(Message::new("assistant", answer.clone()));
        Ok(Generated {
            text: answer,
            tokens,
            finish_reason,
            prompt_tokens: prompt.len(),
            cached_tokens: cached,
            left_out,
            generation: 0,
            prefill_ms,
            token_ms,
        })
    }

    /// The tokens before the answer, and how many messages were left out of them: turns, which begin with what the
    /// user says, the oldest first, until a quarter of the context, or as much as the answer may have if that is
    /// less, is free.
    fn prompt(&self, language: &Language, config: &GenerationConfig) -> Result<(Vec<u32>, usize)> {
        // Without a limit of the answer's own, one of prompt and answer together holds.
        let whole = config.max_length.filter(|_| config.max_new_tokens.is_none()).unwrap_or(usize::MAX);
        let context = language.decoder.context().min(whole);
        let wanted = config.max_new_tokens.unwrap_or(usize::MAX).min(context / ANSWER).max(1);
        let system = self.messages.iter().take_while(|m| ["system", "developer"].contains(&m.role.as_str())).count();
        let (fixed, turns) = self.messages.split_at(system);
        if turns.is_empty() {
            return Err(Error::usage("there is no message to answer"));
        }
        let starts = (0..turns.len()).filter(|ix| *ix == 0 || turns[*ix].role == "user");
        let (mut least, mut failure) = (0, None);
        for start in starts {
            let kept: Vec<Message> = fixed.iter().chain(&turns[start..]).cloned().collect();
            let tokens = match self.rendered(language, &kept) {
                Ok(tokens) => tokens,
                // What is too long to be read may be short enough once more is left out.
                Err(e) => {
                    failure = failure.or(Some(e));
                    continue;
                }
            };
            least = tokens.len();
            if tokens.is_empty() {
                return Err(Error::bad_data("the messages hold no token"));
            }
            if least + wanted <= context {
                return Ok((tokens, start));
            }
        }
        if let Some(e) = failure.filter(|_| least == 0) {
            return Err(e);
        }
        Err(Error::bad_data(format!(
            "the last message takes {least} tokens with what is around it, of a context of {context}, {wanted} of which are \
             left to the answer"
        ))
        .hint("shorten it"))
    }

    fn rendered(&self, language: &Language, messages: &[Message]) -> Result<Vec<u32>> {
        match &language.template {
            Some(template) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let now = Moment::from_unix_seconds(i64::try_from(since).unwrap_or(0))?;
                language.tokens(&template.render(messages, true, now)?, false)
            }
            None => {
                let text: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                language.tokens(&text.join(""), true)
            }
        }
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conversation({} messages, {:?})", self.messages.len(), self.cache)
    }
}
