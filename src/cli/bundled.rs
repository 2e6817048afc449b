//! Models that are part of the program. Sources and licences: models/README.md.

use std::io::{Cursor, Read};

use acclimate::{Error, Result};

/// Activities, from a phone's motion sensors.
pub const HAR_CNN: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/har_cnn.onnx"));
/// Handwritten digits.
pub const DIGITS_CNN: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits_cnn.onnx"));
/// Sentences of home automation.
pub const INTENTS_ENCODER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/intents_encoder.onnx"));
/// A language model, its tokenizer, and what a person says to it.
const TINY_CHAT: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny_chat.zip"));

/// Names and content of the files of the language model.
pub fn tiny_chat() -> Result<Vec<(String, Vec<u8>)>> {
    let odd = |e: zip::result::ZipError| Error::internal("the bundled model cannot be read").because(e);
    let mut zip = zip::ZipArchive::new(Cursor::new(TINY_CHAT)).map_err(odd)?;
    let mut files = vec![];
    for at in 0..zip.len() {
        let mut file = zip.by_index(at).map_err(odd)?;
        let name = file.name().map_err(odd)?.into_owned();
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).map_err(|e| Error::internal("the bundled model cannot be read").because(e))?;
        files.push((name, bytes));
    }
    Ok(files)
}
