//! What goes into a model: padding, the roles and types of inputs, indices, and what `init` refuses. Expected answers are computed here,
//! from the formulas that the models spell.
#![cfg(feature = "train")]

mod support;

use std::path::{Path, PathBuf};

use acclimate::input::{ArrayData, NamedArray, RawInput, RgbImage};
use acclimate::runtime::{TextPadding, TrainOptions};
use acclimate::{Error, ErrorKind, Feedback, Home, InitOptions, Session};
use support::onnx::*;
use tempfile::TempDir;
use tract_onnx::pb::{NodeProto, TensorProto, ValueInfoProto};

/// Rows of the embedding table, its width, and the number of classes.
const WORDS: usize = 12;
const E: usize = 4;
const C: usize = 3;
/// Texts of four lengths, the last of more than one bucket's.
const TEXTS: [&str; 4] = ["w1 w2", "w3", "w9 w0 w4 w4 w8 w2 w7 w5 w6", "w5 w1 w0 w2 w9"];

fn wave(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (1.7 * i as f32 + seed).sin()).collect()
}

/// The tokens of a text: `w0` is 2, behind the unknown and the padding token.
fn tokens(text: &str) -> Vec<usize> {
    text.split(' ').map(|w| w[1..].parse::<usize>().unwrap() + 2).collect()
}

