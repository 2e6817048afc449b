//! Tokenizers of the tests: SmolLM2's (byte-level BPE), and small ones as sentencepiece makes them.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

pub(super) fn byte_level() -> &'static Tokenizer {
    static LOADED: OnceLock<Tokenizer> = OnceLock::new();
    LOADED.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/skeletons/smollm2_tokenizer.json.gz");
        let mut bytes = vec![];
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
        Tokenizer::from_bytes(bytes).unwrap()
    })
}

/// Number of byte tokens and those before them.
pub(super) const FIRST_PIECE: u32 = 259;
const PIECES: &[&str] = &[
    "▁",
    "▁▁",
    "▁▁▁",
    "a",
    "b",
    "c",
    "e",
    "h",
    "i",
    "l",
    "o",
    "r",
    "t",
    "w",
    ".",
    ",",
    "!",
    "▁h",
    "▁t",
    "▁w",
    "he",
    "lo",
    "▁he",
    "lo▁",
    "▁a▁b",
    "é",
    "e\u{301}",
    "\u{301}",
    "👩",
    "\u{200d}",
    "你",
    "▁你",
    "\u{fffd}",
    "\n",
    "<",
    ">",
];

/// BPE with byte fallback and the decoder given.
fn sentencepiece(decoder: Value) -> Tokenizer {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let special = ["<unk>", "<s>", "</s>"];
    let pieces = special.iter().map(|s| s.to_string()).chain(bytes).chain(PIECES.iter().map(|s| s.to_string()));
    let vocab: Map<String, Value> = pieces.zip(0..).map(|(piece, id)| (piece, json!(id))).collect();
    let added = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
        "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ h", "▁ t", "▁ w", "h e", "l o", "▁h e"]},
    });
    Tokenizer::from_bytes(file.to_string()).unwrap()
}

/// The decoder of Llama 2.
pub(super) fn llama() -> &'static Tokenizer {
    static MADE: OnceLock<Tokenizer> = OnceLock::new();
    MADE.get_or_init(|| {
        sentencepiece(json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}))
    })
}

/// The decoder that removes every space of the first token.
pub(super) fn metaspace() -> &'static Tokenizer {
    static MADE: OnceLock<Tokenizer> = OnceLock::new();
    MADE.get_or_init(|| {
        sentencepiece(json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]}))
    })
}
