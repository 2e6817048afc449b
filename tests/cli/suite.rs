//! `bench --suite`, `--report` and `--compare`.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::program::{acclimate, asset, json, refused, run, says};

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn strings<'a>(value: &'a Value, of: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => of.push(text),
        Value::Array(all) => all.iter().for_each(|v| strings(v, of)),
        Value::Object(all) => all.values().for_each(|v| strings(v, of)),
        _ => {}
    }
}

#[test]
fn a_quick_suite_measures_the_bundled_models_and_goes_on_after_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let (models, out) = (dir.path().join("models"), dir.path().join("out"));
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("broken.onnx"), b"no model").unwrap();
    std::fs::copy(asset("har_cnn.onnx"), models.join("mine.onnx")).unwrap();
    let begun = Instant::now();
    let args = ["bench", "--suite", "--quick", "--models", models.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = acclimate(&[&args[..], &["--json"]].concat()).env_remove("ACCLIMATE_MODELS").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results, serde_json::from_str::<Value>(&text(&out.join("results.json"))).unwrap());
    let model = |name: &str| results["models"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap();
    for name in ["har_cnn", "digits_cnn", "intents_encoder", "tiny_chat", "mine"] {
        assert_eq!(model(name)["state"], "measured", "{}", model(name));
    }
    assert_eq!(model("broken")["state"], "failed");
    assert!(model("broken")["reason"].as_str().is_some_and(|r| !r.contains(dir.path().to_str().unwrap())));
    assert_eq!(model("minilm")["state"], "skipped");
    assert!(model("minilm")["next"].as_str().unwrap().contains("scripts/fetch-models.sh minilm"));
    let figures = results["figures"].as_array().unwrap();
    let has = |model: &str, measure: &str| {
        let mut lines = figures.iter().filter(|l| l["model"] == model && l["measure"] == measure);
        lines.next().unwrap_or_else(|| panic!("no {measure} of {model}"))
    };
    for measure in ["predict", "adapted_predict", "merged_predict", "train_step", "swap", "gemm", "predict_alone"] {
        let line = has("har_cnn", measure);
        let rounds = line["runs"].as_array().unwrap();
        assert_eq!(rounds.len(), 2, "{line}");
        let all: Vec<f64> = rounds.iter().flat_map(|r| r.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(line["n"].as_u64().unwrap() as usize, all.len());
        let (min, p95) = (line["min"].as_f64().unwrap(), line["p95"].as_f64().unwrap());
        assert!(all.iter().all(|v| *v > 0.0 && *v >= min) && min <= p95, "{line}");
        assert!(line["median"].as_f64().is_some_and(|m| min <= m && m <= p95), "{line}");
    }
    for measure in ["prefill", "token", "train_step", "train_anonymous", "predict_while_training"] {
        has("tiny_chat", measure);
    }
    assert_eq!(has("intents_encoder", "predict")["sequence"], 32);
    // A process of its own: its peak holds more than its anonymous memory, and nothing of the other models.
    let bytes = |measure: &str| has("har_cnn", measure)["median"].as_f64().unwrap();
    assert!(bytes("predict_peak_rss") > bytes("predict_anonymous") && bytes("predict_anonymous") > 1e6);
    assert!(bytes("train_peak_rss") < 200e6, "{}", bytes("train_peak_rss"));
    let targets = results["targets"].as_array().unwrap();
    let swap = targets.iter().find(|t| t["name"] == "swap of a mapped adapter" && t["model"] == "har_cnn").unwrap();
    assert_eq!((&swap["at_most"], &swap["unit"]), (&1000.0.into(), &"us".into()));
    assert_eq!(swap["met"], swap["value"].as_f64().unwrap() <= 1000.0);
    let page = text(&out.join("index.html"));
    assert!(page.contains("<svg") && page.contains("digits_cnn") && page.contains("scripts/fetch-models.sh minilm"));
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "copies of models are gone: {left:?}");

    let file = out.join("results.json");
    let file = file.to_str().unwrap();
    let same = json(&["bench", "--compare", file, file, "--fail-slower", "5%"]);
    assert_eq!((&same["slower"], &same["failed"]), (&0.into(), &0.into()));
    assert_eq!(same["no_change"].as_u64().unwrap() as usize, figures.len());
    let mut slow = results.clone();
    for line in slow["figures"].as_array_mut().unwrap().iter_mut().filter(|l| l["measure"] == "predict") {
        for round in line["runs"].as_array_mut().unwrap() {
            round.as_array_mut().unwrap().iter_mut().for_each(|v| *v = (10.0 * v.as_f64().unwrap()).into());
        }
    }
    let slower = out.join("slow.json");
    std::fs::write(&slower, slow.to_string()).unwrap();
    let failed = run(&["bench", "--compare", file, slower.to_str().unwrap(), "--fail-slower", "10%"]);
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stderr));
    let said = String::from_utf8(failed.stdout).unwrap();
    assert!(said.contains("slower") && said.contains("10.0"), "{said}");
    let faster = json(&["bench", "--compare", slower.to_str().unwrap(), file, "--fail-slower", "10%"]);
    assert!(faster["faster"].as_u64().unwrap() >= 1 && faster["slower"] == 0, "{faster}");
}

