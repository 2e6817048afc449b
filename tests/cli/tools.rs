//! `gradcheck`, `bench` and `simulate`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::program::{Bench, asset, json, node, person, refused, run, save_labelled, tiny_model};

#[test]
fn gradients_of_the_bundled_model_are_right_and_a_wrong_one_would_show() {
    let model = asset("har_cnn.onnx");
    let dump = tempfile::tempdir().unwrap();
    let into = dump.path().join("dump");
    let report = json(&["gradcheck", model.to_str().unwrap(), "--dump", into.to_str().unwrap()]);
    assert_eq!(report["ok"], true);
    assert!(report["sites"].as_array().is_some_and(|s| s.len() >= 4));
    for file in ["inputs.npz", "cotangent.npz", "adapter.safetensors", "outputs.npz", "gradients.safetensors"] {
        assert!(into.join(file).is_file(), "{file} is missing");
    }
    let strict = run(&["gradcheck", model.to_str().unwrap(), "--tolerance", "1e-12", "--json"]);
    assert_eq!(strict.status.code(), Some(65));
    assert_eq!(serde_json::from_slice::<Value>(&strict.stdout).unwrap()["ok"], false);
}

#[test]
fn a_gradcheck_that_measured_nothing_says_so() {
    let bench = Bench::new();
    let model = bench.at("coarse.onnx");
    let link = |op: &str, from: &[&str], to: &str| tract_onnx::pb::NodeProto {
        input: from.iter().map(|s| s.to_string()).collect(),
        output: vec![to.into()],
        name: format!("{to}_of_{op}"),
        ..node(op)
    };
    let mut scale = link("Constant", &[], "scale");
    let value = |f: f32| tract_onnx::pb::AttributeProto {
        name: "value_float".into(),
        r#type: tract_onnx::pb::attribute_proto::AttributeType::Float as i32,
        f,
        ..Default::default()
    };
    // Every answer is rounded to 0, whatever the layer before makes of it.
    scale.attribute.push(value(1e6));
    let rounded = [link("QuantizeLinear", &["a", "scale"], "q"), link("DequantizeLinear", &["q", "scale"], "y")];
    let [quantised, y] = rounded;
    tiny_model(Path::new(&model), vec![scale, link("MatMul", &["x", "w"], "a"), quantised, y]);
    let output = run(&["gradcheck", &model, "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], Value::Null, "{report}");
    assert_eq!((&report["verdict"], &report["checked"]), (&"unknown".into(), &1.into()), "{report}");
    let plain = String::from_utf8(run(&["gradcheck", &model]).stdout).unwrap();
    assert!(plain.contains("cannot tell"), "{plain}");
}

#[test]
fn a_gradcheck_keeps_to_its_time_and_says_what_it_left_out() {
    let model = asset("har_cnn.onnx");
    let model = model.to_str().unwrap();
    let all = json(&["gradcheck", model, "--budget-seconds", "0"]);
    let sites = all["sites"].as_array().unwrap().len();
    assert_eq!((&all["sampled"], &all["checked"]), (&false.into(), &sites.into()));
    let short = json(&["gradcheck", model, "--budget-seconds", "0.000001"]);
    assert_eq!((&short["sampled"], &short["checked"]), (&true.into(), &1.into()), "{short}");
    assert_eq!(short["unchecked"].as_array().unwrap().len(), sites - 1);
    // A site's differences do not depend on which others are checked.
    let same = all["sites"].as_array().unwrap().iter().find(|s| s["name"] == short["sites"][0]["name"]);
    assert_eq!(same, Some(&short["sites"][0]));
    let output = run(&["gradcheck", model, "--budget-seconds", "0.000001"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("1 of {sites} layers were checked")), "{said}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("were not"));
    refused(&["gradcheck", model, "--budget-seconds", "-1"], 2);
}

#[test]
fn a_simulation_gives_the_contract_s_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (data, plot) = (dir.path().join("few.npz"), dir.path().join("curve.svg"));
    let set = person(23);
    save_labelled(&data, &set, &(0..set.len()).step_by(4).collect::<Vec<_>>());
    let args = [
        "simulate",
        "--model",
        asset("har_cnn.onnx").to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--seed",
        "3",
    ]
    .map(String::from);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--plot", plot.to_str().unwrap()]).collect();
    let mut once = json(&args);
    let mut again = json(&args);
    assert_eq!(once["curve"][0]["seen"], 0);
    assert_eq!(once["curve"][0]["base_accuracy"], once["test"]["base"]);
    assert!(once["test"]["n"].as_u64().unwrap() > 30 && once["peak_rss_bytes"].as_u64().unwrap() > 0);
    assert!(once["retention"].is_number() && once["generations"].is_number() && once["seconds"].is_number());
    assert!(std::fs::read_to_string(&plot).unwrap().contains("<svg"));
    for run in [&mut once, &mut again] {
        for clock in ["seconds", "train_seconds", "peak_rss_bytes"] {
            run[clock] = Value::Null;
        }
        run["trainings"].as_array_mut().unwrap().iter_mut().for_each(|t| t["seconds"] = Value::Null);
    }
    assert_eq!(once, again, "deterministic for a seed");
}

#[test]
fn a_profile_of_a_prediction_and_of_a_training_step() {
    let model = asset("digits_cnn.onnx");
    let args = ["bench", model.to_str().unwrap(), "--batch", "4", "--repeats", "2"];
    assert!(json(&args)["profile"].is_null());
    let report = json(&[&args[..], &["--profile"]].concat());
    let rows = |of: &str| report["profile"][of].as_array().unwrap().clone();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap();
    let passes = |rows: &[Value]| -> BTreeSet<String> {
        rows.iter().map(|row| row["pass"].as_str().unwrap().to_string()).collect()
    };
    let (prediction, step) = (rows("prediction"), rows("training_step"));
    assert_eq!(passes(&prediction), ["forward".to_string()].into());
    assert_eq!(passes(&step), ["training forward", "backward", "loss", "optimiser"].map(String::from).into());
    let sum = |rows: &[Value], field: &str| rows.iter().map(|row| number(row, field)).sum::<f64>();
    // 4 runs were recorded of one micro-batch each, so every operator ran as often as the plan has it.
    assert!(step.iter().all(|row| number(row, "calls") >= 1.0 && number(row, "calls").fract() == 0.0), "{step:?}");
    assert!(sum(&prediction, "flop") > 0.0 && sum(&step, "flop") > 2.0 * sum(&prediction, "flop"));
    assert!(sum(&prediction, "moved_bytes") > sum(&prediction, "allocated_bytes"));
    assert!(sum(&prediction, "ms") > 0.0 && sum(&prediction, "ms") < 100.0 * number(&report["predict_ms"], "median"));
    let shown = run(&[&args[..], &["--profile"]].concat());
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains("a training step:") && text.contains("GFLOP/s") && text.contains("LowRankBackward"),
        "{text}"
    );
}
