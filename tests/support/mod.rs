//! What several tests share: the bundled activity model, one person's windows, and a profile that has learned from them.
#![allow(dead_code)]

pub mod onnx;

use std::path::{Path, PathBuf};

use acclimate::input::{LabelledSet, RawInput};
use acclimate::runtime::{TrainOptions, TrainReport};
use acclimate::{Feedback, Home, InitOptions, Session};
use tempfile::TempDir;

/// What the person of [`learned`] calls class 5: a class that the base does not have.
pub const RESTING: &str = "resting";

pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// A file of the folder of larger models; prints a note when there is none.
pub fn large(name: &str) -> Option<PathBuf> {
    let file =
        std::env::var_os("ACCLIMATE_MODELS").map(|folder| PathBuf::from(folder).join(name)).filter(|f| f.is_file());
    if file.is_none() {
        eprintln!("skipped: ACCLIMATE_MODELS does not name a folder with {name}");
    }
    file
}

/// The windows of one person whose activity the model knows, in order of time.
pub fn person(user: i64) -> LabelledSet {
    let all = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(user).unwrap();
    let known: Vec<usize> = (0..all.len()).filter(|&i| all.labels()[i].parse::<usize>().unwrap() < 6).collect();
    all.select(&known).unwrap()
}

pub fn home(folder: &TempDir) -> Home {
    Home::init(folder.path().join("home"), &InitOptions::new(asset("har_cnn.onnx"))).unwrap()
}

/// Puts a file with these bytes in the place of one that nobody may write to.
pub fn replace(file: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Shows every `step`-th window and says what it was; class 5 is called [`RESTING`].
pub fn teach(session: &Session, windows: &LabelledSet, step: usize) {
    for i in (0..windows.len()).step_by(step) {
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        let said = match windows.labels()[i].as_str() {
            "5" => Feedback::NewLabel(RESTING.into()),
            label => Feedback::Label(label.into()),
        };
        session.feedback(id, said).unwrap();
    }
}

/// Trains on `threads` threads; the result must serve.
#[track_caller]
pub fn train(session: &Session, threads: usize) -> TrainReport {
    let settings = acclimate::adapt::Settings { threads, ..session.settings() };
    let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    report
}

/// A profile in which generation 1 serves, taught by person 23.
pub fn learned(home: &Home, profile: &str) -> Session {
    let session = home.session(profile).unwrap();
    teach(&session, &person(23), 5);
    assert_eq!(train(&session, 2).generation, 1);
    session
}

pub fn inputs(set: &LabelledSet, n: usize) -> Vec<RawInput> {
    (0..n).map(|i| set.input(i * set.len() / n).unwrap()).collect()
}

/// Largest difference of two tables of the same shape.
#[track_caller]
pub fn apart(a: &ndarray::Array2<f32>, b: &ndarray::Array2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Probabilities of an exported model at the temperature of the session that it was exported from.
pub fn at_temperature_of(session: &Session, p: &ndarray::Array2<f32>) -> ndarray::Array2<f32> {
    let temperature = session.adapter().unwrap().unwrap().calibrated.temperature;
    let mut p = p.mapv(|p| p.powf(1.0 / temperature));
    p.rows_mut().into_iter().for_each(|mut row| row /= row.sum());
    p
}

/// Clearly different home-automation intents.
pub const INTENTS: [&str; 4] = ["HassGetWeather", "HassStartTimer", "HassShoppingListAddItem", "HassMediaNext"];

/// Up to `most` sentences of each of [`INTENTS`], in the order of the file.
pub fn intents(part: &str, most: usize) -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("reference/intents/seed0_{part}.tsv"));
    let text = std::fs::read_to_string(file).unwrap();
    let mut taken = [0; INTENTS.len()];
    let mut rows = vec![];
    for (label, sentence) in text.lines().filter_map(|l| l.split_once('\t')) {
        if let Some(class) = INTENTS.iter().position(|i| *i == label).filter(|&class| taken[class] < most) {
            taken[class] += 1;
            rows.push((label.to_string(), sentence.to_string()));
        }
    }
    rows
}

pub fn teach_texts(session: &Session, rows: &[(String, String)]) {
    for (label, sentence) in rows {
        let answer = session.predict(&RawInput::Text(sentence.clone())).unwrap();
        session.feedback(answer.id.unwrap(), Feedback::Label(label.clone())).unwrap();
    }
}

/// Trains no deeper than `deepest`; the result must serve.
#[track_caller]
pub fn train_to(session: &Session, deepest: acclimate::adapter::Depth) -> TrainReport {
    let settings = acclimate::adapt::Settings { deepest, ..session.settings() };
    let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
    assert!(report.promoted, "{}: {:?}", report.verdict.reason, report.tried);
    report
}
