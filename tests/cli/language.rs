//! Language models: a home of one, answers of it, and what it refuses.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{acclimate, json as answered, refused, says};

/// Tokens of the tiny models.
const VOCABULARY: usize = 136;
/// Renders `<s> user: w5 w6 bot:`, words that the tokenizer has or takes for its unknown one.
const TEMPLATE: &str = "<s> {% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}\
                        {% if add_generation_prompt %}assistant{% endif %}";

/// A folder as transformers has it, of a tiny model with random weights and a tokenizer of words.
pub fn model(folder: &Path, name: &str) {
    let zip = format!("{}/tests/goldens/lm/{name}.zip", env!("CARGO_MANIFEST_DIR"));
    let mut zip = zip::ZipArchive::new(std::fs::File::open(zip).unwrap()).unwrap();
    let mut model = vec![];
    zip.by_name(&format!("{name}.onnx")).unwrap().read_to_end(&mut model).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.onnx"), model).unwrap();
    let word = |id: usize| match id {
        0 => "<s>".to_string(),
        1 => "</s>".to_string(),
        2 => "user".to_string(),
        3 => "assistant".to_string(),
        id => format!("w{id}"),
    };
    let vocabulary: serde_json::Map<String, Value> = (0..VOCABULARY).map(|id| (word(id), id.into())).collect();
    let special = |id: usize| {
        json!({ "id": id, "content": word(id), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0), special(1)],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w4" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({ "chat_template": TEMPLATE, "bos_token": "<s>", "eos_token": "</s>" });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"max_position_embeddings": 128}"#).unwrap();
}

/// A home of such a model, by its path.
pub fn home(folder: &TempDir, name: &str) -> String {
    let source = folder.path().join(name);
    model(&source, name);
    let home = folder.path().join(format!("home_{name}")).display().to_string();
    let made = answered(&["init", &home, "--model", &source.join("model.onnx").display().to_string()]);
    assert_eq!((&made["task"], &made["takes"]), (&json!("causal-lm"), &json!("text")), "{made}");
    home
}

pub fn text(home: &str, more: &[&str]) -> String {
    let answer = answered(&[&["generate", home, "w5 w6 w7", "--max-tokens", "8"], more].concat());
    answer["text"].as_str().unwrap().to_string()
}

#[test]
fn a_language_model_answers() {
    let folder = TempDir::new().unwrap();
    for name in ["llama_past", "llama_genai_int4", "gemma3_past", "llama_plain"] {
        let home = home(&folder, name);
        let answer = answered(&["generate", &home, "w5 w6 w7", "--max-tokens", "8"]);
        assert_eq!((&answer["tokens"], &answer["finish_reason"]), (&json!(8), &json!("length")), "{name}: {answer}");
        assert_eq!((&answer["generation"], &answer["cached_tokens"]), (&json!(0), &json!(0)), "{name}: {answer}");
        // <s> user w5 w6 w7 assistant
        assert_eq!(answer["prompt_tokens"], json!(6), "{name}: {answer}");
        let words = answer["text"].as_str().unwrap().split_whitespace().count();
        assert!((4..=8).contains(&words), "{name}: {answer}");
        assert_eq!(text(&home, &[]), answer["text"].as_str().unwrap(), "{name}: greedy answers are the same");
    }
}

#[test]
fn the_flags_choose_the_next_token() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "smollm2_past");
    let greedy = text(&home, &[]);
    let sampled = |seed: &str| text(&home, &["--temperature", "5", "--top-k", "0", "--seed", seed]);
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
    assert_ne!(sampled("1"), greedy);
    // One candidate is left.
    assert_eq!(text(&home, &["--top-k", "1"]), greedy);
    let second = greedy.split_whitespace().nth(1).unwrap();
    let cut = answered(&["generate", &home, "w5 w6 w7", "--max-tokens", "8", "--stop", second]);
    assert_eq!(cut["finish_reason"], "stop", "{cut}");
    assert!(!cut["text"].as_str().unwrap().contains(second), "{cut}");
    let error = refused(&["generate", &home, "w5", "--top-p", "2"], 2);
    says(&error, "error", "top_p");
}

