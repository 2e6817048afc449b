//! What was asked, answered and said, what is doubtful about it, and what can be done about that.

use serde_json::Value;

use crate::program::{Bench, json, person, refused, run, save, says, windows};

fn ids(listed: &Value) -> Vec<String> {
    listed.as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_string()).collect()
}

fn flags(listed: &Value, id: &str) -> Vec<String> {
    let of = listed.as_array().unwrap().iter().find(|i| i["id"] == id).unwrap_or_else(|| panic!("{id} is not listed"));
    of["flags"].as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_string()).collect()
}

fn text(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn they_are_listed_the_latest_first_and_filtered() {
    let bench = Bench::new();
    let home = bench.home();
    assert_eq!(json(&["interactions", &home]), Value::Array(vec![]));
    assert_eq!(text(&["interactions", &home]).trim(), "no interaction");
    save(std::path::Path::new(&bench.at("four.npy")), &windows(&person(23), &[0, 30, 60, 90]));
    let asked = json(&["predict", &home, &bench.at("four.npy")]);
    let asked: Vec<&str> = asked.as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap()).collect();
    json(&["feedback", &home, asked[1], "--label", "3"]);
    json(&["feedback", &home, asked[2], "--accept"]);
    json(&["feedback", &home, asked[3], "--reject"]);

    let all = json(&["interactions", &home]);
    assert_eq!(ids(&all), asked.iter().rev().copied().collect::<Vec<_>>());
    for one in all.as_array().unwrap() {
        let keys: Vec<&str> = one.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["answer", "at", "feedback", "flags", "generation", "id", "input", "reasons"]);
        assert_eq!((&one["generation"], &one["input"]["arrays"][0]["type"]), (&0.into(), &"f32".into()));
        assert_eq!(one["input"]["arrays"][0]["shape"], serde_json::json!([6, 128]));
        assert!(one["at"].as_str().unwrap().ends_with('Z') && one["answer"]["p"].as_f64().unwrap() > 0.0);
    }
    assert_eq!((&all[2]["feedback"]["kind"], &all[2]["feedback"]["label"]), (&"label".into(), &"3".into()));
    assert_eq!(
        (&all[1]["feedback"]["kind"], &all[1]["feedback"]["label"]),
        (&"accept".into(), &all[1]["answer"]["label"])
    );
    assert_eq!((&all[0]["feedback"]["kind"], &all[0]["feedback"]["label"]), (&"reject".into(), &Value::Null));
    assert_eq!(all[3]["feedback"], Value::Null);

    let listed = |args: &[&str]| ids(&json(&[&["interactions", &home], args].concat()));
    assert_eq!(listed(&["--with-feedback"]), [asked[3], asked[2], asked[1]]);
    assert_eq!(listed(&["--without-feedback"]), [asked[0]]);
    assert_eq!(listed(&["--limit", "2"]), [asked[3], asked[2]]);
    assert!(listed(&["--label", "3"]).contains(&asked[1].to_string()));
    assert_eq!(listed(&["--generation", "1"]).len() + listed(&["--label", "nobody said so"]).len(), 0);
    assert_eq!((listed(&["--since", "1h"]).len(), listed(&["--since", "0s"]).len()), (4, 0));
    let shown = text(&["interactions", &home, "--limit", "3"]);
    assert!(shown.contains("accepted") && shown.contains("rejected") && shown.contains("there are more"), "{shown}");
    for bad in
        [&["--since", "soon"][..], &["--flag", "odd"], &["--with-feedback", "--without-feedback"], &["--profile", "x"]]
    {
        refused(&[&["interactions", &home], bad].concat(), 2);
    }
    let both = run(&["interactions", &home, "--csv", "--json"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn what_people_wrote_is_quoted_and_moves_no_cursor() {
    let bench = Bench::new();
    let home = bench.home();
    let label = "say \"no\", \u{202e}please";
    let id = bench.predict();
    json(&["feedback", &home, &id, "--label", label, "--new-class"]);
    let csv = text(&["interactions", &home, "--csv"]);
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "id,at,input,answer,p,generation,feedback,label,feedback_at,flags");
    assert!(lines[1].starts_with(&format!("{id},20")), "{csv}");
    assert!(lines[1].contains(",label,\"say \"\"no\"\", \\u{202e}please\","), "{csv}");
    let table = text(&["interactions", &home]);
    let data = text(&["interactions", &home, "--json"]);
    assert!(![&csv, &table, &data].iter().any(|t| t.contains('\u{202e}')), "{csv}{table}{data}");
    assert_eq!(json(&["interactions", &home])[0]["feedback"]["label"], label);
    assert_eq!(ids(&json(&["interactions", &home, "--label", label])), [id]);
}

#[test]
fn labels_that_all_others_contradict_are_found_relabelled_ignored_or_forgotten() {
    let bench = Bench::new();
    let home = bench.home();
    let set = person(23);
    let rows: Vec<usize> = (0..set.len()).step_by(4).collect();
    bench.teach(23, &rows);
    // The latest first.
    let mut all = ids(&json(&["interactions", &home]));
    all.reverse();
    let turned: Vec<usize> = (5..rows.len()).step_by(12).collect();
    let wrong = |n: usize| if set.labels()[rows[n]] == "0" { "3" } else { "0" };
    for &n in &turned {
        says(&refused(&["feedback", &home, &all[n], "--label", wrong(n)], 2), "next", "--replace");
        let receipt = json(&["feedback", &home, &all[n], "--label", wrong(n), "--replace"]);
        assert_eq!(receipt["unlearns"], Value::Null, "nothing has learned from it");
    }
    assert_eq!(bench.status()["feedback"], rows.len());
    let trained = json(&["train", &home, "--threads", "2"]);
    assert_eq!((&trained["promoted"], &trained["superseded"]), (&true.into(), &0.into()), "{trained}");

    // What the new generation answers otherwise is named, with why, and flagged.
    let held = &trained["corrections"];
    let not_held = held["not_held"].as_array().unwrap();
    assert_eq!((held["of"].as_u64(), held["held"].as_u64()), (Some(90), Some(90 - not_held.len() as u64)), "{held}");
    assert!(!not_held.is_empty() && not_held.len() <= turned.len(), "{held}");
    for one in not_held {
        let n = all.iter().position(|id| *id == one["id"]).unwrap();
        assert!(turned.contains(&n), "{one}");
        assert_eq!((&one["kind"], &one["label"]), (&"label".into(), &wrong(n).into()));
        assert_eq!(one["answer"]["label"], set.labels()[rows[n]].as_str(), "{one}");
        assert!(["doubted", "outvoted", "not-learned"].contains(&one["why"].as_str().unwrap()), "{one}");
        assert!(one["p"].as_f64() < one["answer"]["p"].as_f64() && !one["reason"].as_str().unwrap().is_empty());
    }
    assert!(not_held.iter().any(|one| one["why"] == "doubted"), "{held}");
    let mut flagged = ids(&json(&["interactions", &home, "--flag", "not-held"]));
    flagged.reverse();
    assert_eq!(flagged, not_held.iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>());

    let doubted = json(&["interactions", &home, "--flag", "label-disagrees"]);
    let doubted = ids(&doubted);
    let planted: Vec<&String> = turned.iter().map(|&n| &all[n]).collect();
    let found = planted.iter().filter(|id| doubted.contains(id)).count();
    eprintln!("{found} of {} planted labels are among {} doubted of {}", planted.len(), doubted.len(), rows.len());
    assert!(2 * found > planted.len() && 2 * found > doubted.len(), "{found} of {planted:?} in {doubted:?}");
    assert!(text(&["interactions", &home, "--flagged"]).contains("trained without it the model holds"));

    // One is relabelled, one ignored, one forgotten.
    let mut planted = planted.into_iter().filter(|id| doubted.contains(id));
    let [first, second, third] = [0; 3].map(|_| planted.next().unwrap());
    let at = |id: &str| all.iter().position(|i| i == id).unwrap();
    let right = &set.labels()[rows[at(first)]];
    assert_eq!(json(&["feedback", &home, first, "--label", right, "--replace"])["unlearns"], 1);
    says(&refused(&["feedback", &home, first, "--label", right, "--replace"], 2), "error", "says just that already");
    let told = run(&["feedback", &home, second, "--ignore"]);
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("generation 1 is active and learned from what was said before"), "{told}");
    refused(&["feedback", &home, second, "--ignore"], 2);
    let listed = json(&["interactions", &home]);
    assert!(!flags(&listed, first).contains(&"label-disagrees".to_string()), "it says something else now");
    assert!(flags(&listed, second).is_empty());
    let ignored = listed.as_array().unwrap().iter().find(|i| i["id"] == **second).unwrap();
    assert_eq!(
        (&ignored["feedback"]["kind"], &ignored["feedback"]["was"]["kind"]),
        (&"ignored".into(), &"label".into())
    );
    assert_eq!((&bench.status()["ignored"], &bench.status()["waiting"]), (&1.into(), &2.into()));

    // Nothing was said since, and the active generation still learned from what is not said any more.
    let again = json(&["train", &home, "--threads", "2"]);
    assert_eq!(
        (&again["promoted"], &again["generation"], &again["ignored"]),
        (&true.into(), &2.into(), &1.into()),
        "{again}"
    );
    let third_time = json(&["train", &home, "--threads", "2"]);
    assert!(third_time["reason"].as_str().unwrap().contains("there is no feedback since"), "{third_time}");
    json(&["forget", &home, third, "--no-train"]);
    assert!(!ids(&json(&["interactions", &home])).contains(third));
    assert_eq!(
        json(&["interactions", &home, "--flag", "label-disagrees"]),
        Value::Array(vec![]),
        "until the next training"
    );
}

