//! Probabilities say how often answers are right, and change no answer.
#![cfg(feature = "train")]

mod support;

use std::path::Path;

use acclimate::adapter::file::{AdapterFile, write_adapter};
use acclimate::adapter::{Adapter, Calibrated};
use acclimate::disk::RealDisk;
use acclimate::{Feedback, Session};
use support::{RESTING, apart, home, inputs, person, train};

/// The adapter that serves, at another temperature, as a generation of its own.
fn at_temperature(session: &Session, temperature: f32) -> u64 {
    let mut adapter = session.adapter().unwrap().unwrap();
    adapter.lineage.parent = session.current_generation().unwrap();
    let calibrated = Calibrated { temperature };
    session.store().commit(&Adapter { calibrated, ..adapter }).unwrap()
}

/// As `support::teach`, but every third label may be wrong: answers that nothing can be sure of.
fn teach_with_slips(session: &Session) {
    let windows = person(23);
    for (n, i) in (0..windows.len()).step_by(3).enumerate() {
        let id = session.predict(&windows.input(i).unwrap()).unwrap().id.unwrap();
        let said = match windows.labels()[i].as_str() {
            _ if n % 3 == 1 => Feedback::Label("3".into()),
            "5" => Feedback::NewLabel(RESTING.into()),
            label => Feedback::Label(label.into()),
        };
        session.feedback(id, said).unwrap();
    }
}

#[test]
fn what_was_fitted_is_kept_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let session = home.session("p").unwrap();
    teach_with_slips(&session);
    let report = train(&session, 2);
    let found = report.calibration().unwrap();
    assert!(found.temperature != 1.0 && found.n > 50, "{found:?}");
    assert!(found.ece_after < found.ece_before, "{found:?}");
    assert_eq!(session.adapter().unwrap().unwrap().calibrated.temperature, found.temperature);

    let windows = inputs(&person(23), 40);
    let fitted = session.evaluate(&windows, false, 1).unwrap().unwrap();
    let shown = session.predict_top(&windows[0], 99).unwrap();
    at_temperature(&session, 1.0);
    let plain = session.evaluate(&windows, false, 1).unwrap().unwrap();
    // softmax(z / T) is softmax(z)^(1 / T), normalised.
    let mut expected = plain.mapv(|p| p.powf(1.0 / found.temperature));
    expected.rows_mut().into_iter().for_each(|mut row| row /= row.sum());
    assert!(apart(&fitted, &expected) < 1e-4 && apart(&fitted, &plain) > 1e-3, "{}", apart(&fitted, &expected));
    let at_one = session.predict_top(&windows[0], 99).unwrap();
    let labels = |answer: &acclimate::Answer| answer.top.iter().map(|s| s.label.clone()).collect::<Vec<_>>();
    assert_eq!(labels(&shown), labels(&at_one));
    assert!(shown.top.iter().zip(&at_one.top).any(|(a, b)| (a.p - b.p).abs() > 1e-4), "{shown:?} {at_one:?}");
    assert!((shown.top[0].p - fitted.row(0).fold(0.0, |a: f32, b| a.max(*b))).abs() < 1e-6);
}

#[test]
fn no_temperature_changes_a_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let session = home.session("p").unwrap();
    teach_with_slips(&session);
    train(&session, 2);
    let windows = inputs(&person(24), 60);
    let answers = |session: &Session| -> Vec<String> {
        windows.iter().map(|w| session.predict(w).unwrap().label().unwrap().to_string()).collect()
    };
    at_temperature(&session, 1.0);
    let expected = answers(&session);
    for temperature in [0.0625, 0.3, 2.5, 16.0] {
        at_temperature(&session, temperature);
        assert_eq!(answers(&session), expected, "at {temperature}");
    }
}

/// A generation that an earlier version wrote serves as it did.
#[test]
fn an_adapter_of_format_1_serves_at_a_temperature_of_1() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(&folder);
    let session = home.session("p").unwrap();
    support::teach(&session, &person(23), 5);
    train(&session, 1);
    let file = home.path().join("profiles/p/generations/000001.adapter");
    let old = as_format_1(session.adapter().unwrap().unwrap());
    at_temperature(&session, 1.0);
    let windows = inputs(&person(23), 10);
    let expected = session.evaluate(&windows, false, 1).unwrap().unwrap();
    session.rollback(Some(1)).unwrap();
    support::replace(&file, old);
    drop(session);
    let session = home.session("p").unwrap();
    assert_eq!(session.current_generation().unwrap(), 1);
    assert_eq!(session.adapter().unwrap().unwrap().calibrated, Calibrated::default());
    assert_eq!(apart(&session.evaluate(&windows, false, 1).unwrap().unwrap(), &expected), 0.0);
    // The bundled fixture opens, too, and what is written of it is of the new format.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapter-v1.bin");
    let old = AdapterFile::open(&fixture, None).unwrap().to_adapter();
    let again = folder.path().join("again.adapter");
    write_adapter(&RealDisk, &again, &old).unwrap();
    assert_eq!(AdapterFile::open(&again, None).unwrap().to_adapter(), old);
    assert_eq!(std::fs::read(&again).unwrap()[8], 3);
}

/// An adapter as format 1 has it: docs/adapter-format.md.
fn as_format_1(adapter: Adapter) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("one.adapter");
    write_adapter(&RealDisk, &file, &Adapter { known: None, confusions: None, ..adapter }).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (header_len, data_offset) = (number(12), number(24));
    // A float, that nothing is known, that all answers may change, and that features are as they are.
    let second = 7;
    let mut header = bytes[64..64 + header_len - second].to_vec();
    let data = &bytes[data_offset..bytes.len() - 32];
    let start = (64 + header.len()).next_multiple_of(64);
    let mut out = bytes[..64].to_vec();
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    put(8, &1u32.to_le_bytes());
    put(12, &(header.len() as u32).to_le_bytes());
    put(16, &((start + data.len() + 32) as u64).to_le_bytes());
    put(24, &(start as u64).to_le_bytes());
    put(40, &crc32fast::hash(&header).to_le_bytes());
    let crc = crc32fast::hash(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out.append(&mut header);
    out.resize(start, 0);
    out.extend_from_slice(data);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}
