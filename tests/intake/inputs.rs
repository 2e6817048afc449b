//! Roles and types of inputs, and arrays for models of pictures.

use std::path::{Path, PathBuf};

use acclimate::input::{ArrayData, NamedArray, RawInput, RgbImage};
use acclimate::runtime::{TextPadding, TrainOptions};
use acclimate::{ErrorKind, Feedback, Home, InitOptions};
use tempfile::TempDir;

use crate::models::{
    E, TEXTS, WORDS, answers, array, classifier, embedded, home, logits, one_input, tokenizer, tokens, wave,
};
use crate::support::onnx::*;

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
