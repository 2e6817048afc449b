//! A language model learns from the command line: edits, thumbs, choices, the demo.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{acclimate, json as answered, refused, run, says};

/// Most tokens of an answer, which are bytes.
const BYTES: usize = 160;

/// A home of the bundled model, with the prompts and answers that its script edits.
pub fn home(folder: &TempDir) -> (String, Vec<(String, String)>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny_chat.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    zip.extract(folder.path()).unwrap();
    let model = folder.path().join("model.onnx").display().to_string();
    let home = folder.path().join("home").display().to_string();
    assert_eq!(answered(&["init", &home, "--model", &model])["task"], "causal-lm");
    let script: Value = serde_json::from_slice(&std::fs::read(folder.path().join("prompts.json")).unwrap()).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let edits = script["edits"].as_array().unwrap().iter().map(|e| (text(&e["prompt"]), text(&e["edited"])));
    (home, edits.collect())
}

/// Answers to prompts, in order.
fn ask(home: &str, folder: &Path, prompts: &[&str], most: usize) -> Vec<Value> {
    let file = folder.join("asked.jsonl");
    let line = |p: &&str| format!("{}\n", json!({ "messages": [{ "role": "user", "content": p }] }));
    std::fs::write(&file, prompts.iter().map(line).collect::<String>()).unwrap();
    let file = file.display().to_string();
    let answers = answered(&["generate", home, "--file", &file, "--max-tokens", &most.to_string()]);
    answers.as_array().unwrap().clone()
}

#[test]
fn the_demo_of_a_chat_shows_a_wish_that_was_learned() {
    let found = answered(&["demo", "--chat"]);
    assert_eq!((&found["edits"], &found["held_out"], &found["liked_before"]), (&json!(20), &json!(20), &json!(0)));
    let liked = found["liked_after"].as_u64().unwrap();
    assert!(liked >= 16 && found["promoted"] == true, "{liked} of 20: {}", found["reason"]);
    assert_eq!(found["language"]["n"], 20, "{}", found["language"]);
}

#[test]
fn the_demo_shows_people_both_answers_of_another_model() {
    let folder = TempDir::new().unwrap();
    let (home, _) = home(&folder);
    let model = folder.path().display().to_string();
    let output = run(&["demo", "--chat", "--model", &model]);
    let (shown, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}");
    let mut lines = shown.lines();
    let heads: Vec<&str> = lines.next().unwrap().split("  ").map(str::trim).filter(|head| !head.is_empty()).collect();
    assert_eq!(heads, ["prompt that was never fed back", "before", "after"], "{shown}");
    let script = std::fs::read(crate::program::asset("chat_demo.json")).unwrap();
    let script: Value = serde_json::from_slice(&script).unwrap();
    let held_out = script["held_out"].as_array().unwrap()[..20].iter();
    let prompts: Vec<&str> = held_out.map(|asked| asked["prompt"].as_str().unwrap()).collect();
    let answers = ask(&home, folder.path(), &prompts, 64);
    let short = |text: &str| match text.char_indices().nth(44) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    };
    for (prompt, answer) in prompts.iter().zip(answers) {
        let row = lines.next().unwrap();
        let before = short(&answer["text"].as_str().unwrap().replace(char::is_whitespace, " "));
        let both = row.strip_prefix(&short(prompt)).unwrap_or_default().trim_start();
        let after = both.strip_prefix(before.trim()).unwrap_or_default();
        assert!(!before.trim().is_empty() && !after.trim().is_empty(), "{prompt}: {before:?} in {row:?}");
    }
    assert_eq!(lines.next(), Some(""), "{shown}");
    let outcome = lines.next().unwrap();
    assert!(outcome.starts_with("after "), "{shown}");
    assert!(outcome.contains(" of 20 answers are as this person wants them"), "{shown}");
    refused(&["demo", "--chat", "--model", &folder.path().join("nowhere").display().to_string()], 74);
}

