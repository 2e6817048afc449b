//! Padding: only where it changes no answer.

use std::path::{Path, PathBuf};

use acclimate::Feedback;
use acclimate::input::RawInput;
use acclimate::runtime::{TextPadding, TrainOptions};
use tempfile::TempDir;

use crate::models::{
    E, TEXTS, answers, embedded, home, logits, mean, mean_of, softmax, text_model, tokenizer, tokens, wave,
};
use crate::support::onnx::*;

fn recurrent(folder: &Path) -> PathBuf {
    let n = (E * E) as i64;
    let more = vec![
        floats("rw", &[1, E as i64, E as i64], &wave(n as usize, 0.7)),
        floats("rr", &[1, E as i64, E as i64], &wave(n as usize, 2.9)),
        ints("zero", &[1], &[0]),
    ];
    let nodes = vec![
        node("Transpose", &["emb"], &["t"], vec![list("perm", &[1, 0, 2])]),
        node("RNN", &["t", "rw", "rr"], &["all", "last"], vec![int("hidden_size", E as i64)]),
        node("Squeeze", &["last", "zero"], &["m"], vec![]),
    ];
    text_model(folder, "recurrent", false, more, nodes)
}

fn recurrent_of(text: &str) -> Vec<f32> {
    let (w, r, mut h) = (wave(E * E, 0.7), wave(E * E, 2.9), vec![0f32; E]);
    for token in tokens(text) {
        let x = embedded(token);
        let next = |i: usize| (0..E).map(|j| w[i * E + j] * x[j] + r[i * E + j] * h[j]).sum::<f32>().tanh();
        h = (0..E).map(next).collect();
    }
    h
}

fn convolution(folder: &Path) -> PathBuf {
    let nodes = vec![
        node("Transpose", &["emb"], &["t"], vec![list("perm", &[0, 2, 1])]),
        node("Conv", &["t", "k"], &["c"], vec![list("pads", &[1, 1]), list("kernel_shape", &[3])]),
        node("ReduceMax", &["c"], &["m"], vec![list("axes", &[2]), int("keepdims", 0)]),
    ];
    let kernel = floats("k", &[E as i64, E as i64, 3], &wave(E * E * 3, 0.9));
    text_model(folder, "convolution", false, vec![kernel], nodes)
}

fn convolution_of(text: &str) -> Vec<f32> {
    let (k, tokens) = (wave(E * E * 3, 0.9), tokens(text));
    let at = |o: usize, t: usize| -> f32 {
        let taps = (0..3).filter_map(|d| Some((d, embedded(*tokens.get((t + d).checked_sub(1)?)?))));
        taps.map(|(d, x)| (0..E).map(|e| k[(o * E + e) * 3 + d] * x[e]).sum::<f32>()).sum()
    };
    (0..E).map(|o| (0..tokens.len()).map(|t| at(o, t)).fold(f32::MIN, f32::max)).collect()
}

/// The sum up to the last token that is no padding (1), as decoders with a classifier find it; with a mask on everything.
fn last_token(folder: &Path, pad: i64) -> PathBuf {
    let nodes = vec![
        node("CumSum", &["emb", "axis"], &["sums"], vec![]),
        cast("attention_mask", "f", DataType::Float),
        node("Unsqueeze", &["f", "two"], &["f2"], vec![]),
        node("Mul", &["sums", "f2"], &["masked"], vec![]),
        node("Equal", &["input_ids", "pad"], &["padded"], vec![]),
        node("Not", &["padded"], &["is"], vec![]),
        cast("is", "count", DataType::Int64),
        node("ReduceSum", &["count", "one"], &["n"], vec![int("keepdims", 0)]),
        node("Sub", &["n", "one"], &["at"], vec![]),
        node("Unsqueeze", &["at", "one"], &["at2"], vec![]),
        node("GatherND", &["masked", "at2"], &["m"], vec![int("batch_dims", 1)]),
    ];
    let more = vec![ints("axis", &[], &[1]), ints("pad", &[], &[pad])];
    text_model(folder, &format!("last{pad}"), true, more, nodes)
}

