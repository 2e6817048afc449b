//! Text to token ids, through a model's own `tokenizer.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tokenizers::{PaddingParams, PaddingStrategy, PostProcessor, Tokenizer, TruncationParams};

use super::arrays::{ArrayData, NamedArray};
use super::{Example, Role};
use crate::error::{Error, Result};
use crate::process::caught;

/// Largest `tokenizer.json` that is read: 64 MiB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Longest text that is tokenised: 1 MiB. Far more than any model's window.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// A tokenizer with a fixed window. It is shared between threads by reference.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    max_length: usize,
    declared_max_length: Option<usize>,
    padding: PaddingParams,
    /// The model's inputs, and what each stands for.
    inputs: Vec<(String, Role)>,
}

/// The tokenizer in a `tokenizer.json`, as the file has it.
pub(crate) fn tokenizer(path: &Path) -> Result<Tokenizer> {
    parsed(&read(path)?).map_err(|e| e.at(path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot = |e| Error::io("cannot read the tokenizer", path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(MAX_TOKENIZER_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_TOKENIZER_BYTES {
        return Err(Error::bad_data(format!("a tokenizer of more than {MAX_TOKENIZER_BYTES} bytes")).at(path.display()));
    }
    Ok(bytes)
}

fn parsed(bytes: &[u8]) -> Result<Tokenizer> {
    let what = "cannot use the tokenizer";
    // The crate panics on some of what is malformed.
    caught(|| Tokenizer::from_bytes(bytes))
        .map_err(|panic| gave_up(what, &panic))
        .and_then(|loaded| loaded.map_err(|e| Error::bad_data(what).because(e)))
        .map_err(|e| e.hint("give the tokenizer.json that belongs to the model (Hugging Face format)"))
}

/// Names that tokenizers give to their padding token where the file does not say which it is.
const PAD_TOKENS: &[&str] = &["[PAD]", "<pad>", "<|pad|>", "<PAD>", "<|endoftext|>", "<|end_of_text|>"];
/// What is tried to get some tokens of any tokenizer.
const SAMPLES: &[&str] = &["turn on the light", "a b c", "1 2 3", "。", "."];

impl TextEncoder {
    /// Loads a `tokenizer.json` (Hugging Face format). Texts longer than `max_length` tokens are cut, special tokens kept.
    ///
    /// The file's own truncation and padding lengths are not used; its truncation side is.
    /// Errors: unreadable, too large or malformed file; `max_length` leaves no room for text beside the special tokens.
    pub fn load(path: &Path, max_length: usize) -> Result<TextEncoder> {
        TextEncoder::from_bytes(&read(path)?, max_length).map_err(|e| e.at(path.display()))
    }

    /// As [`TextEncoder::load`], from the file's content.
    pub fn from_bytes(bytes: &[u8], max_length: usize) -> Result<TextEncoder> {
        let mut tokenizer = parsed(bytes)?;
        let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_length <= special {
            return Err(Error::usage(format!(
                "a window of {max_length} tokens has no room beside {special} special tokens"
            )));
        }
        let own = tokenizer.get_truncation().cloned();
        let declared_max_length = own.as_ref().map(|t| t.max_length);
        let direction = own.map(|t| t.direction).unwrap_or_default();
        let padding = tokenizer.get_padding().cloned().unwrap_or_else(|| {
            let known = PAD_TOKENS.iter().find_map(|t| Some((tokenizer.token_to_id(t)?, t.to_string())));
            let (pad_id, pad_token) = known.unwrap_or_default();
            PaddingParams { pad_id, pad_token, ..PaddingParams::default() }
        });
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams { max_length, direction, ..TruncationParams::default() }))
            .map_err(|e| Error::usage("cannot set the tokenizer's window").because(e))?;
        let usual = [("input_ids", Role::Ids), ("attention_mask", Role::Mask), ("token_type_ids", Role::Types)];
        let inputs = usual.map(|(name, role)| (name.to_string(), role)).to_vec();
        Ok(TextEncoder { tokenizer, max_length, declared_max_length, padding, inputs })
    }

    /// The same for a model with these inputs, by their names; those of the role [`Role::Data`] are not filled.
    pub fn for_inputs(self, inputs: Vec<(String, Role)>) -> TextEncoder {
        TextEncoder { inputs, ..self }
    }

    /// The same for a model that takes `length` tokens and no other number: shorter texts are padded as the tokenizer's file says, masked where
    /// the model has a mask. `length` is no less than the window.
    pub fn filled_to(mut self, length: usize) -> TextEncoder {
        let strategy = PaddingStrategy::Fixed(length);
        self.tokenizer.with_padding(Some(PaddingParams { strategy, pad_to_multiple_of: None, ..self.padding.clone() }));
        self
    }

    /// Most tokens of one example, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The window that the tokenizer file asks for, if it does.
    pub fn declared_max_length(&self) -> Option<usize> {
        self.declared_max_length
    }

    /// Token that pads a batch: the one that the tokenizer's file names.
    pub fn pad_id(&self) -> i64 {
        self.padding.pad_id.into()
    }

    /// One array an input of the model, i64 of shape `[tokens]`, not padded unless [`TextEncoder::filled_to`] says so.
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
        let mut arrays = Vec::with_capacity(self.inputs.len());
        for (name, role) in &self.inputs {
            let values = match role {
                Role::Ids => encoding.get_ids(),
                Role::Mask => encoding.get_attention_mask(),
                Role::Types => encoding.get_type_ids(),
                Role::Positions => &(0..).take(encoding.len()).collect::<Vec<u32>>(),
                Role::Data => continue,
            };
            let values: Vec<i64> = values.iter().map(|&v| v.into()).collect();
            arrays.push(NamedArray::new(name.as_str(), vec![values.len()], ArrayData::I64(values))?);
        }
        Ok(Example { arrays })
    }

    /// A short text of which the tokenizer keeps something: one of a few, or of words of its own.
    pub fn sample(&self) -> Option<String> {
        let own = || (0..64u32).filter_map(|id| self.tokenizer.decode(&[id], true).ok());
        SAMPLES.iter().map(|s| s.to_string()).chain(own()).find(|text| self.encode(text).is_ok())
    }
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
    use std::io::Read;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    fn ids(e: &Example, name: &str) -> Vec<i64> {
        match e.arrays.iter().find(|a| a.name == name).map(|a| &a.data) {
            Some(ArrayData::I64(v)) => v.clone(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Token ids from the Python `tokenizers` package: `scripts/golden_tokens.py`.
    #[test]
    fn ids_equal_those_of_the_python_package() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/golden_tokens.json")).unwrap();
        let mut checked = 0;
        for case in golden["cases"].as_array().unwrap() {
            let mut bytes = std::fs::read(root().join(case["tokenizer"].as_str().unwrap())).unwrap();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let mut plain = vec![];
                flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
                bytes = plain;
            }
            let encoder = TextEncoder::from_bytes(&bytes, case["max_length"].as_u64().unwrap() as usize).unwrap();
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
        let path = root().join("models/intents_tokenizer.json");
        let encoder = TextEncoder::load(&path, 8).unwrap();
        assert_eq!((encoder.max_length(), encoder.declared_max_length(), encoder.pad_id()), (8, Some(32), 0));
        let cut = ids(&encoder.encode("turn on every single lamp of the living room now please").unwrap(), "input_ids");
        assert_eq!((cut.len(), cut.first(), cut.last()), (8, Some(&2), Some(&3)));
        let filled = TextEncoder::load(&path, 8).unwrap().filled_to(10).encode("lights off").unwrap();
        assert_eq!((ids(&filled, "input_ids").len(), ids(&filled, "input_ids")[9]), (10, 0));
        assert_eq!(ids(&filled, "attention_mask"), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TextEncoder::load(&path, 2).err().unwrap().kind(), ErrorKind::Usage);
        for empty in ["", "  \n\t"] {
            assert_eq!(encoder.encode(empty).err().unwrap().kind(), ErrorKind::BadData, "{empty:?}");
        }
        let long = "lamp ".repeat(MAX_TEXT_BYTES / 5 + 1);
        assert!(encoder.encode(&long).is_err());
        assert_eq!(ids(&encoder.encode(&long[..MAX_TEXT_BYTES]).unwrap(), "input_ids").len(), 8);
    }

    /// A tokenizer of whole words; `padding` goes into its file.
    fn words(padding: &str) -> TextEncoder {
        let file = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": {padding}, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null, "decoder": null,
                "model": {{"type": "WordLevel", "unk_token": "<unk>",
                    "vocab": {{"<unk>": 0, "<pad>": 1, "on": 2, "off": 3}}}}}}"#
        );
        TextEncoder::from_bytes(file.as_bytes(), 8).unwrap()
    }

    #[test]
    fn each_input_gets_what_its_role_says_under_its_own_name() {
        let inputs = [
            ("input_word_ids", Role::Ids),
            ("input_mask", Role::Mask),
            ("segments", Role::Types),
            ("pos", Role::Positions),
            ("speed", Role::Data),
        ];
        let inputs: Vec<(String, Role)> = inputs.iter().map(|(n, r)| (n.to_string(), *r)).collect();
        let example = words("null").for_inputs(inputs.clone()).encode("on off on").unwrap();
        assert_eq!(ids(&example, "input_word_ids"), [2, 3, 2]);
        assert_eq!((ids(&example, "input_mask"), ids(&example, "segments")), (vec![1; 3], vec![0; 3]));
        assert_eq!((ids(&example, "pos"), example.arrays.len()), (vec![0, 1, 2], 4));
        // A model of one length is padded with the tokenizer's own token, on the side that its file names.
        let right = words("null").for_inputs(inputs.clone()).filled_to(5).encode("on off on").unwrap();
        assert_eq!(ids(&right, "input_word_ids"), [2, 3, 2, 1, 1]);
        assert_eq!((ids(&right, "input_mask"), ids(&right, "pos")), (vec![1, 1, 1, 0, 0], vec![0, 1, 2, 3, 4]));
        let left = r#"{"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 3, "pad_type_id": 0,
            "pad_token": "off"}"#;
        let left = words(left).for_inputs(inputs).filled_to(5).encode("on on on").unwrap();
        assert_eq!(
            (ids(&left, "input_word_ids"), ids(&left, "input_mask")),
            (vec![3, 3, 2, 2, 2], vec![0, 0, 1, 1, 1])
        );
        assert_eq!((words("null").pad_id(), words("null").sample().is_some()), (1, true));
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
