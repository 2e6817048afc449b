//! Text to token ids, through a model's own `tokenizer.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

use super::Example;
use super::arrays::{ArrayData, NamedArray};
use crate::error::{Error, Result};
use crate::process::caught;

/// Largest `tokenizer.json` that is read: 64 MiB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Longest text that is tokenised: 1 MiB. Far more than any model's window.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// A tokenizer with a fixed window. It is shared between threads by reference.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    max_length: usize,
    declared_max_length: Option<usize>,
    pad_id: i64,
    /// Every example is filled up to this many tokens, if the model takes no other number.
    filled_to: Option<usize>,
}

impl TextEncoder {
    /// Loads a `tokenizer.json` (Hugging Face format). Texts longer than `max_length` tokens are cut, special tokens kept.
    ///
    /// The file's own truncation and padding lengths are not used; its truncation side is.
    /// Errors: unreadable, too large or malformed file; `max_length` leaves no room for text beside the special tokens.
    pub fn load(path: &Path, max_length: usize) -> Result<TextEncoder> {
        let cannot = |e| Error::io("cannot read the tokenizer", path, e);
        let mut bytes = Vec::new();
        File::open(path).map_err(cannot)?.take(MAX_TOKENIZER_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_TOKENIZER_BYTES {
            return Err(
                Error::bad_data(format!("a tokenizer of more than {MAX_TOKENIZER_BYTES} bytes")).at(path.display())
            );
        }
        TextEncoder::from_bytes(&bytes, max_length).map_err(|e| e.at(path.display()))
    }

    /// As [`TextEncoder::load`], from the file's content.
    pub fn from_bytes(bytes: &[u8], max_length: usize) -> Result<TextEncoder> {
        let what = "cannot use the tokenizer";
        // The crate panics on some of what is malformed.
        let mut tokenizer = caught(|| Tokenizer::from_bytes(bytes))
            .map_err(|panic| gave_up(what, &panic))
            .and_then(|loaded| loaded.map_err(|e| Error::bad_data(what).because(e)))
            .map_err(|e| e.hint("give the tokenizer.json that belongs to the model (Hugging Face format)"))?;
        let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_length <= special {
            return Err(Error::usage(format!(
                "a window of {max_length} tokens has no room beside {special} special tokens"
            )));
        }
        let own = tokenizer.get_truncation().cloned();
        let declared_max_length = own.as_ref().map(|t| t.max_length);
        let direction = own.map(|t| t.direction).unwrap_or_default();
        let pad_id = match tokenizer.get_padding() {
            Some(padding) => padding.pad_id,
            None => ["[PAD]", "<pad>", "<|endoftext|>"].iter().find_map(|t| tokenizer.token_to_id(t)).unwrap_or(0),
        };
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams { max_length, direction, ..TruncationParams::default() }))
            .map_err(|e| Error::usage("cannot set the tokenizer's window").because(e))?;
        Ok(TextEncoder { tokenizer, max_length, declared_max_length, pad_id: pad_id.into(), filled_to: None })
    }

    /// The same for a model that takes `length` tokens and no other number: shorter texts are filled up with the padding token, masked where the model
    /// has a mask. `length` is no less than the window.
    pub fn filled_to(self, length: usize) -> TextEncoder {
        TextEncoder { filled_to: Some(length), ..self }
    }

    /// Most tokens of one example, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The window that the tokenizer file asks for, if it does.
    pub fn declared_max_length(&self) -> Option<usize> {
        self.declared_max_length
    }

    /// Token that fills a batch up.
    pub fn pad_id(&self) -> i64 {
        self.pad_id
    }

    /// `input_ids`, `attention_mask` and `token_type_ids`, i64 of shape `[tokens]`, unpadded unless [`TextEncoder::filled_to`] says so.
    ///
    /// Errors: empty text, text longer than [`MAX_TEXT_BYTES`], text of which the tokenizer keeps nothing.
    pub fn encode(&self, text: &str) -> Result<Example> {
        if text.trim().is_empty() {
            return Err(Error::bad_data("the text is empty"));
        }
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::bad_data(format!("a text of {} bytes; at most {MAX_TEXT_BYTES} are read", text.len())));
        }
        let what = "cannot tokenise the text";
        let encoding = caught(|| self.tokenizer.encode_fast(text, true))
            .map_err(|panic| gave_up(what, &panic))?
            .map_err(|e| Error::bad_data(what).because(e))?;
        if encoding.get_special_tokens_mask().iter().all(|&m| m == 1) {
            return Err(Error::bad_data("the tokenizer finds nothing to read in the text"));
        }
        let array = |name: &str, values: &[u32]| {
            let mut values: Vec<i64> = values.iter().map(|&v| v.into()).collect();
            let filler = if name == "input_ids" { self.pad_id } else { 0 };
            values.resize(values.len().max(self.filled_to.unwrap_or(0)), filler);
            NamedArray::new(name, vec![values.len()], ArrayData::I64(values))
        };
        Ok(Example {
            arrays: vec![
                array("input_ids", encoding.get_ids())?,
                array("attention_mask", encoding.get_attention_mask())?,
                array("token_type_ids", encoding.get_type_ids())?,
            ],
        })
    }
}

