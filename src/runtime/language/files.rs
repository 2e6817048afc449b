//! The files of a language model's folder that a home keeps beside the model: tokenizer, chat template, generation
//! config.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::input::text;

/// The tokenizer.
pub(in crate::runtime) const TOKENIZER: &str = "tokenizer.json";
/// What else is copied where it is there, as transformers and ONNX Runtime GenAI write it.
pub(in crate::runtime) const OTHERS: [&str; 6] = [
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "genai_config.json",
    "config.json",
];

/// The folder with the tokenizer of `model`: beside it, or one above, as `onnx/model.onnx` lies in its repository.
pub(in crate::runtime) fn folder(model: &Path) -> Option<PathBuf> {
    let beside = model.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
    let above = beside.join("..");
    [beside.to_path_buf(), above].into_iter().find(|dir| dir.join(TOKENIZER).is_file())
}

/// The files that a language model's home keeps beside the model, with their names.
pub(crate) fn beside_model(home: &Path) -> Vec<(PathBuf, &'static str)> {
    let all = [TOKENIZER].into_iter().chain(OTHERS).map(|name| (home.join(name), name));
    all.filter(|(file, _)| file.is_file()).collect()
}

/// The tokenizer in `file`, without a window and without padding.
pub(super) fn tokenizer(file: &Path) -> Result<Tokenizer> {
    let mut tokenizer = text::tokenizer(file)?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|e| Error::bad_data("cannot use the tokenizer").at(file.display()).because(e))?;
    Ok(tokenizer)
}