fn sum_of(text: &str) -> Vec<f32> {
    let tokens = tokens(text);
    (0..E).map(|e| tokens.iter().map(|t| embedded(*t)[e]).sum()).collect()
}

/// A mean by the mask; or by the mask above and by the length below, so that padding makes it smaller.
fn masked_mean(folder: &Path, right: bool) -> PathBuf {
    let mut nodes = vec![
        cast("attention_mask", "f", DataType::Float),
        node("Unsqueeze", &["f", "two"], &["f2"], vec![]),
        node("Mul", &["emb", "f2"], &["masked"], vec![]),
    ];
    nodes.extend(match right {
        true => vec![
            node("ReduceSum", &["masked", "one"], &["sum"], vec![int("keepdims", 0)]),
            node("ReduceSum", &["f", "one"], &["n"], vec![]),
            node("Div", &["sum", "n"], &["m"], vec![]),
        ],
        false => vec![node("ReduceMean", &["masked"], &["m"], vec![list("axes", &[1]), int("keepdims", 0)])],
    });
    text_model(folder, if right { "masked" } else { "half_masked" }, true, vec![], nodes)
}

#[test]
fn a_text_is_padded_only_where_that_changes_no_answer() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    type Features = fn(&str) -> Vec<f32>;
    let models: [(PathBuf, Features, TextPadding); 7] = [
        (mean(at), mean_of, TextPadding::Exact),
        (recurrent(at), recurrent_of, TextPadding::Exact),
        (convolution(at), convolution_of, TextPadding::Exact),
        (last_token(at, 1), sum_of, TextPadding::Masked),
        // Its padding token is not the tokenizer's.
        (last_token(at, 0), sum_of, TextPadding::Exact),
        (masked_mean(at, true), mean_of, TextPadding::Masked),
        (masked_mean(at, false), mean_of, TextPadding::Exact),
    ];
    for (model, features, padding) in models {
        let name = model.file_stem().unwrap().to_string_lossy().into_owned();
        let home = home(at, model, Some(tokenizer(at))).unwrap();
        assert_eq!(home.config().padding, padding, "{name}");
        let session = home.session("default").unwrap();
        for text in TEXTS {
            answers(&session, &RawInput::Text(text.into()), &logits(&features(text)), &format!("{name}, {text:?}"));
        }
        // Many at once, of several lengths, and some of the same.
        let texts: Vec<&str> = TEXTS.iter().chain(&["w2 w1", "w7 w7"]).copied().collect();
        let inputs: Vec<RawInput> = texts.iter().map(|t| RawInput::Text(t.to_string())).collect();
        let all = session.evaluate(&inputs, true, 2).unwrap().unwrap();
        for (row, text) in all.rows().into_iter().zip(&texts) {
            let wanted = softmax(&logits(&features(text)));
            row.iter().zip(wanted).for_each(|(p, w)| assert!((p - w).abs() < 1e-4, "{name}, {text:?}: {p}, not {w}"));
        }
    }
}

/// Texts of several lengths train together, and what is learned answers each.
#[test]
fn texts_without_a_mask_train_in_batches_of_their_own_length() {
    let folder = TempDir::new().unwrap();
    let home = home(folder.path(), convolution(folder.path()), Some(tokenizer(folder.path()))).unwrap();
    let session = home.session("default").unwrap();
    for n in 0..24 {
        let text: Vec<String> = (0..1 + n % 5).map(|i| format!("w{}", (n * 3 + i) % 10)).collect();
        let id = session.predict(&RawInput::Text(text.join(" "))).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label(((n * 3) % 10 % 3).to_string())).unwrap();
    }
    let settings = acclimate::adapt::Settings { steps: Some(6), ..session.settings() };
    let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
    assert!(report.steps > 0, "{:?}", report.verdict);
}
