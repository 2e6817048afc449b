//! `--device`, on machines with a GPU and without one, and in programs that know none.

use serde_json::Value;

use crate::program::{Bench, asset, json, person, refused, run, save, says, windows};

/// Why no GPU is used; none where there is one that works.
fn why_not() -> Option<String> {
    let report: Value = serde_json::from_slice(&run(&["doctor", "--json"]).stdout).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "gpu").unwrap().clone();
    check["value"].as_str().unwrap().strip_prefix("not used: ").map(String::from)
}

/// A home with one window to answer.
fn home() -> (Bench, String, String) {
    let bench = Bench::new();
    let (home, input) = (bench.home(), bench.at("window.npy"));
    save(input.as_ref(), &windows(&person(23), &[0]));
    (bench, home, input)
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_what_to_do() {
    let Some(why) = why_not() else { return eprintln!("skipped: there is a GPU") };
    assert!(why.contains(if cfg!(feature = "cuda") { "libcuda.so.1" } else { "feature `cuda`" }), "{why}");
    let (_bench, home, input) = home();
    for command in [
        &["predict", &home, &input][..],
        &["train", &home],
        &["eval", &home, "--data", &input],
        &["bench", asset("har_cnn.onnx").to_str().unwrap(), "--batch", "1", "--repeats", "1"],
    ] {
        let error = refused(&[command, &["--device", "cuda"]].concat(), 2);
        says(&error, "error", "no GPU can be used");
        says(&error, "because", &why);
        says(&error, "next", "--device cpu");
    }
    // Nothing that computes on the processor all the same takes the flag.
    says(&refused(&["bench", "--suite", "--device", "cuda"], 2), "error", "one model");
}

#[test]
fn auto_answers_the_same_and_says_what_computes() {
    let Some(why) = why_not() else { return eprintln!("skipped: there is a GPU") };
    let (_bench, home, input) = home();
    let top = |device: &[&str]| json(&[&["predict", &home, &input], device].concat())[0]["top"].clone();
    assert_eq!(top(&["--device", "auto"]), top(&[]));
    let output = run(&["predict", &home, &input, "--device", "auto"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches(&why).count(), 1, "{said}");
    let report =
        json(&["bench", asset("har_cnn.onnx").to_str().unwrap(), "--batch", "1", "--repeats", "1", "--device", "auto"]);
    let device = &report["device"];
    assert_eq!((&device["asked"], &device["used"]), (&"auto".into(), &"cpu".into()), "{device}");
    assert_eq!((device["why_not"].as_str(), device["plans"].as_array().map(Vec::len)), (Some(&*why), Some(0)));
}

#[test]
fn a_home_says_what_computes_and_the_flag_wins() {
    let Some(why) = why_not() else { return eprintln!("skipped: there is a GPU") };
    let (_bench, home, input) = home();
    let file = format!("{home}/acclimate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("device"), "{text}");
    std::fs::write(&file, format!("device = \"cuda\"\n{text}")).unwrap();
    let error = refused(&["predict", &home, &input], 2);
    says(&error, "because", &why);
    says(&error, "at", &home);
    // What does not run the model opens the home all the same.
    json(&["history", &home]);
    json(&["predict", &home, &input, "--device", "cpu"]);
    std::fs::write(&file, format!("device = \"gpu\"\n{text}")).unwrap();
    says(&refused(&["predict", &home, &input], 65), "because", "cpu");
}
