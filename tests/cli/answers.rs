//! `generate`: where its prompt comes from, what it writes where, its flags, and how it is stopped.

use std::io::Write;
#[cfg(unix)]
use std::io::{BufReader, Read};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::language::{home, text};
use crate::program::{acclimate, json as answered, refused, run, says};

fn answer(home: &str, more: &[&str]) -> Value {
    answered(&[&["generate", home, "w5 w6 w7", "--max-tokens", "24"], more].concat())
}

#[test]
fn prompts_come_from_the_line_a_file_or_standard_input() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "smollm2_past");
    let wanted = text(&home, &[]);
    let file = folder.path().join("question.txt");
    std::fs::write(&file, "w5 w6 w7\r\n").unwrap();
    let file = file.display().to_string();
    let of_file = answered(&["generate", &home, "--file", &file, "--max-tokens", "8", "--system", "w9"]);
    assert_eq!(answered(&["generate", &home, "--file", &file, "--max-tokens", "8"])["text"], wanted.as_str());
    let mut program = acclimate(&["generate", &home, "--max-tokens", "8"]);
    let mut program = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    program.stdin.take().unwrap().write_all(b"w5 w6 w7\n").unwrap();
    let output = program.wait_with_output().unwrap();
    // The answer is all that is on stdout, and nothing has to be said.
    let shown = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), shown), (Some(0), (format!("{wanted}\n"), String::new())));
    let listed = answered(&["interactions", &home]);
    let messages = |n: usize| &listed[n]["input"]["messages"];
    let user = json!({ "role": "user", "content": "w5 w6 w7" });
    assert_eq!((messages(0), messages(1)), (&json!([user]), &json!([user])));
    assert_eq!(messages(2), &json!([{ "role": "system", "content": "w9" }, user]));
    // <s> system w9 user w5 w6 w7 assistant
    assert_eq!((&of_file["prompt_tokens"], &of_file["chat_template"]), (&json!(8), &json!(true)));
    std::fs::write(&file, b"w5 \xff").unwrap();
    says(&refused(&["generate", &home, "--file", &file], 65), "error", "not UTF-8");
    says(&refused(&["generate", &home, "--file", "nowhere.txt"], 74), "at", "nowhere.txt");
    refused(&["generate", &home, "w5", "--file", &file], 2);
}

#[test]
fn conversations_are_answered_a_line_each() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "smollm2_past");
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let of = |messages: &[Value]| format!("{}\n", json!({ "messages": messages }));
    let file = folder.path().join("c.jsonl");
    let own = [turn("system", "w8"), turn("user", "w5 w6 w7")];
    std::fs::write(&file, of(&[turn("user", "w5 w6 w7")]) + &of(&own)).unwrap();
    let file = file.display().to_string();
    let args = ["generate", &home, "--file", &file, "--max-tokens", "8", "--system", "w9"];
    let data = answered(&args);
    let plain = String::from_utf8(run(&args).stdout).unwrap();
    let texts: Vec<&str> = data.as_array().unwrap().iter().map(|a| a["text"].as_str().unwrap()).collect();
    assert_eq!(plain.lines().collect::<Vec<_>>(), texts);
    // A system message of its own stays.
    let listed = answered(&["interactions", &home]);
    assert_eq!(listed[0]["input"]["messages"], json!(own));
    assert_eq!(listed[1]["input"]["messages"], json!([turn("system", "w9"), turn("user", "w5 w6 w7")]));
}

#[test]
fn every_flag_of_sampling_does_what_it_says() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "smollm2_past");
    let words = |more: &[&str]| -> Vec<String> {
        let text = answer(&home, more)["text"].as_str().unwrap().to_string();
        text.split_whitespace().map(str::to_string).collect()
    };
    let greedy = words(&[]);
    let hot = |flag: &str, value: &str, seed: &str| words(&["--temperature", "5", flag, value, "--seed", seed]);
    // One token is left.
    assert_eq!((hot("--top-p", "0.000001", "1"), hot("--min-p", "1", "1")), (greedy.clone(), greedy.clone()));
    for (flag, value) in [("--top-p", "0.9"), ("--min-p", "0.1"), ("--top-k", "20")] {
        assert_eq!(hot(flag, value, "1"), hot(flag, value, "1"), "{flag}");
        assert_ne!(hot(flag, value, "1"), hot(flag, value, "2"), "{flag}");
        // It samples without a temperature, too.
        assert_ne!(words(&[flag, value, "--seed", "1"]), words(&[flag, value, "--seed", "2"]), "{flag}");
    }
    let distinct = |words: &[String]| words.iter().collect::<std::collections::HashSet<_>>().len();
    assert!(distinct(&greedy) < greedy.len(), "the model repeats itself: {greedy:?}");
    let punished = words(&["--repetition-penalty", "1000000"]);
    assert_eq!(distinct(&punished), punished.len(), "{punished:?}");
    let faults = [("--min-p", "1.5", "min_p"), ("--repetition-penalty", "0", "repetition_penalty")];
    for (flag, value, name) in faults.into_iter().chain([("--temperature", "-1", "temperature")]) {
        says(&refused(&["generate", &home, "w5", &format!("{flag}={value}")], 2), "error", name);
    }
}