#[test]
fn of_two_labels_for_one_input_the_newer_holds() {
    let bench = Bench::new();
    let home = bench.home();
    let [first, second, third] = [0; 3].map(|_| bench.predict());
    json(&["feedback", &home, &first, "--label", "3"]);
    json(&["feedback", &home, &second, "--label", "4"]);
    json(&["feedback", &home, &third, "--label", "4"]);
    let listed = json(&["interactions", &home]);
    assert_eq!(flags(&listed, &first), ["superseded"]);
    assert_eq!(flags(&listed, &second), ["near-duplicate", "one-stretch"]);
    assert_eq!(flags(&listed, &third), ["contradicts", "near-duplicate", "one-stretch"]);
    assert_eq!(
        ids(&json(&["interactions", &home, "--flag", "superseded", "--flag", "contradicts"])),
        [third.clone(), first.clone()]
    );
    let shown = text(&["interactions", &home, "--flagged"]);
    assert!(shown.starts_with("one-stretch: all feedback that says 4 came in one stretch"), "{shown}");
    assert!(
        shown.contains(&format!("{first} superseded: newer feedback on the same input, that on {third}")),
        "{shown}"
    );
    // Back to what was said first.
    json(&["feedback", &home, &third, "--ignore"]);
    json(&["feedback", &home, &second, "--label", "3", "--replace"]);
    let listed = json(&["interactions", &home]);
    assert_eq!(flags(&listed, &first), ["near-duplicate", "one-stretch"]);
    assert!(flags(&listed, &third).is_empty());
    for args in
        [&["--ignore", "--replace"][..], &["--ignore", "--new-class"], &["--replace"], &["--ignore", "--accept"]]
    {
        refused(&[&["feedback", &home, &first], args].concat(), 2);
    }
    let fresh = bench.predict();
    says(&refused(&["feedback", &home, &fresh, "--ignore"], 2), "error", "has no feedback yet");
    says(&refused(&["feedback", &home, &fresh, "--accept", "--replace"], 2), "error", "has no feedback yet");
    says(&refused(&["feedback", &home, "eeee", "--ignore"], 2), "error", "no interaction");
}

