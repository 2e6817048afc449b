//! Language models whose folder lacks something: a chat template, every config, the end of a turn.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{acclimate, json as answered, refused, run, says};

/// The bundled model in `folder`, as `model`, with the tokenizer in the folder itself and no other file; the prompts
/// and answers of its script.
fn bare(folder: &Path, model: &str) -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny_chat.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    zip.extract(folder).unwrap();
    let script: Value = serde_json::from_slice(&std::fs::read(folder.join("prompts.json")).unwrap()).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer_config.json", "prompts.json"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    std::fs::create_dir_all(folder.join(model).parent().unwrap()).unwrap();
    std::fs::rename(folder.join("model.onnx"), folder.join(model)).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let edits = script["edits"].as_array().unwrap().iter();
    edits.map(|e| (text(&e["prompt"]), text(&e["edited"]))).collect()
}

#[test]
fn a_model_without_a_chat_template_goes_on_where_the_text_ends_and_learns() {
    let genai = json!({
        "model": { "context_length": 200, "eos_token_id": 258, "bos_token_id": 256 },
        "search": { "max_length": 80, "do_sample": false },
    });
    for (model, genai) in [("model.onnx", None), ("onnx/model.onnx", None), ("model.onnx", Some(&genai))] {
        let folder = TempDir::new().unwrap();
        let source = folder.path().join("source");
        let edits = bare(&source, model);
        if let Some(config) = genai {
            std::fs::write(source.join("genai_config.json"), config.to_string()).unwrap();
        }
        let home = folder.path().join("home").display().to_string();
        let made = answered(&["init", &home, "--model", &source.join(model).display().to_string()]);
        assert_eq!(made["task"], "causal-lm", "{made}");
        let warnings = made["warnings"].as_array().unwrap();
        assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("no chat template"), "{made}");
        // It goes on with words of the user, whose messages it was trained on, too.
        let prompt = &edits[0].0[..20];
        let plain = run(&["generate", &home, prompt, "--max-tokens", "12"]);
        let said = String::from_utf8(plain.stderr).unwrap();
        assert_eq!(said, "the model has no chat template: it goes on where the text ends\n");
        let answer = answered(&["generate", &home, prompt, "--max-tokens", "12"]);
        assert_eq!(answer["chat_template"], false, "{answer}");
        // The model's tokens are bytes.
        assert_eq!(answer["prompt_tokens"], prompt.len(), "{answer}");
        let text = answer["text"].as_str().unwrap();
        assert_eq!(String::from_utf8(plain.stdout).unwrap(), format!("{text}\n"));
        assert!(!text.is_empty(), "{answer}");
        if genai.is_some() {
            let whole = answered(&["generate", &home, prompt]);
            let tokens = whole["tokens"].as_u64().unwrap() as usize + prompt.len();
            assert!(tokens == 80 || tokens < 80 && whole["finish_reason"] == "stop", "{whole}");
            let long = "w".repeat(180);
            says(&refused(&["generate", &home, &long], 65), "error", "of a context of 80");
            says(&refused(&["generate", &home, &long, "--max-tokens", "99"], 65), "error", "of a context of 200");
        }
        let chat = acclimate(&["chat", &home]).stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8(chat.stderr).unwrap();
        assert!(chat.status.success() && said.contains("it goes on where the text ends"), "{said}");
        for (prompt, wanted) in &edits[..8] {
            answered(&["generate", &home, prompt, "--max-tokens", "12"]);
            answered(&["feedback", &home, "last", "--edit", wanted]);
        }
        let trained = answered(&["train", &home, "--steps", "2"]);
        assert_eq!(trained["language"]["n"], 8, "{trained}");
        assert!(trained["steps"].as_u64().unwrap() > 0, "{trained}");
    }
}

#[test]
fn a_template_that_hides_the_end_of_a_turn_answers_and_does_not_learn() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    let edits = bare(&source, "model.onnx");
    let falcon = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat/templates/own_falcon.jinja");
    std::fs::copy(falcon, source.join("chat_template.jinja")).unwrap();
    let model = source.join("model.onnx").display().to_string();
    let init = |name: &str| {
        let home = folder.path().join(name).display().to_string();
        let made = answered(&["init", &home, "--model", &model]);
        let warnings = made["warnings"].as_array().unwrap().clone();
        assert_eq!(warnings.len(), 1, "{made}");
        (home, warnings[0].as_str().unwrap().to_string())
    };
    // No token is known that ends an answer, and then one that the template does not write.
    let (_, unknown) = init("unknown");
    assert!(unknown.contains("can answer and not learn: no token that ends generation"), "{unknown}");
    std::fs::write(source.join("generation_config.json"), r#"{"eos_token_id": 258}"#).unwrap();
    let (home, hidden) = init("home");
    assert!(hidden.contains("writes no end-of-turn token") && hidden.contains("[\"<|im_end|>\"]"), "{hidden}");
    let (prompt, wanted) = &edits[0];
    let answer = answered(&["generate", &home, prompt, "--max-tokens", "12"]);
    assert!(!answer["text"].as_str().unwrap().is_empty() && answer["chat_template"] == true, "{answer}");
    for said in [&["--accept"][..], &["--reject"], &["--edit", wanted]] {
        let error = refused(&[&["feedback", &home, "last"], said].concat(), 69);
        says(&error, "error", "the chat template writes no end-of-turn token");
        says(&error, "next", "use a chat template");
    }
    let file = folder.path().join("chat.jsonl");
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let turns = json!({ "messages": [turn("user", prompt), turn("assistant", wanted)] });
    std::fs::write(&file, format!("{turns}\n")).unwrap();
    let error = refused(&["train", &home, "--data", &file.display().to_string()], 69);
    says(&error, "error", "the chat template writes no end-of-turn token");
    let status = answered(&["status", &home]);
    assert_eq!((&status["interactions"], &status["feedback"]), (&json!(1), &json!(0)), "nothing of it was recorded");
}