/// Pads tokenised examples of at most `length` tokens to one batch: i64 arrays of shape `[examples, length]`.
///
/// `input_ids` is filled with `pad_id`, the other arrays with 0. Errors: no example, one that is longer, or one with other arrays.
pub fn pad(examples: &[Example], length: usize, pad_id: i64) -> Result<Example> {
    let first = examples.first().ok_or_else(|| Error::usage("no example to pad"))?;
    let mut arrays = Vec::with_capacity(first.arrays.len());
    for (k, kind) in first.arrays.iter().enumerate() {
        let filler = if kind.name == "input_ids" { pad_id } else { 0 };
        let mut values = Vec::with_capacity(examples.len() * length);
        for example in examples {
            match example.arrays.get(k) {
                Some(NamedArray { name, data: ArrayData::I64(v), .. }) if *name == kind.name && v.len() <= length => {
                    values.extend_from_slice(v);
                    values.resize(values.len() + length - v.len(), filler);
                }
                _ => {
                    return Err(Error::usage(format!(
                        "an example does not fit '{}' padded to {length} tokens",
                        kind.name
                    )));
                }
            }
        }
        arrays.push(NamedArray::new(kind.name.clone(), vec![examples.len(), length], ArrayData::I64(values))?);
    }
    Ok(Example { arrays })
}

/// The compiled length that serves `length` tokens: the next of 8, 16, 32, 64, 128, 256, 512, then multiples of 512.
pub fn bucket(length: usize) -> usize {
    if length > 512 { length.next_multiple_of(512) } else { length.next_power_of_two().max(8) }
}

/// The tokenizers crate panicked.
fn gave_up(what: &str, panic: &str) -> Error {
    Error::bad_data(what).because(format!("the tokenizer gave up: {panic}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::input::assets;

    fn ids(e: &Example, name: &str) -> Vec<i64> {
        match e.arrays.iter().find(|a| a.name == name).map(|a| &a.data) {
            Some(ArrayData::I64(v)) => v.clone(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Token ids from the Python `tokenizers` package: `scripts/golden_tokens.py`.
    #[test]
    fn ids_equal_those_of_the_python_package() {
        let Some(dir) = assets() else { return };
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/golden_tokens.json")).unwrap();
        let mut checked = 0;
        for case in golden["cases"].as_array().unwrap() {
            let path = dir.join(case["tokenizer"].as_str().unwrap());
            let encoder = TextEncoder::load(&path, case["max_length"].as_u64().unwrap() as usize).unwrap();
            for row in case["rows"].as_array().unwrap() {
                let text = row["text"].as_str().unwrap();
                let example = encoder.encode(text).unwrap();
                let expected: Vec<i64> = row["ids"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
                assert_eq!(ids(&example, "input_ids"), expected, "{text}");
                assert_eq!(ids(&example, "attention_mask"), vec![1; expected.len()]);
                assert_eq!(ids(&example, "token_type_ids"), vec![0; expected.len()]);
                checked += 1;
            }
        }
        assert!(checked >= 100, "{checked}");
    }

    #[test]
    fn window_and_padding_come_from_the_right_place() {
        let Some(dir) = assets() else { return };
        let path = dir.join("text/tokenizer.json");
        let encoder = TextEncoder::load(&path, 8).unwrap();
        assert_eq!((encoder.max_length(), encoder.declared_max_length(), encoder.pad_id()), (8, Some(128), 0));
        let cut = ids(&encoder.encode("turn on every single lamp of the living room now please").unwrap(), "input_ids");
        assert_eq!((cut.len(), cut.first(), cut.last()), (8, Some(&101), Some(&102)));
        let filled = TextEncoder::load(&path, 8).unwrap().filled_to(10).encode("lights off").unwrap();
        assert_eq!((ids(&filled, "input_ids").len(), ids(&filled, "input_ids")[9]), (10, 0));
        assert_eq!(ids(&filled, "attention_mask"), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TextEncoder::load(&path, 2).err().unwrap().kind(), ErrorKind::Usage);
        for empty in ["", "  \n\t", "\u{200b}\u{0}\u{1}"] {
            assert_eq!(encoder.encode(empty).err().unwrap().kind(), ErrorKind::BadData, "{empty:?}");
        }
        let long = "lamp ".repeat(MAX_TEXT_BYTES / 5 + 1);
        assert!(encoder.encode(&long).is_err());
        assert_eq!(ids(&encoder.encode(&long[..MAX_TEXT_BYTES]).unwrap(), "input_ids").len(), 8);

        let batch = pad(&[encoder.encode("lights off").unwrap(), encoder.encode("stop").unwrap()], 8, encoder.pad_id())
            .unwrap();
        assert!(batch.arrays.iter().all(|a| a.shape == [2, 8]));
        assert_eq!(ids(&batch, "attention_mask"), [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(ids(&batch, "input_ids")[11..], [0; 5]);
        assert!(pad(&[encoder.encode("lights off").unwrap()], 3, 0).is_err());
        assert!(pad(&[], 3, 0).is_err());
    }

    #[test]
    fn malformed_tokenizers_are_refused() {
        for bytes in [&b""[..], b"{}", b"\xff\xfe", br#"{"version":"1.0","model":{"type":"None"}}"#, b"[[[[[[["] {
            let e = TextEncoder::from_bytes(bytes, 16).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::BadData);
            assert!(e.next_step().is_some());
        }
        let deep = "[".repeat(1 << 20);
        assert!(TextEncoder::from_bytes(deep.as_bytes(), 16).is_err());
        assert_eq!(TextEncoder::load(Path::new("absent.json"), 16).err().unwrap().kind(), ErrorKind::Io);
    }

    #[test]
    fn buckets() {
        let pairs =
            [(1, 8), (8, 8), (9, 16), (100, 128), (256, 256), (257, 512), (512, 512), (513, 1024), (1025, 1536)];
        assert!(pairs.iter().all(|&(n, b)| bucket(n) == b));
    }
}
