//! A conversation with a home's language model.

use std::sync::Arc;
use std::time::Instant;

use super::Language;
use crate::chat::Message;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::{FinishReason, GeneratedText, GenerationConfig, Sampler};
use crate::journal::{InteractionId, StoredConversation, StoredInput};
use crate::plan::KvCache;
use crate::runtime::now_ms;
use crate::runtime::session::{Serving, Session, ended};
use crate::store::Cause;

/// Share of the context that is left to an answer at least: one part of these.
const ANSWER: usize = 4;

/// Messages, and what the model has read of them: a new one costs its own tokens only.
pub struct Conversation<'a> {
    session: &'a Session,
    messages: Vec<Message>,
    cache: KvCache,
    /// The generation that read what is in the cache.
    read_by: Option<Arc<Serving>>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// Names the answer for feedback; none where it could not be recorded, and `unrecorded` says why.
    pub id: Option<InteractionId>,
    /// See `id`.
    pub unrecorded: Option<String>,
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

impl Session {
    /// A conversation with the language model of this session's home. Answers are recorded, so that feedback can be
    /// given on them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the home's model generates no text.
    pub fn conversation(&self) -> Result<Conversation<'_>> {
        self.home.language()?;
        Ok(Conversation { session: self, messages: vec![], cache: KvCache::new(), read_by: None })
    }
}

impl Conversation<'_> {
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
        Ok(self.session.home.language()?.config.clone())
    }

    /// Whether the model has a chat template; without one it goes on where the text of the messages ends.
    pub fn has_template(&self) -> Result<bool> {
        Ok(self.session.home.language()?.template.is_some())
    }

    /// Answers the messages, and adds the answer to them. Text is handed to `on_text` as it comes, in whole characters;
    /// when it says `false` the answer ends there. While a long prompt is read it is given the empty text now and then:
    /// an answer that is stopped so has no token, is not recorded, and not added.
    ///
    /// # Errors
    /// `BadData` where the messages do not fit the model's context or its chat template; `Usage` for a config out
    /// of range.
    pub fn answer(&mut self, config: &GenerationConfig, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Generated> {
        let (serving, probation) = self.session.take_up_to_answer()?;
        let mut shown = false;
        let mut tell = |text: &str| {
            shown |= !text.is_empty();
            on_text(text)
        };
        match self.generate(&serving, config, &mut tell) {
            // A generation that cannot answer what the base can is rolled back automatically at once.
            Err(e)
                if serving.generation > 0 && e.kind() == ErrorKind::BadData && !shown && self.base_answers(config) =>
            {
                self.session.roll_back_automatically(serving.generation, Cause::BadAnswer, &e)?;
                let serving = self.session.follow()?;
                let answer = self.generate(&serving, config, on_text)?;
                self.keep(answer)
            }
            other => {
                ended(probation, u32::from(other.as_ref().is_ok_and(|answer| answer.tokens > 0)));
                self.keep(other?)
            }
        }
    }

    /// Whether the base model can answer the messages, by the first text that it gives.
    fn base_answers(&mut self, config: &GenerationConfig) -> bool {
        let base = Arc::new(Serving::base(&self.session.home));
        self.generate(&base, config, &mut |text| text.is_empty()).is_ok()
    }

    /// Answers the messages with `serving`, from the first token to the last.
    fn generate(
        &mut self,
        serving: &Arc<Serving>,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generated> {
        let language = self.session.home.language()?;
        let started = Instant::now();
        let (prompt, left_out) = self.prompt(language, config)?;
        let mut sampler = Sampler::new(config)?;
        let mut text = GeneratedText::new(&language.tokenizer, config, prompt.len())?;
        // What another generation has read is of no use.
        if !self.read_by.as_ref().is_some_and(|by| Arc::ptr_eq(by, serving)) {
            self.cache = KvCache::new();
            self.read_by = Some(serving.clone());
        }
        // One token at least is read, since its scores are wanted.
        let same = prompt.iter().zip(self.cache.tokens()).take_while(|(a, b)| a == b).count();
        let cached = same.min(prompt.len() - 1);
        self.cache.truncate(cached);
        let variant = serving.variant();
        let read = language.decoder.read_while(&variant, &mut self.cache, &prompt[cached..], &mut || on_text(""));
        let prefill_ms = started.elapsed().as_secs_f64() * 1e3;
        let none = Generated {
            id: None,
            unrecorded: None,
            text: String::new(),
            tokens: 0,
            finish_reason: None,
            prompt_tokens: prompt.len(),
            cached_tokens: cached,
            left_out,
            generation: serving.generation,
            prefill_ms,
            token_ms: 0.0,
        };
        let mut scores = match read {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(none),
            read => read?,
        };
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
                scores = language.decoder.read(&variant, &mut self.cache, &[token])?;
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
        Ok(Generated { text: answer, tokens, finish_reason, token_ms, ..none })
    }

    /// Records an answer and adds it to the messages. A disk that takes no record is no error: the answer then has no
    /// id.
    fn keep(&mut self, mut answer: Generated) -> Result<Generated> {
        if answer.tokens == 0 {
            return Ok(answer);
        }
        let messages = self.messages[..].iter().map(|m| (m.role.clone(), m.content.clone())).collect();
        let ended = answer.finish_reason == Some(FinishReason::Stop);
        let stored = StoredConversation { messages, answer: answer.text.clone(), ended };
        match self.session.record(StoredInput::Conversation(stored), vec![], answer.generation) {
            Ok(id) => answer.id = Some(id),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Busy) => answer.unrecorded = Some(e.to_string()),
            Err(e) => return Err(e),
        }
        self.messages.push(Message::new("assistant", answer.text.clone()));
        Ok(answer)
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
            let tokens = match language.prompt(&kept, now_ms()) {
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
}

impl std::fmt::Debug for Conversation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conversation({} messages, {:?})", self.messages.len(), self.cache)
    }
}
