//! A session on a disk that fails: whatever was acknowledged is there when the disk works again, and a whole generation serves.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{Feedback, Home, InitOptions, Session, TrainOptions};
use crate::adapter::Depth;
use crate::disk::RealDisk;
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::error::{ErrorKind, Result};
use crate::input::{LabelledSet, RawInput};
use crate::journal::{InteractionId, Journal, Record};
use crate::store::Selection;

fn asset(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// What a person was told had been done.
#[derive(Default)]
struct Told {
    corrected: Vec<InteractionId>,
    forgotten: HashSet<InteractionId>,
    /// The active generation by the last word, while no change of it failed half-way.
    serves: Option<u64>,
    /// It is on probation: a disk that dies before a try is over looks like a crash in the middle of it, and takes it back.
    tried: bool,
}

/// Answers, corrections, a training, a rollback and something forgotten, until the disk fails.
fn live(home: &Home, windows: &LabelledSet, told: &mut Told) -> Result<()> {
    let session = home.session("p")?;
    for i in (0..windows.len()).step_by(12) {
        let id = session.predict(&windows.input(i)?)?.id;
        if let Some(id) = id {
            // A name that the base does not have, so that there is something to learn at once.
            let said = match windows.labels()[i].as_str() {
                "5" => Feedback::NewLabel("resting".into()),
                label => Feedback::Label(label.into()),
            };
            session.feedback(id, said)?;
            told.corrected.push(id);
        }
    }
    told.serves = None;
    let settings = crate::adapt::Settings { deepest: Depth::HeadOnly, threads: 1, ..session.settings() };
    let report = session.train(&TrainOptions { settings: Some(settings), ..TrainOptions::default() })?;
    if !report.promoted {
        // Answers that the disk did not take could not be corrected.
        told.serves = Some(0);
        return session.flush().map(drop);
    }
    (told.serves, told.tried) = (Some(report.generation), true);
    session.predict(&windows.input(1)?)?;
    (told.serves, told.tried) = (None, false);
    told.serves = Some(session.rollback(Some(0))?);
    told.serves = None;
    told.serves = Some(session.rollback(Some(report.generation))?);
    let first = told.corrected[0];
    // Half done it may be there or not.
    told.forgotten.insert(first);
    told.serves = None;
    session.forget(&Selection::Ids(vec![first]))?;
    assert_eq!(session.status()?.generation, 0, "the generation that saw it is off");
    told.serves = Some(0);
    session.flush().map(drop)
}

#[test]
fn what_a_session_acknowledged_outlives_a_disk_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let set = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap().filter_user(23).unwrap();
    let known: Vec<usize> = (0..set.len()).filter(|&i| set.labels()[i].parse::<usize>().unwrap() < 6).collect();
    let windows = set.select(&known).unwrap();
    let question: RawInput = windows.input(3).unwrap();
    let made = |name: &str| {
        let path = folder.path().join(name);
        Home::init(&path, &InitOptions::new(asset("har_cnn.onnx"))).unwrap();
        path
    };
    // How many operations there are, and what the base answers.
    let counting = FaultyDisk::counting();
    let path = made("sound");
    let home = Home::open_on(Arc::new(counting.clone()), &path, None).unwrap();
    let opened = counting.operations();
    let mut told = Told::default();
    live(&home, &windows, &mut told).unwrap();
    assert_eq!((told.serves, told.forgotten.len()), (Some(0), 1), "the whole story was told");
    let base = home.session("fresh").unwrap().predict(&question).unwrap().top;
    let operations = counting.operations();

    let (mut failed, mut acknowledged) = (0, 0);
    for (round, fault) in [Fault::Unsynced, Fault::Full, Fault::Broken, Fault::Dead].into_iter().enumerate() {
        for at in (opened + round..operations).step_by(23) {
            let path = made(&format!("{fault:?}-{at}"));
            let home = Home::open_on(Arc::new(FaultyDisk::new(at, fault)), &path, None).unwrap();
            let mut told = Told::default();
            let outcome = live(&home, &windows, &mut told);
            if let Err(e) = &outcome {
                assert_eq!(e.kind(), ErrorKind::Io, "{fault:?} {at}: {e:?}");
                failed += 1;
            }
            drop(home);

            let health = Home::verify(&path).unwrap();
            assert!(health.is_sound(), "{fault:?} {at}: {:?}", health.findings);
            let session = Home::open(&path).unwrap().session("p").unwrap();
            let journal = path.join("profiles/p/journal.log");
            let records = Journal::read(&RealDisk, &journal).unwrap().collect::<Result<Vec<Record>>>().unwrap();
            let kept: HashSet<InteractionId> = records
                .iter()
                .filter(|r| matches!(r, Record::Feedback { .. }))
                .filter_map(Record::interaction)
                .collect();
            for id in &told.corrected {
                assert!(kept.contains(id) || told.forgotten.contains(id), "{fault:?} {at}: {id:?} is lost");
            }
            acknowledged += told.corrected.len();
            let now = session.current_generation().unwrap();
            if let Some(serves) = told.serves {
                let rolled_back = told.tried && now == 0 && fault != Fault::Broken;
                assert!(now == serves || rolled_back, "{fault:?} {at}: {now} serves, not {serves}");
            }
            let answer = session.predict(&question).unwrap();
            assert_eq!(answer.generation, now);
            assert!(now != 0 || answer.top == base, "{fault:?} {at}");
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
    assert!(failed > 40 && acknowledged > 200, "{failed} faults, {acknowledged} corrections");
}

/// Another process has made generation 1 the active one, and one read fails, or all from one on.
#[test]
fn a_generation_that_cannot_be_read_is_no_disk_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let other = super::serving::tests::stubborn(folder.path(), None, false);
    let path = folder.path().join("home");
    let windows = LabelledSet::read(asset("hapt_users_23_26.npz")).unwrap();
    let question: RawInput = windows.input(3).unwrap();
    let choose = |generation: u64| {
        if other.current_generation().unwrap() != generation {
            other.rollback(Some(generation)).unwrap();
        }
    };
    let opened = |disk: FaultyDisk| -> Result<Session> {
        choose(0);
        let session = Home::open_on(Arc::new(disk), &path, None)?.session("default")?;
        choose(1);
        Ok(session)
    };
    let counting = FaultyDisk::counting();
    let session = opened(counting.clone()).unwrap();
    let first = counting.operations();
    assert_eq!(session.predict(&question).unwrap().generation, 1);
    let operations = counting.operations();
    drop(session);
    let (mut refused, mut from_memory) = (0, 0);
    for at in first..operations {
        // Opening may take an operation more than before.
        let Ok(session) = opened(FaultyDisk::new(at, Fault::Broken)) else { continue };
        match session.predict(&question) {
            Ok(answer) => assert_eq!(answer.generation, 1, "operation {at}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Io, "operation {at}: {e:?}");
                refused += 1;
            }
        }
        assert_eq!(session.predict(&question).unwrap().generation, 1, "operation {at}: the disk reads again");
        drop(session);
        let Ok(session) = opened(FaultyDisk::new(at, Fault::Dead)) else { continue };
        from_memory += usize::from(session.predict(&question).unwrap().generation == 0);
    }
    assert!(refused > 0 && from_memory > 0, "{refused} of {} refused, {from_memory} from memory", operations - first);
}
