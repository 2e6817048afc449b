//! Which layers learn.

use serde_json::Value;

use crate::program::{asset, json, node, refused, says, tiny_model};

#[test]
fn an_operator_without_a_gradient_is_named_and_what_lies_behind_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("odd.onnx");
    let link = |op: &str, from: &[&str], to: &str| tract_onnx::pb::NodeProto {
        input: from.iter().map(|s| s.to_string()).collect(),
        output: vec![to.into()],
        name: format!("{to}_of_{op}"),
        ..node(op)
    };
    let einsum = |equation: &str, from: &[&str], to: &str| {
        let mut node = link("Einsum", from, to);
        let s = equation.as_bytes().to_vec();
        node.attribute.push(tract_onnx::pb::AttributeProto {
            name: "equation".into(),
            r#type: 3,
            s,
            ..Default::default()
        });
        node
    };
    let (outer, rest) = (einsum("bi,bj->bij", &["a", "x"], "m"), einsum("bii->bi", &["m"], "b"));
    let (first, second) = (link("MatMul", &["x", "w"], "a"), link("MatMul", &["b", "w"], "c"));
    tiny_model(&file, vec![first, outer, rest, second, link("MatMul", &["c", "w"], "y")]);
    let model = file.to_str().unwrap();
    let report = json(&["inspect", model]);
    let adapts: Vec<bool> =
        report["sites"].as_array().unwrap().iter().map(|s| s["adapts"].as_bool().unwrap()).collect();
    assert_eq!(adapts, [false, true, false], "cut off, trains, classifier: {report}");
    says(&report["sites"][0], "reason", "b_of_Einsum");
    assert_eq!(json(&["gradcheck", model])["ok"], true);
    let e = refused(&["gradcheck", model, "--sites", "a_of_MatMul"], 69);
    says(&e, "because", "b_of_Einsum");
    says(&e, "next", "--sites");
}

#[test]
fn limits_choose_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    let model = asset("har_cnn.onnx");
    let init = |name: &str, limits: &[&str]| {
        let home = dir.path().join(name);
        let arguments = ["init", home.to_str().unwrap(), "--model", model.to_str().unwrap()];
        json(&[&arguments[..], limits].concat())
    };
    let free = init("free", &[]);
    let (tight, wide) =
        (init("tight", &["--memory", "1MiB"]), init("wide", &["--memory", "64GiB", "--budget-seconds", "600"]));
    assert_eq!(tight["sites"], Value::Array(vec![]));
    says(&tight, "reason", "only a head is trained");
    assert_eq!(wide["sites"], free["sites"]);
    says(&wide, "reason", "layers fit 65536 MiB");
    assert_eq!(free["reason"], Value::Null);
    let settings = std::fs::read_to_string(dir.path().join("wide/acclimate.toml")).unwrap();
    assert!(settings.contains("[limits]\nmemory_bytes = 68719476736\nbudget_seconds = 600.0"), "{settings}");
}