#[test]
fn conversations_of_a_file_are_answered_in_turn() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "llama_past");
    let file = folder.path().join("c.jsonl");
    let line = |content: &str| json!({ "messages": [{ "role": "user", "content": content }] }).to_string();
    std::fs::write(&file, format!("{}\n{}\n", line("w5 w6 w7"), line("w5 w6 w9"))).unwrap();
    let file = file.display().to_string();
    let both = answered(&["generate", &home, "--file", &file, "--max-tokens", "8"]);
    let both = both.as_array().unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(both[0]["text"].as_str().unwrap(), text(&home, &[]));
    // <s> user w5 w6 of the second were read for the first.
    assert_eq!(both[1]["cached_tokens"], 4, "{both:?}");
    std::fs::write(&file, "{\"messages\": 5}\n").unwrap();
    let error = refused(&["generate", &home, "--file", &file], 65);
    says(&error, "at", "c.jsonl");
}

#[test]
fn a_conversation_longer_than_the_context_loses_its_oldest_turns() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "llama_past");
    let turn = |role: &str, n: usize| json!({ "role": role, "content": vec!["w9"; n].join(" ") });
    let long = json!({ "messages": [turn("system", 3), turn("user", 60), turn("assistant", 40), turn("user", 20)] });
    let file = folder.path().join("long.jsonl");
    std::fs::write(&file, format!("{long}\n")).unwrap();
    let answer = answered(&["generate", &home, "--file", &file.display().to_string(), "--max-tokens", "8"]);
    // <s> system w9×3 user w9×20 assistant
    assert_eq!((&answer[0]["left_out"], &answer[0]["prompt_tokens"]), (&json!(2), &json!(27)), "{answer}");
    let words = vec!["w9"; 200].join(" ");
    let error = refused(&["generate", &home, &words], 65);
    says(&error, "error", "of a context of 128");
    let error = refused(&["generate", &home, "  "], 2);
    says(&error, "error", "empty prompt");
}

#[test]
fn a_chat_goes_on_from_line_to_line() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "qwen3_genai_f32");
    let chat = |typed: &str| {
        let mut program = acclimate(&["chat", &home, "--max-tokens", "6"]);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (once, _) = chat("w5 w6\n/quit\nw7\n");
    assert_eq!(once.lines().count(), 1, "{once}");
    let (again, said) = chat("/retry\n/undo\nw5 \\\nw6\n/retry\n/why\n/undo\n/nothing\nw5 w6\n");
    let lines: Vec<&str> = again.lines().collect();
    // The answer of /retry, and with it what /why says of its length, is drawn by chance.
    assert_eq!((lines.len(), lines[0], lines[2]), (3, once.trim_end(), once.trim_end()), "{said}");
    for part in
        ["no message to answer again", "nothing to take back", "answered by the base model: ", "no command /nothing"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_it_cannot_do_it_says() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "llama_past");
    says(&refused(&["predict", &home, "w5"], 2), "next", "acclimate chat");
    let untrained = answered(&["train", &home]);
    says(&untrained, "reason", "0 answers have feedback; 8 more");
    let other = folder.path().join("other").display().to_string();
    let har = crate::program::asset("har_cnn.onnx").display().to_string();
    answered(&["init", &other, "--model", &har]);
    says(&refused(&["generate", &other, "w5"], 2), "next", "acclimate predict");
    // A model without its tokenizer, and a tokenizer of another name.
    let alone = folder.path().join("alone/model.onnx");
    std::fs::create_dir_all(alone.parent().unwrap()).unwrap();
    std::fs::copy(folder.path().join("llama_past/model.onnx"), &alone).unwrap();
    let (alone, third) = (alone.display().to_string(), folder.path().join("third").display().to_string());
    says(&refused(&["init", &third, "--model", &alone], 2), "next", "--tokenizer");
    // A tokenizer of a larger vocabulary than the model's.
    let wide = folder.path().join("llama_past/tokenizer.json");
    let larger = std::fs::read_to_string(&wide).unwrap().replace("\"w135\":135", "\"w135\":5135");
    std::fs::write(&wide, larger).unwrap();
    let model = folder.path().join("llama_past/model.onnx").display().to_string();
    let fourth = folder.path().join("fourth").display().to_string();
    answered(&["init", &fourth, "--model", &model]);
    let error = refused(&["generate", &fourth, "w135"], 65);
    says(&error, "error", "the token 5135");
    says(&error, "next", "tokenizer");
}
