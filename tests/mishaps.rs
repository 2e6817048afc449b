//! What happens to homes: files and folders that vanish, an `init` that was cut off, data with labels that nobody taught.
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use acclimate::store::State;
use acclimate::{ErrorKind, Home, InitOptions};
use support::{asset, home, inputs, learned, person, teach, train};

fn damaged(home: &Path) -> Vec<String> {
    let findings = Home::verify(home).unwrap().findings;
    findings.into_iter().filter(|f| f.state == State::Damaged).map(|f| format!("{}: {}", f.file, f.what)).collect()
}

#[test]
fn a_home_that_lost_its_empty_folders_learns_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let session = home.session("p").unwrap();
    teach(&session, &person(23), 5);
    std::fs::remove_dir(home.path().join("profiles/p/generations")).unwrap();
    assert_eq!(damaged(home.path()), [""; 0]);
    assert!(session.generations().unwrap().is_empty());
    assert_eq!(train(&session, 2).generation, 1);
}

#[test]
fn a_profile_without_its_head_says_so_and_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let questions = inputs(&person(23), 5);
    let answers = learned(&home, "p").evaluate(&questions, false, 1).unwrap();
    std::fs::remove_file(home.path().join("profiles/p/head")).unwrap();
    // Nothing serves silently in the place of what was learned.
    let e = home.session("p").err().unwrap();
    assert!(e.kind() == ErrorKind::BadData && e.next_step().unwrap().contains("repair"), "{e}");
    assert!(damaged(home.path())[0].contains("is gone"));
    assert!(Home::repair(home.path()).unwrap()[0].what.contains("generation 1 serves"));
    assert_eq!(damaged(home.path()), [""; 0]);
    assert_eq!(home.session("p").unwrap().evaluate(&questions, false, 1).unwrap(), answers);
}

#[test]
fn what_a_repair_took_back_it_tells() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    drop(learned(&home, "p"));
    std::fs::remove_file(home.path().join("profiles/p/generations/000001.adapter")).unwrap();
    assert!(damaged(home.path())[0].contains("generation 1 serves and has no file"));
    let done = Home::repair(home.path()).unwrap();
    assert!(done.len() == 1 && done[0].what.contains("generation 1 is gone: generation 0 serves"), "{done:?}");
    assert_eq!(damaged(home.path()), [""; 0]);
}

#[test]
fn a_journal_that_is_gone_and_files_that_cannot_be_read_are_damage_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    drop(learned(&home, "p"));
    drop(learned(&home, "q"));
    std::fs::remove_file(home.path().join("profiles/p/journal.log")).unwrap();
    let adapter = home.path().join("profiles/q/generations/000001.adapter");
    std::fs::remove_file(&adapter).unwrap();
    std::fs::create_dir(&adapter).unwrap();
    let found = damaged(home.path());
    assert!(found.iter().any(|f| f.contains("p/journal.log: it is gone")), "{found:?}");
    assert!(found.iter().any(|f| f.contains("q/generations/000001.adapter")), "{found:?}");
    // Bytes behind the head say nothing.
    let head = home.path().join("profiles/p/head");
    let longer = [std::fs::read(&head).unwrap(), vec![b'x']].concat();
    std::fs::write(&head, longer).unwrap();
    assert_eq!(home.session("p").unwrap().current_generation().unwrap(), 1);
}

#[test]
fn an_init_that_was_cut_off_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("home");
    std::fs::create_dir(&path).unwrap();
    std::fs::copy(asset("har_cnn.onnx"), path.join("base.onnx")).unwrap();
    std::fs::write(path.join(".17-1.tmp"), b"half").unwrap();
    Home::init(&path, &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
    // Another model under that name is somebody's own file.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("base.onnx"), b"mine").unwrap();
    let e = Home::init(&other, &InitOptions::new(asset("har_cnn.onnx"))).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert_eq!(std::fs::read(other.join("base.onnx")).unwrap(), b"mine");
}

#[cfg(feature = "cli")]
#[test]
fn labels_that_the_model_does_not_have_are_counted_and_the_others_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.txt");
    std::fs::write(&labels, "walking\nupstairs\ndownstairs\nsitting\nstanding\nlaying\n").unwrap();
    let path = folder.path().join("home");
    let options = InitOptions::new(asset("har_cnn.onnx")).labels(labels);
    Home::init(&path, &options).unwrap();
    let run = |args: &[&str]| {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("acclimate")).args(args).output().unwrap()
    };
    // Labels 6 to 11 are transitions between postures.
    let windows = asset("hapt_users_23_26.npz");
    let out = run(&["eval", path.to_str().unwrap(), "--data", windows.to_str().unwrap(), "--user", "24", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let unknown = told["unknown_labels"].as_u64().unwrap();
    assert!(unknown > 0 && told["base_accuracy"].as_f64().unwrap() > 0.85, "{told}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("does not know"));
    // A plot that cannot be written is refused before the work.
    let model = asset("har_cnn.onnx");
    let plot = folder.path().join("absent/curve.svg");
    let (model, windows, plot) = (model.to_str().unwrap(), windows.to_str().unwrap(), plot.to_str().unwrap());
    let started = std::time::Instant::now();
    let out = run(&["simulate", "--model", model, "--data", windows, "--user", "24", "--plot", plot]);
    assert_eq!(out.status.code(), Some(2));
    assert!(started.elapsed().as_secs() < 3 && String::from_utf8_lossy(&out.stderr).contains("no plot"));
}