#[test]
fn a_report_tells_what_the_machine_is_and_not_whose() {
    let dir = tempfile::Builder::new().prefix("ada-lovelace-").tempdir().unwrap();
    let models = dir.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::copy(asset("har_cnn.onnx"), models.join("cats-of-ada.onnx")).unwrap();
    std::fs::write(models.join("minilm.onnx"), b"broken").unwrap();
    let file = dir.path().join("report.json");
    let mut command = acclimate(&["bench", "--report", file.to_str().unwrap(), "--quick", "--json"]);
    command.env("ACCLIMATE_MODELS", &models).env("USER", "ada-lovelace").env("HOSTNAME", "adas-kitchen");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text(&file)).unwrap();
    for fact in ["cores", "memory_bytes", "kernel"] {
        assert!(!report["machine"][fact].is_null(), "{fact}");
    }
    assert!(report["program"]["target"].is_string() && report["program"]["libc"].is_string());
    assert!(report["before"].is_object() && report["after"].is_object());
    let mut said = vec![];
    strings(&report, &mut said);
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default().trim().to_string();
    let (host, id) = (read("/proc/sys/kernel/hostname"), read("/etc/machine-id"));
    for secret in ["ada-lovelace", "adas-kitchen", "cats-of-ada", dir.path().to_str().unwrap(), &host, &id] {
        let told = said.iter().find(|text| secret.len() > 2 && text.contains(secret));
        assert!(told.is_none(), "{secret:?} is in {told:?}");
    }
    assert!(!said.iter().any(|text| text.starts_with('/')), "a path: {said:?}");
    assert!(report["models"].as_array().unwrap().iter().any(|m| m["name"] == "minilm" && m["state"] == "failed"));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/devices_table.py");
    let table = std::process::Command::new("python3").arg(script).arg(&file).output().unwrap();
    assert!(table.status.success(), "{}", String::from_utf8_lossy(&table.stderr));
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().any(|line| line.contains("har_cnn") && line.contains("ms")), "{table}");
}

#[test]
fn what_cannot_be_measured_or_compared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    refused(&["bench"], 2);
    refused(&["bench", "--suite", "model.onnx"], 2);
    refused(&["bench", "--compare", "one.json"], 2);
    refused(&["bench", "--suite", "--fail-slower", "10%"], 2);
    refused(&["bench", "--suite", "--report"], 2);
    refused(&["bench", "model.onnx", "--quick"], 2);
    refused(&["bench", "model.onnx", "--out", &at("out")], 2);
    refused(&["bench", "--compare", "a.json", "b.json", "--models", &at("none")], 2);
    let none = refused(&["bench", "--suite", "--models", &at("none"), "--out", &at("out")], 74);
    says(&none, "next", "fetch-models.sh");
    refused(&["bench", "--report", &at("none/report.json")], 2);
    std::fs::write(at("broken.json"), "{\"kind\": 3").unwrap();
    let broken = refused(&["bench", "--compare", &at("broken.json"), &at("broken.json")], 65);
    says(&broken, "error", "no result of `acclimate bench --suite`");
    says(&broken, "next", "results.json");
    refused(&["bench", "--compare", &at("missing.json"), &at("broken.json")], 74);
}