#[test]
fn edits_are_recorded_learned_listed_and_undone() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let prompts: Vec<&str> = edits.iter().map(|(p, _)| p.as_str()).collect();
    let answers = ask(&home, folder.path(), &prompts[..16], BYTES);
    let id = |n: usize| answers[n]["id"].as_str().unwrap().to_string();
    for (n, (_, wanted)) in edits[..15].iter().enumerate() {
        let receipt = answered(&["feedback", &home, &id(n), "--edit", wanted]);
        assert_eq!((&receipt["durable"], &receipt["waiting"]), (&json!(true), &json!(n + 1)));
    }
    let file = folder.path().join("edit.txt");
    std::fs::write(&file, format!("{}\n", edits[15].1)).unwrap();
    answered(&["feedback", &home, "last", "--edit-file", &file.display().to_string()]);
    says(&refused(&["feedback", &home, &id(0), "--accept"], 2), "error", "already has feedback");
    let listed = answered(&["interactions", &home, "--with-feedback"]);
    let last = &listed[0];
    assert_eq!((&last["feedback"]["kind"], &last["feedback"]["text"]), (&json!("edit"), &json!(edits[15].1)));
    assert_eq!(last["input"]["messages"][0], json!({ "role": "user", "content": prompts[15] }));
    assert_eq!(last["answer"]["text"], answers[15]["text"]);
    let trained = answered(&["train", &home]);
    assert_eq!((&trained["promoted"], &trained["generation"]), (&json!(true), &json!(1)), "{trained}");
    assert!(trained["language"]["closer"].as_u64().unwrap() >= 10, "{trained}");
    let again = ask(&home, folder.path(), &prompts[20..28], BYTES);
    let as_wanted = again.iter().zip(&edits[20..28]).filter(|(a, (_, wanted))| a["text"] == wanted.as_str()).count();
    assert!(as_wanted >= 5 && again[0]["generation"] == 1, "{as_wanted} of 8: {again:?}");
    // Merged in a folder, with all that a home is made of.
    let whole = folder.path().join("merged/");
    let exported = answered(&["export", &home, "--merged", &whole.display().to_string()]);
    assert_eq!(exported["beside"].as_array().unwrap().len(), 4, "{exported}");
    says(&refused(&["export", &home, "--merged", &whole.display().to_string()], 2), "error", "exists");
    let other = folder.path().join("other").display().to_string();
    answered(&["init", &other, "--model", exported["written"].as_str().unwrap()]);
    let merged = ask(&other, folder.path(), &prompts[20..23], BYTES);
    let same = merged.iter().zip(&again).all(|(a, b)| a["text"] == b["text"] && a["generation"] == 0);
    assert!(same, "{merged:?} {again:?}");
    if cfg!(feature = "bundles") {
        let (bundle, secret) = (folder.path().join("p.age"), folder.path().join("secret.txt"));
        std::fs::write(&secret, "a long enough passphrase\n").unwrap();
        let (bundle, secret) = (bundle.display().to_string(), secret.display().to_string());
        answered(&["export", &home, "--bundle", &bundle, "--passphrase-file", &secret]);
        answered(&["import", &home, &bundle, "--passphrase-file", &secret, "--profile", "copy"]);
        let copy = answered(&["generate", &home, prompts[20], "--profile", "copy", "--max-tokens", "160"]);
        assert_eq!((&copy["generation"], &copy["text"]), (&json!(1), &again[0]["text"]));
    }
    let status = answered(&["status", &home]);
    assert_eq!((&status["generation"], &status["feedback"]), (&json!(1), &json!(16)));
    assert_eq!(answered(&["rollback", &home])["generation"], 0);
    assert_eq!(ask(&home, folder.path(), &prompts[..1], BYTES)[0]["text"], answers[0]["text"]);
    let forgotten = answered(&["forget", &home, &id(3), "--no-train"]);
    assert_eq!((&forgotten["forgotten"], &forgotten["removed"]), (&json!(1), &json!([1])));
}

