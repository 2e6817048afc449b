//! Models of unusual sizes and types, as a user meets them: from `init` to an answer.
#![cfg(feature = "train")]

mod golden;
mod support;

use acclimate::adapter::{DenseTensor, SiteDelta};
use acclimate::base::{Base, Port};
use acclimate::input::{ArrayData, NamedArray, RawInput, arrays};
use acclimate::runtime::{TrainLimits, TrainOptions};
use acclimate::tools::gradcheck::{Options as CheckOptions, Passes, check as gradcheck, gradients};
use acclimate::tools::inspect::{Options, inspect};
use acclimate::{Feedback, Home, InitOptions};
use golden::{relative, rows, unpack};

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
        let options = InitOptions::new(folder.path().join("model.onnx")).tokenizer(tokenizer).labels(labels);
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
        let settings = acclimate::adapt::Settings { steps: Some(4), ..session.settings() };
        session.train(&TrainOptions::default().settings(settings)).unwrap();
    }
}

/// The gradient of the person's own feedback says which layers matter, and the profile keeps what was chosen.
#[test]
fn a_training_within_limits_says_what_it_chose() {
    let folder = tempfile::tempdir().unwrap();
    let home = support::home(&folder);
    let session = home.session("default").unwrap();
    support::teach(&session, &support::person(23), 12);
    let settings = acclimate::adapt::Settings { steps: Some(8), ..session.settings() };
    let train = |limits: TrainLimits| {
        session.train(&TrainOptions::default().settings(settings.clone()).limits(limits)).unwrap()
    };
    let chosen = train(TrainLimits::default().memory_bytes(16 << 30).budget_seconds(600.0)).choice().cloned().unwrap();
    assert!(chosen.sites.len() > 1 && chosen.sites.len() <= chosen.reachable, "{chosen:?}");
    let shares: f64 = chosen.sites.iter().map(|s| s.share.unwrap()).sum();
    assert!(shares > 0.5 && shares < 1.0 + 1e-9 && chosen.seconds.unwrap() > 0.0, "{chosen:?}");
    let kept = std::fs::read_to_string(folder.path().join("home/profiles/default/choice.toml")).unwrap();
    assert!(chosen.sites.iter().all(|s| kept.contains(&s.name)), "{kept}");
    let report = train(TrainLimits::default().memory_bytes(1 << 20));
    assert_eq!(report.choice().unwrap().sites, []);
    assert_eq!(report.verdict.depth, acclimate::adapter::Depth::HeadOnly, "{:?}", report.tried);
    assert!(train(TrainLimits::default()).choice().is_none());
}

/// The outputs of an encoder that are maps, `[batch, channels, height, width]`, are one vector an example.
#[test]
fn an_encoder_that_gives_maps_learns() {
    let folder = unpack("zoo", "unet_bilinear");
    let options = InitOptions::new(folder.path().join("model.onnx")).task(acclimate::Task::Encoder);
    let home = Home::init(folder.path().join("home"), &options).unwrap();
    let dims: Vec<usize> = (home.base().inputs()[0].dims.iter().skip(1))
        .map(|d| if let acclimate::base::Dim::Fixed(n) = d { *n } else { panic!("{d} is open") })
        .collect();
    let session = home.session("default").unwrap();
    let count: usize = dims.iter().product();
    let question = |n: usize| {
        let light = if n.is_multiple_of(2) { 0.6 } else { 0.1 };
        let level = |i: usize| light + ((i * 7 + n * 13) % 17) as f32 / 50.0;
        let values = (0..count).map(|i| (255.0 * level(i)).round() as u8).collect();
        RawInput::Arrays(vec![NamedArray::new("x", dims.clone(), ArrayData::U8(values)).unwrap()])
    };
    for n in 0..16 {
        let id = session.predict(&question(n)).unwrap().id.unwrap();
        let label = if n.is_multiple_of(2) { "light" } else { "dark" };
        session.feedback(id, Feedback::NewLabel(label.into())).unwrap();
    }
    let report = session.train(&TrainOptions::default()).unwrap();
    assert!(report.promoted, "{:?}", report.verdict);
    assert_eq!(session.predict(&question(20)).unwrap().top[0].label, "light");
}

/// A delta of nothing: B is zero.
fn nothing(site: &acclimate::sites::Site) -> SiteDelta {
    let dense = |shape: Vec<usize>, value: f32| DenseTensor { data: vec![value; shape.iter().product()], shape };
    SiteDelta {
        name: site.name.clone(),
        kind: site.kind,
        rank: 1,
        alpha: 1.0,
        a: dense(site.a_shape(1), 0.1),
        b: dense(site.b_shape(1), 0.0),
    }
}

/// Encoders whose graphs ONNX Runtime's optimiser has fused (generator: `scripts/golden_fused.py`): they answer as there, the
/// layers within are sites, and their gradients agree with finite differences.
#[test]
fn fused_encoders_answer_as_onnx_runtime_and_can_adapt() {
    let files = std::fs::read_dir(golden::root().join("tests/goldens/fused")).unwrap();
    let mut names: Vec<String> =
        files.map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    let mut wrong = vec![];
    for name in names {
        let folder = unpack("fused", &name);
        let model = folder.path().join(format!("{name}.onnx"));
        let base = match Base::open(&model) {
            Ok(base) => base,
            Err(e) => {
                wrong.push(format!("{name}: {e:?}"));
                continue;
            }
        };
        let report = match inspect(&model, &Options::default()) {
            Ok(report) => report,
            Err(e) => {
                wrong.push(format!("{name}: {e:?}"));
                continue;
            }
        };
        // Queries, keys and values are one site, as they are one product in the file.
        if report.sites.len() < 8 {
            wrong.push(format!("{name}: {} sites; passed over: {:?}", report.sites.len(), report.skipped));
        }
        let references = arrays::read(&folder.path().join(format!("{name}.npz"))).unwrap();
        for batch in ["b3", "b1"] {
            let of = |port: &Port| {
                let found = references.iter().find(|a| a.name == format!("{batch}.{}", port.name));
                let array = found.unwrap_or_else(|| panic!("{name}: no {batch}.{}", port.name));
                NamedArray { name: port.name.clone(), ..array.clone() }
            };
            let inputs: Vec<NamedArray> = base.inputs().iter().map(of).collect();
            let deltas = report.sites.iter().map(|s| nothing(&s.site)).collect();
            let found = gradients(&base, rows(&inputs), deltas, None, 7, Passes::Fused);
            let found = match found {
                Ok(found) => found,
                Err(e) => {
                    wrong.push(format!("{name} {batch}: {e:?}"));
                    continue;
                }
            };
            let tolerance = if name.contains("f16") { 5e-3 } else { 1e-4 };
            for (port, output) in base.outputs().iter().filter(|p| p.element.is_float()).zip(&found.outputs) {
                let got: Vec<f32> = output.iter().copied().collect();
                let error = relative(&got, &of(port).data.to_f32());
                if error.is_nan() || error >= tolerance {
                    wrong.push(format!("{name} {batch}: {} is off by {error:.1e}", port.name));
                }
            }
        }
        let options = CheckOptions { batch: 1, sequence: 7, ..CheckOptions::default() };
        match gradcheck(&base, acclimate::Task::Encoder, &options, None) {
            Ok(report) if report.worst <= report.tolerance => {}
            Ok(report) => wrong.push(format!("{name}: gradients are off by {:.1e}", report.worst)),
            Err(e) => wrong.push(format!("{name}: {e:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
