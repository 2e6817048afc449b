//! Damaged files, and generations that crash.

use std::path::Path;

use serde_json::Value;

use crate::program::{Bench, json, refused, replace, run, says};

#[test]
fn a_flipped_byte_in_an_adapter_never_answers_and_the_rest_is_kept() {
    let bench = Bench::new();
    let home = bench.home();
    let before = json(&["predict", &home, &bench.input()])[0]["top"].clone();
    bench.teach(23, &(0..90).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["promoted"], true);
    let file = bench.profile("generations/000001.adapter");
    let whole = std::fs::read(&file).unwrap();
    for at in [9, 200, whole.len() / 2, whole.len() - 5] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        replace(&file, &flipped);
        let output = run(&["predict", &home, &bench.input(), "--json"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && text.contains("rolled back automatically") && text.contains("000001.adapter"),
            "{text}"
        );
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer[0]["generation"], &answer[0]["top"]), (&0.into(), &before));
        let rolled_back = &bench.status()["rolled_back"];
        assert_eq!(rolled_back["generation"], 1);
        says(rolled_back, "reason", "cannot be used");
        says(&json(&["history", &home])["generations"][0], "rolled_back", "cannot be used");
        // It is not chosen again while it is damaged.
        says(&refused(&["rollback", &home, "--to", "1"], 65), "at", "000001.adapter");
        replace(&file, &whole);
        assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
    }
    let status = bench.status();
    assert_eq!((&status["generation"], &status["feedback"]), (&Value::from(1), &Value::from(30)));
    assert_eq!(status["rolled_back"], Value::Null);
}

/// A process that is killed while it tries a generation leaves it counted: the next one is back at the generation before.
#[test]
fn a_generation_whose_first_load_crashed_is_taken_back() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(23, &(0..90).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["promoted"], true);
    assert_eq!(bench.status()["probation_left"], 20);
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 1);
    assert_eq!(bench.status()["probation_left"], 19);
    let folder = acclimate::store::profile_folder(Path::new(&home), "default").unwrap();
    let store = acclimate::store::Store::open(std::sync::Arc::new(acclimate::disk::RealDisk), &folder).unwrap();
    drop(store.begin().unwrap());
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 0);
    says(&bench.status()["rolled_back"], "reason", "while it was tried");
    assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
    assert_eq!(json(&["predict", &home, &bench.input()])[0]["generation"], 1);
}

#[test]
fn damage_is_named_repaired_and_quarantined() {
    let bench = Bench::new();
    let home = bench.home();
    bench.teach(23, &(0..30).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["verify", &home])["ok"], true);
    assert_eq!(json(&["repair", &home])["repaired"], Value::Array(vec![]));
    let journal = bench.profile("journal.log");
    let mut bytes = std::fs::read(&journal).unwrap();
    // Inside a window, whose 3 KiB are far longer than what is said about it.
    let middle = bytes.len() / 2 + 1000;
    bytes[middle] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    says(&refused(&["status", &home], 65), "next", "acclimate repair");
    let output = run(&["verify", &home, "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged: Vec<&Value> = found["files"].as_array().unwrap().iter().filter(|f| f["state"] == "damaged").collect();
    assert!(found["ok"] == false && damaged.len() == 1, "{found}");
    says(damaged[0], "file", "journal.log");
    assert!(std::fs::read(&journal).unwrap() == bytes, "looking changes nothing");
    let repaired = json(&["repair", &home]);
    assert_eq!((&repaired["ok"], &repaired["left"]), (&true.into(), &Value::Array(vec![])), "{repaired}");
    let kept_aside = repaired["repaired"][0]["quarantined"].as_str().unwrap();
    assert!(std::fs::read(kept_aside).unwrap() == bytes);
    let status = bench.status();
    assert_eq!(
        (&status["interactions"], &status["feedback"]),
        (&9.into(), &9.into()),
        "one window is lost, and its label"
    );
    // What no repair can help with is said.
    let settings = bench.at("home/acclimate.toml");
    let model = bench.at("home/base.onnx");
    replace(model.as_ref(), b"another");
    let output = run(&["repair", &home, "--json"]);
    assert_eq!(output.status.code(), Some(65));
    says(&serde_json::from_slice::<Value>(&output.stdout).unwrap()["left"][0], "what", "has changed");
    std::fs::write(&settings, b"format = 9").unwrap();
    assert_eq!(run(&["verify", &home]).status.code(), Some(65));
    refused(&["verify", &bench.at("elsewhere")], 2);
}
