//! Disks that are full or take no writes.

use std::path::Path;
use std::process::Command;

use acclimate::input::{ArrayData, NamedArray, RawInput};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{asset, json, refused, run, save, says};

/// A file system of 3 MiB; none where the tests may not mount one.
#[cfg(target_os = "linux")]
pub struct SmallDisk(pub TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    pub fn new() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(o) if o.status.success() => Some(SmallDisk(dir)),
            _ => {
                eprintln!("skipped: no file system of a fixed size can be mounted here");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// A home on this disk, an input that lies in another folder, and the first answer to it.
    pub fn home(&self, elsewhere: &Path) -> (String, String, Value) {
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_string();
        let (home, input) = (text(self.0.path().join("home")), text(elsewhere.join("input.npy")));
        save(Path::new(&input), &NamedArray::new("", vec![6, 128], ArrayData::F32(vec![0.1; 768])).unwrap());
        json(&["init", &home, "--model", asset("har_cnn.onnx").to_str().unwrap()]);
        let first = json(&["predict", &home, &input]);
        (home, input, first)
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_predictions_go_on_and_nothing_stored_is_lost() {
    let Some(disk) = SmallDisk::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let (home, input, first) = disk.home(elsewhere.path());
    json(&["feedback", &home, first[0]["id"].as_str().unwrap(), "--accept"]);
    let session = acclimate::Home::open(&home).unwrap().session("default").unwrap();
    let window = RawInput::from_argument(&input, session.home().intake()).unwrap();
    let ids: Vec<_> = (0..250).map(|_| session.predict(&window).unwrap().id.unwrap()).collect();

    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let mut piece = 1 << 16;
    while piece > 0 {
        if std::io::Write::write_all(&mut file, &vec![1; piece]).is_err() {
            piece /= 2;
        }
    }
    let output = run(&["predict", &home, &input, "--json"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer[0]["id"], &answer[0]["top"]), (&Value::Null, &first[0]["top"]));
    assert!(text.contains("warning: not recorded"), "{text}");
    // A few small records still fit into the last page of the journal; each is acknowledged or refused, never half kept.
    let mut acknowledged = 1;
    let mut waiting = ids.iter();
    let e = loop {
        let id = waiting.next().expect("the disk never filled");
        match session.feedback(*id, acclimate::Feedback::Accept) {
            Ok(_) => acknowledged += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), acclimate::ErrorKind::Io, "{e:?}");
    drop(session);
    let next = waiting.next().unwrap().to_string();
    says(&refused(&["feedback", &home, &next, "--accept"], 74), "next", "free some space");
    let status = json(&["status", &home]);
    assert_eq!((&status["interactions"], &status["feedback"]), (&251.into(), &acknowledged.into()));

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(json(&["feedback", &home, &next, "--accept"])["waiting"], acknowledged + 1);
    assert!(json(&["predict", &home, &input])[0]["id"].is_string());
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_read_only_disk_predictions_go_on() {
    let Some(disk) = SmallDisk::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let (home, input, first) = disk.home(elsewhere.path());
    let id = first[0]["id"].as_str().unwrap();
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(disk.0.path()).status().unwrap();
        assert!(done.success());
    };
    remount("remount,ro");
    let output = run(&["predict", &home, &input, "--json"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("warning: not recorded"), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer[0]["id"], &answer[0]["top"]), (&Value::Null, &first[0]["top"]));
    assert_eq!(json(&["status", &home])["interactions"], 1);
    assert_eq!(json(&["verify", &home])["ok"], true);
    refused(&["feedback", &home, id, "--accept"], 74);
    remount("remount,rw");
    assert_eq!(json(&["feedback", &home, id, "--accept"])["durable"], true);
}