fn tokenizer(folder: &Path) -> PathBuf {
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

fn embedded(token: usize) -> Vec<f32> {
    wave(WORDS * E, 0.3)[token * E..(token + 1) * E].to_vec()
}

fn classifier() -> TensorProto {
    floats("W", &[E as i64, C as i64], &wave(E * C, 1.1))
}

fn logits(features: &[f32]) -> Vec<f32> {
    let w = wave(E * C, 1.1);
    (0..C).map(|c| (0..E).map(|e| features[e] * w[e * C + c]).sum()).collect()
}

fn softmax(z: &[f32]) -> Vec<f32> {
    let all: f32 = z.iter().map(|z| z.exp()).sum();
    z.iter().map(|z| z.exp() / all).collect()
}

fn home(folder: &Path, model: PathBuf, tokenizer: Option<PathBuf>) -> acclimate::Result<Home> {
    let name = format!("home-{}", model.file_stem().unwrap().to_string_lossy());
    let options = InitOptions::new(model);
    let options = tokenizer.into_iter().fold(options, InitOptions::tokenizer);
    Home::init(folder.join(name), &options)
}

/// Checks the probabilities of an answer.
#[track_caller]
fn answers(session: &Session, input: &RawInput, logits: &[f32], what: &str) {
    let answer = session.predict_top(input, C).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let wanted = softmax(logits);
    assert_eq!(answer.top.len(), C, "{what}");
    for found in answer.top {
        let wanted = wanted[found.label.parse::<usize>().unwrap()];
        assert!((found.p - wanted).abs() < 1e-4, "{what}: {} has {}, not {wanted}", found.label, found.p);
    }
}

/// A model of texts: from `emb`, the embedded ids `[batch, sequence, E]`, to `m`, the features `[batch, E]`.
fn text_model(folder: &Path, name: &str, mask: bool, more: Vec<TensorProto>, nodes: Vec<NodeProto>) -> PathBuf {
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

fn mean(folder: &Path) -> PathBuf {
    let nodes = vec![node("ReduceMean", &["emb"], &["m"], vec![list("axes", &[1]), int("keepdims", 0)])];
    text_model(folder, "mean", false, vec![], nodes)
}

fn mean_of(text: &str) -> Vec<f32> {
    let tokens = tokens(text);
    (0..E).map(|e| tokens.iter().map(|t| embedded(*t)[e]).sum::<f32>() / tokens.len() as f32).collect()
}

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

/// A model of ids, a mask and a third input, that adds what the third one looks up in "more".
fn three_inputs(folder: &Path, names: [&str; 3], kind: DataType, rows: usize) -> PathBuf {
    let inputs = names.map(|name| input(name, kind, &["batch", "sequence"])).to_vec();
    let stored = vec![
        floats("table", &[WORDS as i64, E as i64], &wave(WORDS * E, 0.3)),
        floats("more", &[rows as i64, E as i64], &wave(rows * E, 5.0)),
        classifier(),
        ints("one", &[1], &[1]),
        ints("two", &[1], &[2]),
    ];
    let nodes = vec![
        node("Gather", &["table", names[0]], &["a"], vec![]),
        node("Gather", &["more", names[2]], &["b"], vec![]),
        node("Add", &["a", "b"], &["ab"], vec![]),
        cast(names[1], "f", DataType::Float),
        node("Unsqueeze", &["f", "two"], &["f2"], vec![]),
        node("Mul", &["ab", "f2"], &["masked"], vec![]),
        node("ReduceSum", &["masked", "one"], &["m"], vec![int("keepdims", 0)]),
        node("MatMul", &["m", "W"], &["logits"], vec![]),
    ];
    save(folder, names[2], inputs, stored, nodes)
}

#[test]
fn inputs_are_filled_by_their_roles() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let cases = [
        (["input_ids", "attention_mask", "position_ids"], DataType::Int64, 6),
        (["input_word_ids", "input_mask", "input_type_ids"], DataType::Int32, 2),
        (["ids", "x", "segments"], DataType::Int32, 2),
        (["args_0", "args_1", "args_2"], DataType::Int64, 2),
    ];
    for (names, kind, rows) in cases {
        let home = home(at, three_inputs(at, names, kind, rows), Some(tokenizer(at))).unwrap();
        assert_eq!(home.config().padding, TextPadding::Masked, "{names:?}");
        // A table of positions is as long as a text may be.
        assert_eq!(home.config().max_length, if rows == 6 { 6 } else { 128 }, "{names:?}");
        let session = home.session("default").unwrap();
        for text in TEXTS {
            let tokens: Vec<usize> = tokens(text).into_iter().take(home.config().max_length).collect();
            let more = wave(rows * E, 5.0);
            let third = |t: usize| if rows == 6 { t } else { 0 };
            let features: Vec<f32> = (0..E)
                .map(|e| tokens.iter().enumerate().map(|(t, w)| embedded(*w)[e] + more[third(t) * E + e]).sum())
                .collect();
            answers(&session, &RawInput::Text(text.into()), &logits(&features), &format!("{names:?}, {text:?}"));
        }
    }
}

/// A model of one input `x` that `nodes` make `h` of, `[batch, E]`.
fn one_input(folder: &Path, name: &str, x: ValueInfoProto, more: Vec<TensorProto>, nodes: Vec<NodeProto>) -> PathBuf {
    let stored = [vec![classifier()], more].concat();
    let nodes = [nodes, vec![node("MatMul", &["h", "W"], &["logits"], vec![])]].concat();
    save(folder, name, vec![x], stored, nodes)
}

fn array(data: ArrayData, shape: &[usize]) -> RawInput {
    RawInput::Arrays(vec![NamedArray::new("", shape.to_vec(), data).unwrap()])
}

#[test]
fn inputs_of_every_type_are_answered_and_no_number_wraps() {
    let folder = TempDir::new().unwrap();
    let kinds = [
        ("u8", DataType::Uint8, Some(256)),
        ("i8", DataType::Int8, Some(128)),
        ("u16", DataType::Uint16, Some(1 << 16)),
        ("i16", DataType::Int16, Some(-(1 << 15) - 1)),
        ("u32", DataType::Uint32, Some(-1)),
        ("i32", DataType::Int32, Some((1 << 32) + 5)),
        ("i64", DataType::Int64, None),
        ("f64", DataType::Double, None),
        ("f32", DataType::Float, None),
    ];
    for (name, kind, outside) in kinds {
        let x = input("x", kind, &["batch", "4"]);
        let model = one_input(folder.path(), name, x, vec![], vec![cast("x", "h", DataType::Float)]);
        let session = home(folder.path(), model, None).unwrap().session("default").unwrap();
        let wanted = logits(&[1.0, 0.0, 3.0, 2.0]);
        for data in [
            ArrayData::U8(vec![1, 0, 3, 2]),
            ArrayData::I64(vec![1, 0, 3, 2]),
            ArrayData::F32(vec![1.0, 0.0, 3.0, 2.0]),
        ] {
            answers(&session, &array(data, &[4]), &wanted, name);
        }
        if let Some(outside) = outside {
            let e = session.predict(&array(ArrayData::I64(vec![1, 0, outside, 2]), &[4])).unwrap_err();
            let said = format!("the value {outside} at [2] of the input \"x\" is no {name}");
            assert!(e.kind() == ErrorKind::BadData && e.to_string() == said, "{e}");
        }
    }
}

/// Bytes of a picture, channels first and last: the mean of each channel, behind a constant fourth feature.
#[test]
fn models_of_bytes_take_pictures() {
    let folder = TempDir::new().unwrap();
    let picture = RgbImage::from_fn(8, 8, |x, y| [x as u8 * 30, y as u8 * 20, 7]);
    let means = [105.0f32 / 100.0, 70.0 / 100.0, 7.0 / 100.0, 0.0];
    for (name, dims, axes) in [("nchw", ["1", "3", "8", "8"], [2, 3]), ("nhwc", ["batch", "8", "8", "3"], [1, 2])] {
        let nodes = vec![
            cast("x", "f", DataType::Float),
            node("ReduceMean", &["f"], &["mean"], vec![list("axes", &axes), int("keepdims", 0)]),
            node("Div", &["mean", "hundred"], &["small"], vec![]),
            node("Pad", &["small", "pads"], &["h"], vec![]),
        ];
        let more = vec![floats("hundred", &[1], &[100.0]), ints("pads", &[4], &[0, 0, 0, 1])];
        let model = one_input(folder.path(), name, input("x", DataType::Uint8, &dims), more, nodes);
        let home = home(folder.path(), model, None).unwrap();
        assert!(home.intake().takes().contains("pictures"), "{name}");
        let session = home.session("default").unwrap();
        answers(&session, &RawInput::Image(picture.clone()), &logits(&means), name);
        // They learn: no input between two pictures is synthetic that a byte cannot hold.
        for n in 0..16u8 {
            let picture = RgbImage::from_fn(8, 8, |x, y| [x as u8 * n, y as u8 * 20, 7]);
            let id = session.predict(&RawInput::Image(picture)).unwrap().id.unwrap();
            session.feedback(id, Feedback::Label((n % 3).to_string())).unwrap();
        }
        let settings = acclimate::adapt::Settings { steps: Some(4), ..session.settings() };
        session.train(&TrainOptions::default().settings(settings)).unwrap();
    }
}

fn table(rows: i64) -> TensorProto {
    floats("table", &[rows, E as i64], &wave(rows as usize * E, 0.3))
}

/// Every operator that takes an index from the input: an index just outside, from either end, is refused before the run with its place;
/// one that is counted from the end is read.
#[test]
fn an_index_outside_of_its_table_is_refused() {
    let folder = TempDir::new().unwrap();
    let mean = |from: &str| node("ReduceMean", &[from], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    let wide = floats("wide", &[E as i64, 7], &wave(7 * E, 0.3));
    let (one, cols) = (ints("one", &[1], &[1]), ints("cols", &[2], &[1, 4]));
    let cases: Vec<(&str, i64, Vec<TensorProto>, Vec<NodeProto>)> = vec![
        ("gather", 49, vec![table(49)], vec![node("Gather", &["table", "x"], &["e"], vec![]), mean("e")]),
        (
            "behind",
            49,
            vec![table(49), one.clone()],
            vec![
                cast("x", "s", DataType::Int32),
                node("Unsqueeze", &["s", "one"], &["u"], vec![]),
                node("Squeeze", &["u", "one"], &["v"], vec![]),
                node("Gather", &["table", "v"], &["e"], vec![]),
                mean("e"),
            ],
        ),
        (
            "inner",
            7,
            vec![wide],
            vec![
                node("Gather", &["wide", "x"], &["e"], vec![int("axis", 1)]),
                node("Transpose", &["e"], &["t"], vec![list("perm", &[1, 2, 0])]),
                mean("t"),
            ],
        ),
        (
            "places",
            49,
            vec![table(49), ints("last", &[1], &[-1])],
            vec![
                node("Unsqueeze", &["x", "last"], &["u"], vec![]),
                node("GatherND", &["table", "u"], &["e"], vec![]),
                mean("e"),
            ],
        ),
        (
            "elements",
            1,
            vec![cols],
            vec![
                cast("x", "f", DataType::Float),
                node("GatherElements", &["f", "x"], &["g"], vec![int("axis", 1)]),
                node("Slice", &["g", "zero", "four", "one"], &["h"], vec![]),
            ],
        ),
    ];
    for (name, rows, more, nodes) in cases {
        let elements = name == "elements";
        let rows = if elements { 6 } else { rows };
        let more = if elements {
            vec![ints("zero", &[1], &[0]), ints("four", &[1], &[4]), ints("one", &[1], &[1])]
        } else {
            more
        };
        let x = input("x", DataType::Int64, &["batch", "6"]);
        let session = home(folder.path(), one_input(folder.path(), name, x, more, nodes), None).unwrap();
        let session = session.session("default").unwrap();
        let asked = |third: i64| session.predict_top(&array(ArrayData::I64(vec![0, 1, third, 1, 0, 2]), &[6]), C);
        for inside in [0, rows - 1] {
            let (there, turned) = (asked(inside).unwrap(), asked(inside - rows));
            // What is gathered from the input itself is another input then.
            let same = |(a, b): (&acclimate::runtime::Scored, &acclimate::runtime::Scored)| (a.p - b.p).abs() < 1e-6;
            assert!(elements || there.top.iter().zip(&turned.unwrap().top).all(same), "{name}: {inside}");
        }
        for outside in [rows, -rows - 1, 99_999, (1 << 32) + 5, i64::MIN] {
            let e = asked(outside).unwrap_err();
            let said = e.to_string();
            let wanted = format!("the value {outside} at [2] of the input \"x\" is no index of a table of {rows}");
            assert!(e.kind() == ErrorKind::BadData && said.contains(&wanted), "{name}: {said}");
            assert!(e.next_step().unwrap().contains(&format!("0 to {}", rows - 1)), "{name}: {e:?}");
        }
    }
}

#[test]
fn an_index_that_is_computed_is_refused_where_it_is_used() {
    let folder = TempDir::new().unwrap();
    let nodes = vec![
        node("Mul", &["x", "two"], &["twice"], vec![]),
        node("Gather", &["table", "twice"], &["e"], vec![]),
        node("ReduceMean", &["e"], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]),
    ];
    let x = input("x", DataType::Int64, &["batch", "2"]);
    let model = one_input(folder.path(), "twice", x, vec![table(300), ints("two", &[1], &[2])], nodes);
    let session = home(folder.path(), model, None).unwrap().session("default").unwrap();
    assert!(session.predict(&array(ArrayData::I64(vec![149, -150]), &[2])).is_ok());
    for outside in [150, -151] {
        let e = session.predict(&array(ArrayData::I64(vec![1, outside]), &[2])).unwrap_err();
        let said = format!("the input leads to the index {} at [0, 1] of a table of 300 (e)", 2 * outside);
        assert!(e.kind() == ErrorKind::BadData && e.to_string() == said && e.next_step().is_some(), "{e}");
    }
}

/// An index outside of a one-hot vector marks nothing, and is no error.
#[test]
fn a_one_hot_vector_has_nothing_marked_by_what_lies_outside() {
    let folder = TempDir::new().unwrap();
    let nodes = vec![
        node("OneHot", &["x", "depth", "values"], &["hot"], vec![]),
        node("ReduceSum", &["hot", "one"], &["h"], vec![int("keepdims", 0)]),
    ];
    let more = vec![ints("depth", &[], &[4]), floats("values", &[2], &[0.0, 1.0]), ints("one", &[1], &[1])];
    let model = one_input(folder.path(), "hot", input("x", DataType::Int64, &["batch", "3"]), more, nodes);
    let session = home(folder.path(), model, None).unwrap().session("default").unwrap();
    for (ids, hot) in [
        ([0, 3, 3], [1.0, 0.0, 0.0, 2.0]),
        ([4, -1, -4], [1.0, 0.0, 0.0, 1.0]),
        ([-5, (1 << 32) + 1, 1], [0.0, 1.0, 0.0, 0.0]),
    ] {
        answers(&session, &array(ArrayData::I64(ids.to_vec()), &[3]), &logits(&hot), &format!("{ids:?}"));
    }
}

/// One row of whatever number of examples `x` has: the batch of 1 with which a model was traced, baked into a reshape.
fn one_row() -> Vec<NodeProto> {
    vec![
        node("Reshape", &["x", "shape"], &["all"], vec![]),
        node("Slice", &["all", "from", "to", "along"], &["h"], vec![]),
    ]
}

fn one_row_sizes() -> Vec<TensorProto> {
    vec![ints("shape", &[2], &[1, -1]), ints("from", &[1], &[0]), ints("to", &[1], &[4]), ints("along", &[1], &[1])]
}

#[track_caller]
fn refused(folder: &Path, model: PathBuf, tokenizer: Option<PathBuf>, words: &[&str]) -> Error {
    let name = format!("home-{}", model.file_stem().unwrap().to_string_lossy());
    let e = home(folder, model, tokenizer).err().unwrap_or_else(|| panic!("{name} was made"));
    let all = format!("{e} {}", e.next_step().unwrap_or_default());
    assert_eq!(e.kind(), ErrorKind::UnsupportedModel, "{all}");
    words.iter().for_each(|w| assert!(all.contains(w), "{name}: no {w:?} in {all}"));
    assert!(!folder.join(name).exists(), "something was written");
    e
}

#[test]
fn init_refuses_what_can_never_answer() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let x = |dims: &[&str]| input("x", DataType::Float, dims);
    let same = || vec![node("Identity", &["x"], &["h"], vec![])];

    let nodes = one_row();
    let baked = one_input(at, "baked", x(&["examples", "4"]), one_row_sizes(), nodes);
    refused(at, baked.clone(), None, &["only one at a time", "pin MODEL --dim examples=1"]);
    // What the hint says works.
    let (fixed, pins) = (at.join("fixed.onnx"), vec![("examples".to_string(), 1)]);
    acclimate::tools::pin::pin(
        &baked,
        &acclimate::tools::pin::Pins { dims: pins, ..Default::default() },
        &fixed,
        &|_| Ok(()),
    )
    .unwrap();
    let session = home(at, fixed, None).unwrap().session("default").unwrap();
    answers(&session, &array(ArrayData::F32(vec![1.0, 2.0, 3.0, 4.0]), &[4]), &logits(&[1.0, 2.0, 3.0, 4.0]), "fixed");

    let nodes = vec![node("Mul", &["x", "zero"], &["z"], vec![]), node("Log", &["z"], &["h"], vec![])];
    let infinite = one_input(at, "infinite", x(&["batch", "4"]), vec![floats("zero", &[1], &[0.0])], nodes);
    refused(at, infinite, None, &["does not answer", "not a finite number"]);

    let mut broken = wave(E * E, 1.0);
    broken[5] = f32::NAN;
    let nodes = vec![node("MatMul", &["x", "N"], &["h"], vec![])];
    let nan = one_input(at, "nan", x(&["batch", "4"]), vec![floats("N", &[E as i64, E as i64], &broken)], nodes);
    refused(at, nan, None, &["not a number (NaN)", "N"]);

    let speed = |dims: &[&str]| {
        let inputs =
            vec![input("input_ids", DataType::Int64, &["batch", "sequence"]), input("speed", DataType::Float, dims)];
        let nodes = vec![
            node("Gather", &["table", "input_ids"], &["e"], vec![]),
            node("ReduceMean", &["e"], &["s"], vec![list("axes", &[1]), int("keepdims", 0)]),
            node("Mul", &["s", "speed"], &["h"], vec![]),
            node("MatMul", &["h", "W"], &["logits"], vec![]),
        ];
        save(at, "speed", inputs, vec![table(WORDS as i64), classifier()], nodes)
    };
    refused(
        at,
        speed(&["batch", "1"]),
        Some(tokenizer(at)),
        &["nothing in a text fills", "\"speed\"", "pin MODEL --input speed="],
    );

    // Numbers that only some models take say nothing against one: logarithms of a power, a number of something.
    let logarithm = one_input(at, "power", x(&["batch", "4"]), vec![], vec![node("Log", &["x"], &["h"], vec![])]);
    assert!(home(at, logarithm, None).is_ok());

    // A model of two rows an example.
    let nodes = vec![node("Concat", &["x", "x"], &["h"], vec![int("axis", 0)])];
    refused(
        at,
        one_input(at, "twice", x(&["1", "4"]), vec![], nodes),
        None,
        &["rows that do not belong to one example"],
    );
    assert!(home(at, one_input(at, "sound", x(&["batch", "4"]), vec![], same()), None).is_ok());
}

