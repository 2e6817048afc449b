//! A chat template and its special tokens, in the folder of a Hugging Face model.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::limits::{MAX_CONFIG_BYTES, MAX_TEMPLATE_BYTES};
use super::special_tokens::SpecialTokens;
use super::template::ChatTemplate;
use crate::error::{Error, Result};

const TEMPLATE_FILE: &str = "chat_template.jinja";
const CONFIG_FILE: &str = "tokenizer_config.json";
const TOKENS_FILE: &str = "special_tokens_map.json";
/// The special tokens that templates can name.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// The chat template of the model in `folder`: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json`, where that of the name `default` is taken if there are several. Nothing if
    /// there is none, as with base models.
    ///
    /// Special tokens come from `tokenizer_config.json`, those that it does not have from
    /// `special_tokens_map.json`.
    ///
    /// Errors: a file that cannot be read, is too large, or malformed; a template that [`ChatTemplate::new`]
    /// refuses.
    pub fn from_folder(folder: &Path) -> Result<Option<ChatTemplate>> {
        let config = object(folder, CONFIG_FILE)?;
        let path = folder.join(TEMPLATE_FILE);
        let (source, place) = match read(&path, MAX_TEMPLATE_BYTES as u64)? {
            Some(source) => (source, path),
            None => {
                let path = folder.join(CONFIG_FILE);
                match configured(&config).map_err(|e| e.at(path.display()))? {
                    Some(source) => (source, path),
                    None => return Ok(None),
                }
            }
        };
        let tokens = tokens(folder, &config)?;
        ChatTemplate::new(&source, tokens).map(Some).map_err(|e| e.within(place.display()))
    }
}

/// The template of a `tokenizer_config.json`.
fn configured(config: &Map<String, Value>) -> Result<Option<String>> {
    let named = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(named)) => named,
        Some(_) => return Err(malformed("chat_template is neither text nor a list of named templates")),
    };
    let mut names = Vec::new();
    for entry in named {
        match (entry.get("name").and_then(Value::as_str), entry.get("template").and_then(Value::as_str)) {
            (Some("default"), Some(source)) => return Ok(Some(source.to_owned())),
            (Some(name), Some(_)) => names.push(name),
            _ => return Err(malformed("chat_template lists something without name and template")),
        }
    }
    Err(malformed(format!("chat_template lists no template named default, but {names:?}"))
        .hint("put the template to use into chat_template.jinja"))
}

fn tokens(folder: &Path, config: &Map<String, Value>) -> Result<SpecialTokens> {
    let map = object(folder, TOKENS_FILE)?;
    let mut tokens = Vec::new();
    for name in NAMES {
        for (file, fields) in [(CONFIG_FILE, config), (TOKENS_FILE, &map)] {
            if let Some(text) = token(name, fields).map_err(|e| e.at(folder.join(file).display()))? {
                tokens.push((name.to_owned(), text));
                break;
            }
        }
    }
    Ok(SpecialTokens(tokens))
}

/// A token is text, or an object that has the text as `content`.
fn token(name: &str, fields: &Map<String, Value>) -> Result<Option<String>> {
    let value = match fields.get(name) {
        Some(Value::Object(token)) => token.get("content"),
        other => other,
    };
    match (value, fields.get(name)) {
        (Some(Value::String(text)), _) => Ok(Some(text.clone())),
        (None, None) | (Some(Value::Null), Some(Value::Null)) => Ok(None),
        _ => Err(malformed(format!("{name} is neither text nor an object with content"))),
    }
}

/// The object in a JSON file; an empty one where there is no such file.
fn object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = folder.join(name);
    let Some(text) = read(&path, MAX_CONFIG_BYTES)? else { return Ok(Map::new()) };
    match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(malformed(format!("{name} holds no object")).at(path.display())),
        Err(e) => Err(malformed(format!("{name} is not JSON")).at(path.display()).because(e)),
    }
}

/// The text of a file of at most `limit` bytes, if there is such a file.
fn read(path: &Path, limit: u64) -> Result<Option<String>> {
    let what = "cannot read a file of the model";
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(what, path, e)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(what, path, e))?;
    if bytes.len() as u64 > limit {
        return Err(malformed(format!("a file of more than {limit} bytes")).at(path.display()));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| malformed("a file that is not UTF-8").at(path.display()))
}

fn malformed(what: impl Into<String>) -> Error {
    Error::bad_data(what).hint("take the tokenizer files from the model's page again")
}
