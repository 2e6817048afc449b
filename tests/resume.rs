//! A training that is cut off goes on and ends in the bits of one that never was.
#![cfg(feature = "train")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use acclimate::adapter::Adapter;
use acclimate::runtime::{Checkpoints, TrainOptions, TrainReport};
use acclimate::store::Selection;
use acclimate::{ErrorKind, Feedback, Home, Result, Session};
use support::{copy, home, person, teach};

/// A home in which `ada` has taught and nothing is trained yet.
fn taught(folder: &Path) -> std::path::PathBuf {
    let made = tempfile::tempdir().unwrap();
    let session = home(&made).session("ada").unwrap();
    teach(&session, &person(23), 5);
    drop(session);
    let place = folder.join("taught");
    copy(&made.path().join("home"), &place);
    place
}

fn ada(home: &Path) -> Session {
    Home::open(home).unwrap().session("ada").unwrap()
}

fn train(session: &Session, stop: Option<&AtomicBool>, progress: &(dyn Fn(f32) + Sync)) -> Result<TrainReport> {
    let tell = |p: acclimate::adapt::Progress| progress(p.done);
    let checkpoints = Checkpoints::Every(Duration::from_millis(1));
    let options = TrainOptions::default().checkpoints(checkpoints).progress(&tell);
    session.train(&stop.into_iter().fold(options, TrainOptions::stop))
}

/// The serving adapter, but for the time at which it was made.
fn learned(session: &Session) -> Adapter {
    let mut adapter = session.adapter().unwrap().unwrap();
    adapter.lineage.created_ms = 0;
    adapter
}

/// Trains until progress is reported for the `n`-th time, then stops.
fn stop_at(session: &Session, n: u32) -> Result<TrainReport> {
    let (stop, told) = (AtomicBool::new(false), AtomicU32::new(0));
    train(session, Some(&stop), &|_| {
        if told.fetch_add(1, Ordering::Relaxed) + 1 == n {
            stop.store(true, Ordering::Relaxed);
        }
    })
}

fn checkpoint_files(home: &Path) -> usize {
    std::fs::read_dir(home.join("profiles/ada/checkpoint")).map_or(0, |files| files.count())
}

#[test]
fn a_training_that_is_stopped_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let start = taught(folder.path());
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    copy(&start, &whole);
    copy(&start, &parts);
    let session = ada(&whole);
    let report = train(&session, None, &|_| ()).unwrap();
    assert!(report.promoted && report.resumed_steps == 0, "{:?}", report.tried);
    let expected = learned(&session);
    assert_eq!(checkpoint_files(&whole), 0, "nothing is left of a training that has ended");

    for n in [2, 4, 6] {
        let e = stop_at(&ada(&parts), n).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Interrupted);
        assert!(checkpoint_files(&parts) > 1);
    }
    assert!(Home::verify(&parts).unwrap().is_sound());
    // What comes in meanwhile waits for the next training.
    let session = ada(&parts);
    let later = session.predict(&person(24).input(3).unwrap()).unwrap().id.unwrap();
    session.feedback(later, Feedback::Label("0".into())).unwrap();
    let resumed = train(&session, None, &|_| ()).unwrap();
    assert!(resumed.resumed_steps > 0 && resumed.resumed_steps < resumed.steps, "{resumed:?}");
    assert_eq!((resumed.steps, &resumed.verdict, &resumed.tried), (report.steps, &report.verdict, &report.tried));
    assert_eq!(learned(&session), expected);
    assert_eq!(checkpoint_files(&parts), 0);
}

#[test]
fn a_checkpoint_is_not_gone_on_from_when_it_is_damaged_or_of_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let start = taught(folder.path());
    let stopped = folder.path().join("stopped");
    copy(&start, &stopped);
    stop_at(&ada(&stopped), 4).unwrap_err();
    let expected = {
        let session = ada(&start);
        train(&session, None, &|_| ()).unwrap();
        learned(&session)
    };

    // A bit of every file is wrong.
    let damaged = folder.path().join("damaged");
    copy(&stopped, &damaged);
    for file in std::fs::read_dir(damaged.join("profiles/ada/checkpoint")).unwrap().map(|f| f.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    assert!(Home::verify(&damaged).unwrap().is_sound(), "it is worth time, not data");
    let session = ada(&damaged);
    assert_eq!(train(&session, None, &|_| ()).unwrap().resumed_steps, 0);
    assert_eq!(learned(&session), expected);

    // Another seed is another training.
    let other = folder.path().join("other");
    copy(&stopped, &other);
    let session = ada(&other);
    let settings = acclimate::adapt::Settings { seed: 5, ..session.settings() };
    let report = session.train(&TrainOptions::default().settings(settings)).unwrap();
    assert_eq!(report.resumed_steps, 0);

    // What it has seen is forgotten.
    let forgetful = folder.path().join("forgetful");
    copy(&stopped, &forgetful);
    let session = ada(&forgetful);
    session.forget(&Selection::Ids(vec![acclimate::journal::InteractionId(0)])).unwrap();
    assert_eq!(checkpoint_files(&forgetful), 0);
    assert_eq!(train(&session, None, &|_| ()).unwrap().resumed_steps, 0);
}