/// Made-up inputs, as `gradcheck` and `bench` use them, stay within every table.
#[test]
fn made_up_inputs_stay_inside() {
    let folder = TempDir::new().unwrap();
    let mean = |from: &str| node("ReduceMean", &[from], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    for (name, nodes) in [
        ("plain", vec![node("Gather", &["table", "x"], &["e"], vec![]), mean("e")]),
        (
            "nd",
            vec![
                node("Unsqueeze", &["x", "last"], &["u"], vec![]),
                node("GatherND", &["table", "u"], &["e"], vec![]),
                mean("e"),
            ],
        ),
    ] {
        let x = input("x", DataType::Int64, &["batch", "6"]);
        let model = one_input(folder.path(), name, x, vec![table(9), ints("last", &[1], &[-1])], nodes);
        let base = acclimate::base::Base::open(&model).unwrap();
        for example in base.random_examples(&base.bucket(64, 0), 3).unwrap() {
            let ArrayData::I64(ids) = &example.arrays[0].data else { panic!("not integers") };
            assert!(ids.iter().all(|id| (0..9).contains(id)), "{name}: {ids:?}");
        }
        let options = acclimate::tools::gradcheck::Options::default();
        acclimate::tools::gradcheck::check(&base, base.guess_task().unwrap(), &options, None).unwrap();
    }
}

/// Arrays for a model of pictures: floats of the model's own shape that are no brightness go to it as they are, what may be either is refused
/// with the flag named, and what was given as a tensor is one in the journal.
#[test]
fn arrays_that_have_the_models_shape_are_no_pictures() {
    let folder = TempDir::new().unwrap();
    let nodes = vec![
        node("ReduceMean", &["x"], &["mean"], vec![list("axes", &[2, 3]), int("keepdims", 0)]),
        node("Pad", &["mean", "pads"], &["h"], vec![]),
    ];
    let more = vec![ints("pads", &[4], &[0, 0, 0, 1])];
    let model =
        one_input(folder.path(), "picture", input("x", DataType::Float, &["batch", "3", "8", "8"]), more, nodes);
    let channels = |values: [f32; 3]| {
        let data = (0..192).map(|i| values[i / 64] + if i % 2 == 0 { 0.25 } else { -0.25 }).collect();
        NamedArray::new("", vec![3, 8, 8], ArrayData::F32(data)).unwrap()
    };
    let wanted = |v: [f32; 3]| logits(&[v[0], v[1], v[2], 0.0]);
    let (normalised, unit) = ([-1.0, 0.5, 2.0], [0.3, 0.5, 0.7]);

    let home = Home::init(folder.path().join("a"), &InitOptions::new(&model)).unwrap();
    let session = home.session("default").unwrap();
    answers(&session, &RawInput::Arrays(vec![channels(normalised)]), &wanted(normalised), "normalised");
    let e = session.predict(&RawInput::Arrays(vec![channels(unit)])).unwrap_err();
    assert!(e.kind() == ErrorKind::BadData && e.next_step().unwrap().contains("--tensor"), "{e:?}");
    // A picture of bytes is one, whatever its shape: (v / 255 - mean) / std.
    let bytes = NamedArray::new("", vec![3, 8, 8], ArrayData::U8(vec![51; 192])).unwrap();
    let grey = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225];
    answers(&session, &RawInput::Arrays(vec![bytes]), &wanted(grey), "bytes");
    for n in 0..16 {
        let input = RawInput::Tensor(vec![channels([0.3 + 0.02 * n as f32, 0.5, 0.7])]);
        let id = session.predict(&input).unwrap().id.unwrap();
        session.feedback(id, Feedback::Label((n % 3).to_string())).unwrap();
    }
    let settings = acclimate::adapt::Settings { steps: Some(4), ..session.settings() };
    session.train(&TrainOptions::default().settings(settings)).unwrap();

    let options = InitOptions::new(&model).tensor(true);
    let session = Home::init(folder.path().join("b"), &options).unwrap().session("default").unwrap();
    answers(&session, &RawInput::Arrays(vec![channels(unit)]), &wanted(unit), "a home of tensors");
    assert!(std::fs::read_to_string(folder.path().join("b/acclimate.toml")).unwrap().contains("tensor = true"));
    let picture = RgbImage::from_fn(8, 8, |_, _| [51; 3]);
    answers(&session, &RawInput::Image(picture), &wanted(grey), "a picture in a home of tensors");
}