#[test]
fn none_of_these_is_said_and_listed() {
    let bench = Bench::new();
    let home = bench.home();
    let id = bench.predict();
    refused(&["feedback", &home, &id, "--none", "--label", "3"], 2);
    refused(&["feedback", &home, &id, "--none", "--new-class"], 2);
    let receipt = json(&["feedback", &home, "last", "--none"]);
    assert_eq!(
        (&receipt["id"], &receipt["durable"], &receipt["waiting"]),
        (&id.as_str().into(), &true.into(), &1.into())
    );
    let listed = json(&["interactions", &home]);
    let feedback = &listed[0]["feedback"];
    assert_eq!((&feedback["kind"], &feedback["label"]), (&"none".into(), &"none of these".into()));
    assert_eq!(ids(&json(&["interactions", &home, "--label", "none of these"])), std::slice::from_ref(&id));
    assert!(text(&["interactions", &home]).contains("none of these"));
    assert!(text(&["interactions", &home, "--csv"]).contains(",none,none of these,"));
    json(&["feedback", &home, &id, "--label", "3", "--replace"]);
    let listed = json(&["interactions", &home]);
    let was = &listed[0]["feedback"]["was"];
    assert_eq!((&was["kind"], &was["label"]), (&"none".into(), &"none of these".into()));
    let top = &json(&["predict", &home, &bench.input()])[0]["top"];
    assert!(top.as_array().unwrap().iter().all(|s| s["none"] == false), "{top}");
}