#[test]
fn conversations_of_others_are_learned_once_and_forgotten() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let file = folder.path().join("chat.jsonl");
    let line = |turns: &[(&str, &str)]| {
        let turns: Vec<Value> = turns.iter().map(|(role, text)| json!({ "role": role, "content": text })).collect();
        format!("{}\n", json!({ "messages": turns }))
    };
    let one = |(prompt, wanted): &(String, String)| line(&[("user", prompt), ("assistant", wanted)]);
    let write = |text: String| std::fs::write(&file, text).unwrap();
    let data = file.display().to_string();
    write(line(&[("user", "hi")]));
    says(&refused(&["train", &home, "--data", &data], 65), "error", "without an answer");
    // Two answers in the last conversation, one of which is longer than the context.
    let long = "x".repeat(4000);
    let two =
        line(&[("user", &edits[16].0), ("assistant", &edits[16].1), ("user", &edits[17].0), ("assistant", &long)]);
    write(edits[..16].iter().map(one).collect::<String>() + &two);
    let trained = answered(&["train", &home, "--data", &data]);
    let found = &trained["demonstrations"];
    assert_eq!((&found["recorded"], &found["known"], &found["unfit"]), (&json!(17), &json!(0), &json!(1)), "{found}");
    assert!(found["reason"].as_str().unwrap().contains("conversation 17"), "{found}");
    assert_eq!((&trained["promoted"], &trained["language"]["n"]), (&json!(true), &json!(17)), "{trained}");
    let asked: Vec<&str> = edits[20..28].iter().map(|(prompt, _)| prompt.as_str()).collect();
    let answers = ask(&home, folder.path(), &asked, BYTES);
    let as_wanted = answers.iter().zip(&edits[20..28]).filter(|(a, (_, wanted))| a["text"] == wanted.as_str()).count();
    assert!(as_wanted >= 5, "{as_wanted} of 8: {answers:?}");
    let again = answered(&["train", &home, "--data", &data]);
    assert_eq!((&again["demonstrations"]["recorded"], &again["demonstrations"]["known"]), (&json!(0), &json!(17)));
    let listed = answered(&["interactions", &home, "--with-feedback"]);
    let first = listed.as_array().unwrap().last().unwrap();
    assert_eq!((&first["feedback"]["kind"], &first["feedback"]["text"]), (&json!("demonstration"), &json!(edits[0].1)));
    // What was forgotten can be brought again.
    answered(&["forget", &home, first["id"].as_str().unwrap(), "--no-train"]);
    let back = answered(&["train", &home, "--data", &data, "--steps", "1"]);
    assert_eq!((&back["demonstrations"]["recorded"], &back["demonstrations"]["known"]), (&json!(1), &json!(16)));
}

#[test]
fn why_an_answer_was_rejected_is_kept() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    answered(&["generate", &home, &edits[0].0, "--max-tokens", "16"]);
    refused(&["feedback", &home, "last", "--accept", "--because", "too long"], 2);
    let long = "w".repeat(5000);
    says(&refused(&["feedback", &home, "last", "--reject", "--because", &long], 65), "error", "5000 bytes");
    answered(&["feedback", &home, "last", "--reject", "--because", "too long"]);
    let listed = answered(&["interactions", &home]);
    let said = &listed[0]["feedback"];
    assert_eq!((&said["kind"], &said["why"]), (&json!("reject"), &json!("too long")));
}

#[test]
fn what_is_typed_in_a_chat_is_feedback() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let typed = format!(
        "{}\n/edit {}\n/good\n{}\n/bad too long\n/retry\n/1\n/edit\n/train\n/2\n/quit\n",
        edits[0].0, edits[0].1, edits[1].0
    );
    let mut chat = acclimate(&["chat", &home, "--max-tokens", "160"]);
    chat.env_remove("VISUAL").env("EDITOR", "true");
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = chat.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let parts = [
        "saved. 1 waiting",
        "stays what is learned",
        "which answer is better",
        "the answer itself",
        "2 answers have feedback",
        "no two answers",
    ];
    for words in parts {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let listed = answered(&["interactions", &home]);
    let kind = |i: &Value| i["feedback"]["kind"].as_str().unwrap_or("-").to_string();
    let kinds: Vec<String> = listed.as_array().unwrap().iter().map(kind).collect();
    // The latest first: the second answer of the retry, the one that was preferred to it, the edited one.
    assert_eq!(kinds, ["-", "preferred-over", "edit"], "{listed}");
    assert_eq!(listed[1]["feedback"]["over"], listed[0]["id"], "{listed}");
}

#[test]
fn texts_and_classes_do_not_mix() {
    let folder = TempDir::new().unwrap();
    let (home, edits) = home(&folder);
    let id = ask(&home, folder.path(), &[&edits[0].0], BYTES)[0]["id"].as_str().unwrap().to_string();
    says(&refused(&["feedback", &home, &id, "--label", "lamp"], 2), "next", "--edit");
    says(&refused(&["feedback", &home, &id, "--edit", " "], 2), "error", "an edit to nothing");
    says(&refused(&["predict", &home, "lamp"], 2), "next", "acclimate generate");
}
