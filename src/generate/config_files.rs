//! What the files of a model's folder say of generation.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::{AT_LEAST_ONE, GenerationConfig, NO_EMPTY_TEXT, number_fault};
use crate::error::{Error, Result};

/// Largest file that is read: 16 MiB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Longest value that an error repeats, characters.
const SHOWN_CHARS: usize = 60;

type Object = Map<String, Value>;

impl GenerationConfig {
    /// The configuration that a model's folder declares: each value from the first file that has it, of
    /// `generation_config.json` (transformers), `genai_config.json` (ONNX Runtime GenAI) and `config.json`
    /// (token ids and context length only). Unknown keys and `null` are ignored.
    ///
    /// Errors: no such folder, an unreadable or too large file, malformed JSON, a value of a wrong type or
    /// out of its range, in whichever file it is.
    pub fn from_folder(folder: &Path) -> Result<GenerationConfig> {
        let config = read(folder)?;
        match config.fault() {
            Some((key, must)) => Err(Error::bad_data(format!("{key} must be {must}")).at(folder.display())),
            None => Ok(config),
        }
    }
}

/// The configuration that `folder` declares. Files that come later in this function precede the earlier ones.
fn read(folder: &Path) -> Result<GenerationConfig> {
    std::fs::read_dir(folder).map_err(|e| Error::io("cannot read the model's folder", folder, e))?;
    let mut config = GenerationConfig::default();
    let path = folder.join("config.json");
    if let Some(file) = object(&path)? {
        let top = Keys { path: &path, within: None, object: &file };
        for keys in [top.part("text_config")?, Some(top)].into_iter().flatten() {
            keys.length("n_positions", &mut config.context_length)?;
            keys.length("max_position_embeddings", &mut config.context_length)?;
            keys.token_ids(&mut config)?;
        }
    }
    let path = folder.join("genai_config.json");
    if let Some(file) = object(&path)? {
        let top = Keys { path: &path, within: None, object: &file };
        if let Some(keys) = top.part("model")? {
            keys.length("context_length", &mut config.context_length)?;
            keys.token_ids(&mut config)?;
        }
        if let Some(keys) = top.part("search")? {
            keys.search(&mut config)?;
        }
    }
    let path = folder.join("generation_config.json");
    if let Some(file) = object(&path)? {
        let keys = Keys { path: &path, within: None, object: &file };
        keys.token_ids(&mut config)?;
        keys.search(&mut config)?;
    }
    Ok(config)
}

/// The object that a file holds; nothing if there is no such file.
fn object(path: &Path) -> Result<Option<Object>> {
    let cannot = |e| Error::io("cannot read the file", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::bad_data(format!("a file of more than {MAX_FILE_BYTES} bytes")).at(path.display()));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(Error::bad_data("the file must hold a JSON object").at(path.display())),
        Err(e) => Err(Error::bad_data("the file is not valid JSON").at(path.display()).because(e)),
    }
}

/// Values by key, each checked; a key that is absent or `null` changes nothing.
struct Keys<'a> {
    path: &'a Path,
    /// Key of `object` in the file; none for the whole file.
    within: Option<&'static str>,
    object: &'a Object,
}

impl<'a> Keys<'a> {
    /// The parameters of search and sampling, and the limits of length.
    fn search(&self, config: &mut GenerationConfig) -> Result<()> {
        self.each("do_sample", "true or false", &mut config.do_sample, Value::as_bool)?;
        self.each("top_k", "a whole number, 0 or more", &mut config.top_k, whole)?;
        self.number("temperature", |v| config.temperature = v)?;
        self.number("top_p", |v| config.top_p = v)?;
        self.number("min_p", |v| config.min_p = Some(v))?;
        self.number("repetition_penalty", |v| config.repetition_penalty = v)?;
        self.length("max_new_tokens", &mut config.max_new_tokens)?;
        self.length("max_length", &mut config.max_length)?;
        self.each("stop_strings", NO_EMPTY_TEXT, &mut config.stop_strings, |value| {
            list(value, |text| text.as_str().filter(|s| !s.is_empty()).map(str::to_owned))
        })
    }

    /// The special tokens. Some models write -1 for "no padding token".
    fn token_ids(&self, config: &mut GenerationConfig) -> Result<()> {
        let must = "a token id";
        let ids = |v: &Value| list(v, token);
        self.each("eos_token_id", "a token id or a list of them", &mut config.eos_token_id, ids)?;
        self.each("bos_token_id", must, &mut config.bos_token_id, |v| token(v).map(Some))?;
        self.each("pad_token_id", must, &mut config.pad_token_id, |v| match v.as_i64() {
            Some(-1) => Some(None),
            _ => token(v).map(Some),
        })
    }

    fn number(&self, key: &str, set: impl FnMut(f64)) -> Result<()> {
        let must = number_fault(key, f64::NAN).unwrap_or("a number");
        let mut read = None;
        let in_range = |v: &f64| number_fault(key, *v).is_none();
        self.each(key, must, &mut read, |v| v.as_f64().filter(in_range).map(Some))?;
        read.into_iter().for_each(set);
        Ok(())
    }

    fn length(&self, key: &str, into: &mut Option<usize>) -> Result<()> {
        self.each(key, AT_LEAST_ONE, into, |v| whole(v).filter(|n| *n > 0).map(Some))
    }

    fn each<T>(&self, key: &str, must: &str, into: &mut T, read: impl Fn(&Value) -> Option<T>) -> Result<()> {
        match self.object.get(key) {
            None | Some(Value::Null) => {}
            Some(value) => *into = read(value).ok_or_else(|| self.fault(key, must, value))?,
        }
        Ok(())
    }

    fn part(&self, key: &'static str) -> Result<Option<Keys<'a>>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Keys { path: self.path, within: Some(key), object })),
            Some(value) => Err(self.fault(key, "an object", value)),
        }
    }

    fn fault(&self, key: &str, must: &str, value: &Value) -> Error {
        let text = value.to_string();
        let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Error::bad_data(format!("{key} must be {must}; it is {shown}")).at(format!(
            "{}: {}",
            self.path.display(),
            self.within.map_or(key.into(), |w| format!("{w}.{key}"))
        ))
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// One item or a list of them.
fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(items) => items.iter().map(item).collect(),
        one => item(one).map(|one| vec![one]),
    }
}
