//! A language model that ends no answer by itself, in answers of more than a second and more than a pipe holds.

use std::io::Read;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::language;
use crate::program::json as answered;

/// Most tokens of an answer, and those of one that nobody stops.
pub const TOKENS: usize = 2000;
/// More words than an answer has that is stopped at once.
pub const STOPPED: usize = TOKENS * 3 / 4;
const CONTEXT: usize = 4096;
/// A token that ends an answer, which the model does not have.
const END: u32 = 5000;
const TEMPLATE: &str = "<s> {% for m in messages %}{{ m.role }} {{ m.content }} \
                        {% if loop.last and m.role == 'assistant' %}<end>{% endif %}{% endfor %}\
                        {% if add_generation_prompt %}assistant{% endif %}";

/// A home of it, by its path.
pub fn home(folder: &TempDir) -> String {
    let source = folder.path().join("endless");
    language::model(&source, "llama_past");
    let file = source.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let long = |word: &str| if word.starts_with('w') { format!("{word}{}", "x".repeat(100)) } else { word.to_string() };
    let words = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut vocabulary: Map<String, Value> = words.iter().map(|(word, id)| (long(word), id.clone())).collect();
    vocabulary.insert("<end>".into(), END.into());
    tokenizer["model"]["vocab"] = Value::Object(vocabulary);
    tokenizer["model"]["unk_token"] = long("w4").into();
    std::fs::write(file, tokenizer.to_string()).unwrap();
    let write = |name: &str, text: Value| std::fs::write(source.join(name), text.to_string()).unwrap();
    write("tokenizer_config.json", json!({ "chat_template": TEMPLATE, "bos_token": "<s>" }));
    write("generation_config.json", json!({ "eos_token_id": END, "max_new_tokens": TOKENS }));
    write("config.json", json!({ "max_position_embeddings": CONTEXT }));
    let home = folder.path().join("home").display().to_string();
    answered(&["init", &home, "--model", &source.join("model.onnx").display().to_string()]);
    home
}

/// What Ctrl-C sends.
pub fn interrupt(child: &Child) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
}

/// Waits for the first byte of an answer.
pub fn first_byte(from: &mut impl Read) -> u8 {
    let mut first = [0];
    from.read_exact(&mut first).unwrap();
    first[0]
}

pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}
