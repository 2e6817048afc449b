//! The daily use.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::program::{Bench, acclimate, asset, json, person, refused, run, save, save_labelled, says, windows};

#[test]
fn the_daily_use_and_back_to_the_bit() {
    let bench = Bench::new();
    let home = bench.home();
    let set = person(23);
    // The third of the windows that teaches lies in the first half; the later half judges.
    let half = set.len() / 2;
    let teach: Vec<usize> = (0..half).step_by(3).collect();
    let judge: Vec<usize> = (half + 2..set.len()).collect();
    save(Path::new(&bench.at("many.npy")), &windows(&set, &teach));
    save_labelled(Path::new(&bench.at("judge.npz")), &set, &judge);

    let before = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    let answers = before.as_array().unwrap();
    assert_eq!(answers.len(), teach.len(), "a leading batch dimension holds several inputs");
    assert!(answers.iter().all(|a| a["generation"] == 0 && a["top"].as_array().unwrap().len() == 6));
    for (n, (answer, &i)) in answers.iter().zip(&teach).enumerate() {
        let (id, label) = (answer["id"].as_str().unwrap(), &set.labels()[i]);
        let receipt = match answer["top"][0]["label"] == **label {
            true => json(&["feedback", &home, id, "--accept"]),
            false => json(&["feedback", &home, id, "--label", label]),
        };
        assert_eq!(
            (&receipt["durable"], &receipt["waiting"], &receipt["id"]),
            (&Value::Bool(true), &Value::from(n + 1), &answer["id"])
        );
    }
    assert_eq!(bench.status()["waiting"], teach.len());

    // Every answer was judged, so nothing uncorrected is left to forget.
    let trained = json(&["train", &home, "--threads", "2"]);
    assert_eq!((&trained["promoted"], &trained["generation"]), (&Value::Bool(true), &Value::from(1)), "{trained}");
    assert!(trained["validation"]["after"].as_f64() > trained["validation"]["before"].as_f64(), "{trained}");
    assert!(trained["loss"]["after"].as_f64().unwrap() < trained["loss"]["base"].as_f64().unwrap(), "{trained}");
    assert!(trained["tried"].as_array().is_some_and(|t| !t.is_empty()) && trained["p_value"].as_f64().unwrap() < 0.05);

    let eval = json(&["eval", &home, "--data", &bench.at("judge.npz")]);
    let (base, adapted) = (eval["base_accuracy"].as_f64().unwrap(), eval["adapted_accuracy"].as_f64().unwrap());
    assert_eq!(eval["n"], judge.len());
    assert!(adapted > base, "no better on held-out windows: {eval}");

    let during = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    assert_eq!(during[0]["generation"], 1);
    assert_ne!(during[0]["top"], before[0]["top"]);
    let history = json(&["history", &home]);
    assert_eq!(
        (&history["trainings"][0]["generation"], &history["generations"][0]["active"]),
        (&Value::from(1), &Value::Bool(true))
    );
    let merged = json(&["export", &home, "--merged", &bench.at("merged.onnx")]);
    assert_eq!(std::fs::metadata(bench.at("merged.onnx")).unwrap().len(), merged["bytes"].as_u64().unwrap());
    refused(&["export", &home, "--merged", &bench.at("merged.onnx")], 2);

    let back = json(&["rollback", &home]);
    assert_eq!((&back["generation"], &back["previous"]), (&Value::from(0), &Value::from(1)));
    let after = json(&["predict", &home, &bench.at("many.npy"), "--top", "6"]);
    for (a, b) in after.as_array().unwrap().iter().zip(answers) {
        assert_eq!((&a["top"], &a["generation"]), (&b["top"], &b["generation"]), "the base's answers, to the bit");
    }
    says(&refused(&["rollback", &home], 2), "error", "nothing to roll back");
    assert_eq!(json(&["rollback", &home, "--to", "1"])["generation"], 1);
}