#[test]
fn messages_that_are_left_out_are_counted_on_stderr() {
    let folder = TempDir::new().unwrap();
    let home = home(&folder, "llama_past");
    let turn = |role: &str, n: usize| json!({ "role": role, "content": vec!["w9"; n].join(" ") });
    let long = json!({ "messages": [turn("user", 60), turn("assistant", 40), turn("user", 20)] });
    let file = folder.path().join("long.jsonl");
    std::fs::write(&file, format!("{long}\n")).unwrap();
    let output = run(&["generate", &home, "--file", &file.display().to_string(), "--max-tokens", "8", "--quiet"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let words = "the model's context does not hold the whole conversation: its first 2 messages were left out";
    assert_eq!((output.status.code(), said), (Some(0), format!("warning: {words}\n")));
}

#[cfg(unix)]
mod stopped {
    use super::*;
    use crate::endless;

    #[test]
    fn an_answer_is_kept_as_far_as_it_came() {
        let folder = TempDir::new().unwrap();
        let home = endless::home(&folder);
        let mut program = acclimate(&["generate", &home, "w9"]);
        let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = program.stdout.take().unwrap();
        let mut shown = String::from(char::from(endless::first_byte(&mut out)));
        endless::interrupt(&program);
        out.read_to_string(&mut shown).unwrap();
        let ended = program.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
        // The first byte came before the end, or the answer would be whole.
        let words = endless::words(&shown);
        assert!(shown.ends_with('\n') && words > 0 && words < endless::STOPPED, "{words} words");
        let listed = answered(&["interactions", &home]);
        assert_eq!(listed[0]["answer"], json!({ "text": shown.trim_end(), "ended": false }));
    }

    #[test]
    fn the_answers_before_are_whole_and_no_other_one_begins() {
        let folder = TempDir::new().unwrap();
        let home = endless::home(&folder);
        let file = folder.path().join("three.jsonl");
        let line = format!("{}\n", json!({ "messages": [{ "role": "user", "content": "w9" }] }));
        std::fs::write(&file, line.repeat(3)).unwrap();
        let mut program = acclimate(&["generate", &home, "--file", &file.display().to_string(), "--json"]);
        let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(program.stdout.take().unwrap());
        let mut shown = vec![];
        // The first answer is there.
        while shown.last() != Some(&b'}') {
            shown.push(endless::first_byte(&mut out));
        }
        endless::interrupt(&program);
        out.read_to_end(&mut shown).unwrap();
        assert_eq!(program.wait().unwrap().code(), Some(130));
        let answers: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 2);
        assert_eq!((&answers[0]["finish_reason"], &answers[0]["tokens"]), (&json!("length"), &json!(endless::TOKENS)));
        let tokens = answers[1]["tokens"].as_u64().unwrap() as usize;
        assert!(answers[1]["finish_reason"].is_null() && tokens < endless::TOKENS, "{tokens}");
    }

    #[test]
    fn a_reader_that_goes_away_ends_it_and_is_no_error() {
        let folder = TempDir::new().unwrap();
        let home = endless::home(&folder);
        let file = folder.path().join("two.jsonl");
        let line = format!("{}\n", json!({ "messages": [{ "role": "user", "content": "w9" }] }));
        std::fs::write(&file, line.repeat(2)).unwrap();
        let mut program = acclimate(&["generate", &home, "--file", &file.display().to_string()]);
        let mut program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = program.stdout.take().unwrap();
        endless::first_byte(&mut out);
        drop(out);
        let ended = program.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
        let listed = answered(&["interactions", &home]);
        assert_eq!((listed.as_array().unwrap().len(), &listed[0]["answer"]["ended"]), (1, &json!(false)));
    }
}