/// The same through the program: exit codes, what JSON says, and the flag.
#[cfg(feature = "cli")]
#[test]
fn the_program_says_what_is_wrong_with_an_input() {
    use acclimate::input::arrays::write_npy;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("acclimate"));
        let output = command.args(args).arg("--json").env_remove("ACCLIMATE_LOG").output().unwrap();
        let (good, out, err) = (output.status.success(), output.stdout, output.stderr);
        let said = String::from_utf8(if good { out } else { err }).unwrap();
        let value = if good { said.as_str() } else { said.lines().last().unwrap_or_default() };
        let value: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
        (output.status.code(), value, said)
    };
    let save = |name: &str, data: ArrayData, shape: &[usize]| {
        write_npy(Path::new(&at(name)), &NamedArray::new("", shape.to_vec(), data).unwrap()).unwrap();
        at(name)
    };

    let mean = node("ReduceMean", &["e"], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    let nodes = vec![node("Gather", &["table", "x"], &["e"], vec![]), mean];
    let x = input("x", DataType::Int64, &["batch", "3"]);
    let model = one_input(folder.path(), "ids", x, vec![table(9)], nodes);
    let (code, _, said) = run(&["init", &at("ids"), "--model", model.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let good = save("good.npy", ArrayData::I64(vec![0, 8, -9, 1, 2, 3]), &[2, 3]);
    assert_eq!(run(&["predict", &at("ids"), &good]).0, Some(0));
    let beyond = save("beyond.npy", ArrayData::I64(vec![0, 9, 1]), &[1, 3]);
    let (code, error, said) = run(&["predict", &at("ids"), &beyond]);
    assert_eq!(code, Some(65), "{said}");
    assert!(error["error"].as_str().unwrap().contains("the value 9 at [1] of the input \"x\""), "{said}");
    assert!(error["next"].as_str().unwrap().contains("0 to 8"), "{said}");
    assert_eq!(run(&["gradcheck", model.to_str().unwrap()]).0, Some(0));

    let nodes = one_row();
    let x = input("x", DataType::Float, &["examples", "4"]);
    let baked = one_input(folder.path(), "baked", x, one_row_sizes(), nodes);
    let (code, error, said) = run(&["init", &at("baked"), "--model", baked.to_str().unwrap()]);
    assert!(code == Some(69) && error["next"].as_str().unwrap().contains("--dim examples=1"), "{said}");
    assert!(!Path::new(&at("baked")).exists());

    let nodes = vec![
        node("ReduceMean", &["x"], &["mean"], vec![list("axes", &[2, 3]), int("keepdims", 0)]),
        node("Pad", &["mean", "pads"], &["h"], vec![]),
    ];
    let x = input("x", DataType::Float, &["batch", "3", "8", "8"]);
    let picture = one_input(folder.path(), "pictures", x, vec![ints("pads", &[4], &[0, 0, 0, 1])], nodes);
    let unit = save("unit.npy", ArrayData::F32(vec![0.5; 2 * 192]), &[2, 3, 8, 8]);
    assert_eq!(run(&["init", &at("pictures"), "--model", picture.to_str().unwrap()]).0, Some(0));
    let (code, error, said) = run(&["predict", &at("pictures"), &unit]);
    assert!(code == Some(65) && error["next"].as_str().unwrap().contains("--tensor"), "{said}");
    let (code, answers, said) = run(&["predict", &at("pictures"), &unit, "--tensor", "--top", "3"]);
    assert_eq!((code, answers.as_array().map(Vec::len)), (Some(0), Some(2)), "{said}");
    assert_eq!(run(&["init", &at("tensors"), "--model", picture.to_str().unwrap(), "--tensor"]).0, Some(0));
    let (_, same, said) = run(&["predict", &at("tensors"), &unit, "--top", "3"]);
    assert_eq!(answers[0]["top"], same[0]["top"], "{said}");
}