#[test]
fn people_can_read_it() {
    let bench = Bench::new();
    let home = bench.home();
    let text = |args: &[&str]| String::from_utf8(run(args).stdout).unwrap();
    let line = text(&["predict", &home, &bench.input(), "--top", "2"]);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.len() == 7 && words[3] == "%" && words[6] == "%", "{line:?}");
    assert_eq!(text(&["feedback", &home, words[0], "--label", "3"]).trim(), "saved. 7 more before the first training");
    assert!(text(&["status", &home]).contains("1 on 1 interactions"));
    assert!(text(&["train", &home]).contains("7 more before the first training"));
    assert!(text(&["history", &home]).contains("not promoted"));
    let inspect = text(&["inspect", asset("har_cnn.onnx").to_str().unwrap()]);
    assert!(inspect.contains("/3/Conv") && inspect.contains("adapts"), "{inspect}");
    assert!(text(&["completions", "bash"]).contains("acclimate"));
    // A reader that goes away is no error.
    let mut child = acclimate(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn what_is_forgotten_is_gone_and_what_it_taught_is_trained_again() {
    let bench = Bench::new();
    let home = bench.home();
    let first = bench.predict();
    bench.teach(23, &(0..120).step_by(3).collect::<Vec<_>>());
    assert_eq!(json(&["train", &home])["generation"], 1);
    for args in [&["forget", &home][..], &["forget", &home, &first, "--all"], &["forget", &home, "--before", "soon"]] {
        refused(args, 2);
    }
    says(&refused(&["forget", &home, &first, "eeee"], 2), "error", "eeee");
    assert_eq!((&bench.status()["generation"], &bench.status()["interactions"]), (&1.into(), &41.into()));
    let gone = json(&["forget", &home, &first]);
    assert_eq!((&gone["forgotten"], &gone["removed"]), (&1.into(), &serde_json::json!([1])));
    assert_eq!((&gone["training"]["promoted"], &gone["generation"]), (&true.into(), &2.into()), "{gone}");
    says(&refused(&["feedback", &home, &first, "--accept"], 2), "error", "no interaction");
    // Everything was recorded before the end of time, and after 1970.
    assert_eq!(json(&["forget", &home, "--before", "1970-01-02"])["forgotten"], 0);
    let gone = json(&["forget", &home, "--before", "9999-01-01", "--no-train"]);
    assert_eq!((&gone["forgotten"], &gone["generation"], &gone["training"]), (&40.into(), &0.into(), &Value::Null));
    assert_eq!(
        json(&["history", &home])["trainings"],
        Value::Array(vec![]),
        "figures of trainings that saw it go, too"
    );
    json(&["forget", &home, "--all"]);
    assert_ne!(bench.predict(), first, "an id is not given out again");
}

#[test]
fn an_answer_that_asks_says_so_to_programs_and_to_people() {
    let bench = Bench::new();
    let home = bench.at("asks");
    let model = asset("har_cnn.onnx");
    json(&["init", &home, "--model", model.to_str().unwrap(), "--ask-rate", "1"]);
    let input = bench.input();
    let answered = json(&["predict", &home, &input, "--profile", "anna"]);
    assert_eq!(answered[0]["ask"], true, "{answered}");
    let said = |args: &[&str]| {
        let output = run(&[&["predict", &home, &input, &input, "--profile", "anna"], args].concat());
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2, "a line an answer");
        String::from_utf8(output.stderr).unwrap()
    };
    let lines = said(&[]);
    let ends = "--label NAME --profile anna";
    assert!(
        lines.lines().count() == 2 && lines.lines().all(|l| l.starts_with("ask: ") && l.ends_with(ends)),
        "{lines}"
    );
    let command: Vec<&str> =
        lines.lines().next().unwrap().split_whitespace().skip_while(|w| *w != "acclimate").collect();
    let command: Vec<&str> = command.into_iter().skip(1).map(|word| if word == "NAME" { "3" } else { word }).collect();
    assert_eq!(json(&command)["waiting"], 1, "the command that it names works");
    assert_eq!((said(&["--json"]), said(&["--quiet"])), (String::new(), String::new()));
}
