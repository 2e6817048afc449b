//! Which models a suite measures.

use std::path::{Path, PathBuf};

use acclimate::{Error, Result};

use super::results::{Model, Source, State};
use crate::cli::bundled::{DIGITS_CNN, HAR_CNN, INTENTS_ENCODER, tiny_chat};

/// What `scripts/fetch-models.sh` knows: what it is called there, and the file that it makes.
const FETCHED: [(&str, &str); 3] =
    [("minilm", "minilm.onnx"), ("smollm2", "smollm2.onnx"), ("smollm2-chat", "smollm2-chat/model.onnx")];

/// A model and its file, if it is there.
pub struct Found {
    pub model: Model,
    pub file: Option<PathBuf>,
}

/// The bundled models, written to `work`, and those of the folder `fetched`.
pub fn find(fetched: Option<&Path>, work: &Path) -> Result<Vec<Found>> {
    let mut found = bundled(work)?;
    let there = fetched.map(models_of).transpose()?.unwrap_or_default();
    for (name, file) in FETCHED {
        if !there.iter().any(|(n, _)| n == name) {
            found.push(missing(name, file, fetched.is_some()));
        }
    }
    for (name, file) in there {
        let is_known = FETCHED.iter().any(|(n, _)| *n == name);
        let source = if is_known { Source::Fetched } else { Source::Own };
        found.push(Found { model: Model::new(&name, source, size(&file)), file: Some(file) });
    }
    Ok(found)
}

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |m| m.len())
}

fn bundled(work: &Path) -> Result<Vec<Found>> {
    let chat = tiny_chat()?;
    let chat = chat.iter().find(|(name, _)| name == "model.onnx");
    let (_, chat) = chat.ok_or_else(|| Error::internal("the bundled chat has no model"))?;
    let models = [
        ("har_cnn", HAR_CNN),
        ("digits_cnn", DIGITS_CNN),
        ("intents_encoder", INTENTS_ENCODER),
        ("tiny_chat", chat.as_slice()),
    ];
    let put = |(name, bytes): (&str, &[u8])| {
        let file = work.join(format!("{name}.bundled.onnx"));
        std::fs::write(&file, bytes).map_err(|e| Error::io("cannot write the bundled file", &file, e))?;
        Ok(Found { model: Model::new(name, Source::Bundled, bytes.len() as u64), file: Some(file) })
    };
    models.into_iter().map(put).collect()
}

/// Models of a folder by name: `NAME.onnx` and `NAME/model.onnx`, in order.
fn models_of(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let io = |e| {
        let hint = "fill it with `scripts/fetch-models.sh minilm smollm2-chat --dir DIR`, or leave --models away";
        Error::io("cannot read the folder of models", folder, e).hint(hint)
    };
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let named = |part: Option<&std::ffi::OsStr>| part.and_then(|n| n.to_str()).map(str::to_string);
        let inside = path.join("model.onnx");
        let (name, file) = match path.is_dir() {
            true if inside.is_file() => (named(path.file_name()), inside),
            false if path.extension().is_some_and(|e| e == "onnx") => (named(path.file_stem()), path),
            _ => continue,
        };
        found.extend(name.filter(|n| !n.starts_with('.')).map(|name| (name, file)));
    }
    found.sort();
    Ok(found)
}

fn missing(name: &str, file: &str, has_folder: bool) -> Found {
    let reason = match has_folder {
        true => format!("the folder of models has no {file}"),
        false => "no folder of models is named, by --models or ACCLIMATE_MODELS".to_string(),
    };
    let model = Model {
        state: State::Skipped,
        reason: Some(reason),
        next: Some(format!("scripts/fetch-models.sh {name} --dir DIR, then --models DIR")),
        ..Model::new(name, Source::Fetched, 0)
    };
    Found { model, file: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_fetched_own_and_missing() {
        let (work, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        };
        for name in ["minilm.onnx", "mine.onnx", "smollm2-chat/model.onnx", "empty/notes.txt", "tokenizer.json"] {
            put(name);
        }
        let list = |fetched| -> Vec<String> {
            let all = find(fetched, work.path()).unwrap();
            all.iter().map(|f| format!("{} {:?} {}", f.model.name, f.model.source, f.file.is_some())).collect()
        };
        let bundled = ["har_cnn", "digits_cnn", "intents_encoder", "tiny_chat"].map(|n| format!("{n} Bundled true"));
        assert_eq!(list(Some(folder.path()))[..4], bundled);
        assert_eq!(
            list(Some(folder.path()))[4..],
            ["smollm2 Fetched false", "mine Own true", "minilm Fetched true", "smollm2-chat Fetched true"]
        );
        let without = find(None, work.path()).unwrap();
        assert_eq!(without.len(), 7);
        let next = without[4].model.next.clone().unwrap();
        assert!(next.contains("scripts/fetch-models.sh minilm"), "{next}");
        let nowhere = find(Some(&folder.path().join("none")), work.path()).err().unwrap();
        assert!(nowhere.next_step().is_some_and(|n| n.contains("fetch-models")));
    }
}
