//! Small models of texts and arrays, with the formulas of their answers.

use std::path::{Path, PathBuf};

use acclimate::input::{ArrayData, NamedArray, RawInput};
use acclimate::{Home, InitOptions, Session};
use tract_onnx::pb::{NodeProto, TensorProto, ValueInfoProto};

use crate::support::onnx::*;

/// Rows of the embedding table, its width, and the number of classes.
pub const WORDS: usize = 12;
pub const E: usize = 4;
pub const C: usize = 3;
/// Texts of four lengths, the last of more than one bucket's.
pub const TEXTS: [&str; 4] = ["w1 w2", "w3", "w9 w0 w4 w4 w8 w2 w7 w5 w6", "w5 w1 w0 w2 w9"];

pub fn wave(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (1.7 * i as f32 + seed).sin()).collect()
}

/// The tokens of a text: `w0` is 2, behind the unknown and the padding token.
pub fn tokens(text: &str) -> Vec<usize> {
    text.split(' ').map(|w| w[1..].parse::<usize>().unwrap() + 2).collect()
}

pub fn tokenizer(folder: &Path) -> PathBuf {
    let words: Vec<String> = (0..WORDS - 2).map(|i| format!("\"w{i}\": {}", i + 2)).collect();
    let file = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null,
        "model": {{"type": "WordLevel", "vocab": {{"<unk>": 0, "<pad>": 1, {}}}, "unk_token": "<unk>"}}}}"#,
        words.join(", ")
    );
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, file).unwrap();
    path
}

pub fn embedded(token: usize) -> Vec<f32> {
    wave(WORDS * E, 0.3)[token * E..(token + 1) * E].to_vec()
}

pub fn classifier() -> TensorProto {
    floats("W", &[E as i64, C as i64], &wave(E * C, 1.1))
}

pub fn logits(features: &[f32]) -> Vec<f32> {
    let w = wave(E * C, 1.1);
    (0..C).map(|c| (0..E).map(|e| features[e] * w[e * C + c]).sum()).collect()
}

pub fn softmax(z: &[f32]) -> Vec<f32> {
    let all: f32 = z.iter().map(|z| z.exp()).sum();
    z.iter().map(|z| z.exp() / all).collect()
}

pub fn home(folder: &Path, model: PathBuf, tokenizer: Option<PathBuf>) -> acclimate::Result<Home> {
    let name = format!("home-{}", model.file_stem().unwrap().to_string_lossy());
    let options = InitOptions::new(model);
    let options = tokenizer.into_iter().fold(options, InitOptions::tokenizer);
    Home::init(folder.join(name), &options)
}

/// Checks the probabilities of an answer.
#[track_caller]
pub fn answers(session: &Session, input: &RawInput, logits: &[f32], what: &str) {
    let answer = session.predict_top(input, C).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let wanted = softmax(logits);
    assert_eq!(answer.top.len(), C, "{what}");
    for found in answer.top {
        let wanted = wanted[found.label.parse::<usize>().unwrap()];
        assert!((found.p - wanted).abs() < 1e-4, "{what}: {} has {}, not {wanted}", found.label, found.p);
    }
}

/// A model of texts: from `emb`, the embedded ids `[batch, sequence, E]`, to `m`, the features `[batch, E]`.
pub fn text_model(folder: &Path, name: &str, mask: bool, more: Vec<TensorProto>, nodes: Vec<NodeProto>) -> PathBuf {
    let of = |name: &str| input(name, DataType::Int64, &["batch", "sequence"]);
    let mut inputs = vec![of("input_ids")];
    inputs.extend(mask.then(|| of("attention_mask")));
    let mut all = vec![node("Gather", &["table", "input_ids"], &["emb"], vec![])];
    all.extend(nodes);
    all.push(node("MatMul", &["m", "W"], &["logits"], vec![]));
    let mut stored = vec![floats("table", &[WORDS as i64, E as i64], &wave(WORDS * E, 0.3)), classifier()];
    stored.extend([ints("one", &[1], &[1]), ints("two", &[1], &[2])]);
    stored.extend(more);
    save(folder, name, inputs, stored, all)
}

pub fn mean(folder: &Path) -> PathBuf {
    let nodes = vec![node("ReduceMean", &["emb"], &["m"], vec![list("axes", &[1]), int("keepdims", 0)])];
    text_model(folder, "mean", false, vec![], nodes)
}

pub fn mean_of(text: &str) -> Vec<f32> {
    let tokens = tokens(text);
    (0..E).map(|e| tokens.iter().map(|t| embedded(*t)[e]).sum::<f32>() / tokens.len() as f32).collect()
}

/// A model of one input `x` that `nodes` make `h` of, `[batch, E]`.
pub fn one_input(
    folder: &Path,
    name: &str,
    x: ValueInfoProto,
    more: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
) -> PathBuf {
    let stored = [vec![classifier()], more].concat();
    let nodes = [nodes, vec![node("MatMul", &["h", "W"], &["logits"], vec![])]].concat();
    save(folder, name, vec![x], stored, nodes)
}

pub fn array(data: ArrayData, shape: &[usize]) -> RawInput {
    RawInput::Arrays(vec![NamedArray::new("", shape.to_vec(), data).unwrap()])
}

pub fn table(rows: i64) -> TensorProto {
    floats("table", &[rows, E as i64], &wave(rows as usize * E, 0.3))
}
