//! Models of unusual sizes and types, as a user meets them: from `init` to an answer.
#![cfg(feature = "train")]

#[path = "support/golden.rs"]
mod golden;

use acclimate::input::RawInput;
use acclimate::{Feedback, Home, InitOptions};
use golden::unpack;

/// A tokenizer of the words `w0` to `w57`, between a start and an end token as CLIP has them.
fn words() -> String {
    let vocabulary: Vec<String> = (0..58).map(|i| format!("\"w{i}\": {}", i + 2)).collect();
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null,
        "model": {{"type": "WordLevel", "vocab": {{"[PAD]": 0, "[UNK]": 1, {}}}, "unk_token": "[UNK]"}}}}"#,
        vocabulary.join(", ")
    )
}

/// The table of positions of CLIP's text tower has 77 rows: no power of two.
#[test]
fn a_model_of_77_positions_takes_every_length_up_to_77() {
    for name in ["clip_text", "clip_text_dynamo"] {
        let folder = unpack("zoo", name);
        let (tokenizer, labels) = (folder.path().join("tokenizer.json"), folder.path().join("labels.txt"));
        std::fs::write(&tokenizer, words()).unwrap();
        std::fs::write(&labels, "short\nlong\n").unwrap();
        let options = InitOptions {
            tokenizer: Some(tokenizer),
            labels: Some(labels),
            ..InitOptions::new(folder.path().join("model.onnx"))
        };
        let home = Home::init(folder.path().join("home"), &options).unwrap();
        assert_eq!(home.config().max_length, 77, "{name}");
        let session = home.session("default").unwrap();
        for length in [3, 63, 65, 77, 300, 40, 70, 5, 76, 8] {
            let text: Vec<String> = (0..length).map(|i| format!("w{}", (i * 7 + length) % 58)).collect();
            let answer = session.predict(&RawInput::Text(text.join(" "))).unwrap();
            let label = if length > 50 { "long" } else { "short" };
            session.feedback(answer.id.unwrap(), Feedback::Label(label.into())).unwrap();
        }
        // Training pads to the longest of a batch.
        session.train(&acclimate::runtime::TrainOptions::default()).unwrap();
    }
}
