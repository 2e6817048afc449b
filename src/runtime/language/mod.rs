//! Homes of language models: conversations that are answered token by token.

mod conversation;
#[cfg(feature = "train")]
mod conversations;
mod demonstrations;
mod feedback;
mod files;
mod forget;
#[cfg(all(test, feature = "train"))]
mod tests;
mod texts;
#[cfg(feature = "train")]
mod training;
#[cfg(feature = "train")]
mod watch;

use std::path::Path;
use std::sync::Arc;

use tokenizers::Tokenizer;

pub use conversation::{Conversation, Generated};
pub use demonstrations::Demonstrations;
pub(crate) use files::beside_model;
pub(super) use files::{OTHERS, TOKENIZER, folder};
pub(super) use forget::with_later_turns;

use crate::base::Base;
use crate::chat::ChatTemplate;
use crate::error::{Error, ErrorKind, Result};
use crate::generate::GenerationConfig;
use crate::input::text::MAX_TEXT_BYTES;
use crate::journal::StoredConversation;
use crate::plan::{Decoder, KvCache, Variant};

/// Positions of a model whose files name no limit.
const CONTEXT: usize = 2048;

/// A language model with what turns text into its tokens and back.
pub(crate) struct Language {
    decoder: Decoder,
    tokenizer: Tokenizer,
    /// None where the model was not trained for conversations: it goes on where a text ends.
    template: Option<ChatTemplate>,
    config: GenerationConfig,
}

impl Language {
    /// The model `base` with the files in `folder`, run on `cores`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or no text can be generated with the model.
    pub fn open(base: Arc<Base>, folder: &Path, cores: usize) -> Result<Language> {
        let file = folder.join(TOKENIZER);
        if !file.is_file() {
            return Err(Error::usage("a language model needs its tokenizer.json")
                .at(folder.display())
                .hint("put it beside the model, or give --tokenizer"));
        }
        let tokenizer = files::tokenizer(&file)?;
        let template = ChatTemplate::from_folder(folder)?;
        let mut config = GenerationConfig::from_folder(folder)?;
        if let (true, Some(template)) = (config.eos_token_id.is_empty(), &template) {
            config.eos_token_id.extend(template.tokens().get("eos_token").and_then(|t| tokenizer.token_to_id(t)));
        }
        let decoder = Decoder::new(base, config.context_length.unwrap_or(CONTEXT), cores)?;
        config.context_length = Some(decoder.context());
        Ok(Language { decoder, tokenizer, template, config })
    }

    /// Generates two tokens, so that a model that cannot is refused before a home is made of it.
    pub fn first_run(&self) -> Result<()> {
        let tokens = self.tokens("Hello", true)?;
        let first = tokens.first().copied().unwrap_or_default();
        let mut cache = KvCache::new();
        let mut finite = true;
        for token in [first, first, first] {
            finite &= self.decoder.read(&Variant::Base, &mut cache, &[token])?.iter().all(|score| score.is_finite());
        }
        match finite {
            true => Ok(()),
            false => {
                Err(Error::unsupported("the model scores the next token with a value that is not a finite number"))
            }
        }
    }

    /// What the maker of a home should know about the files beside the model.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        let rows = self.decoder.tokens().unwrap_or(usize::MAX);
        let beyond = self.tokenizer.get_vocab(true).into_iter().filter(|(_, id)| *id as usize >= rows);
        if let Some((token, id)) = beyond.min_by_key(|(_, id)| *id) {
            warnings.push(format!(
                "the tokenizer knows the token {token:?} of the number {id}, and the model has {rows} tokens: a text \
                 that holds one it does not have is refused; the tokenizer must be the model's own"
            ));
        }
        if self.template.is_none() {
            warnings.push("the model has no chat template: it goes on where a text ends".into());
        }
        let about = StoredConversation {
            messages: vec![("user".into(), "Hello".into())],
            answer: "Hello.".into(),
            ended: true,
        };
        // What is wrong with this text alone says nothing about others.
        if let Err(e) = self.can_be_taught(&about, &about.answer, true)
            && e.kind() != ErrorKind::BadData
        {
            let next = e.next_step().map_or(String::new(), |next| format!("; {next}"));
            warnings.push(format!("this home can answer and not learn: {e}{next}"));
        }
        warnings
    }

    fn tokens(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::bad_data(format!(
                "a text of {} bytes; at most {} are read",
                text.len(),
                MAX_TEXT_BYTES
            )));
        }
        let encoded = crate::process::caught(|| self.tokenizer.encode_fast(text, special));
        let encoded = encoded.map_err(|panic| Error::bad_data("the tokenizer gave up").because(panic))?;
        let encoded = encoded.map_err(|e| Error::bad_data("the tokenizer cannot read the text").because(e))?;
        Ok(encoded.get_ids().to_vec())
    }
}
