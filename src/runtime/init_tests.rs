//! Power cuts at every operation of making a home.

use std::path::Path;
use std::sync::Arc;

use super::config::Config;
use super::init::NewHome;
use super::{Home, InitOptions};
use crate::base::fingerprint;
use crate::disk::simulated::{Contents, Node, SimulatedDisk};
use crate::disk::storage::Storage;
use crate::disk::{Disk, UNFINISHED, read_file};

const MODEL: &str = "model.onnx";
const HOME: &str = "home";

/// Makes the home, or goes on with what is there of it.
fn made(disk: &SimulatedDisk, config: &Config) {
    let (options, path) = (InitOptions::new(MODEL), Path::new(HOME));
    NewHome { disk, path, options: &options }.store(&mut config.clone(), false).unwrap();
}

fn names(disk: &SimulatedDisk) -> Vec<String> {
    disk.list(Path::new(HOME)).unwrap_or_default()
}

#[test]
fn a_home_that_a_power_cut_left_unmade_is_made_by_the_next_init_and_nothing_is_left_over() {
    let model = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits_cnn.onnx")).unwrap();
    let real = tempfile::tempdir().unwrap();
    std::fs::write(real.path().join(MODEL), &model).unwrap();
    let home = Home::init(real.path().join(HOME), &InitOptions::new(real.path().join(MODEL))).unwrap();
    let config = home.config().clone();

    let mut before = Contents::default();
    before.names.insert(MODEL.into(), Node::File(0));
    before.files.insert(0, Arc::new(model));
    let disk = SimulatedDisk::holding(before.clone());
    made(&disk, &config);
    let with_notes = SimulatedDisk::holding(before.clone());
    let notes = Path::new(HOME).join("notes.tmp");
    with_notes.create_dir_all(Path::new(HOME)).unwrap();
    with_notes.create_new(&notes).unwrap();
    made(&with_notes, &config);
    assert!(with_notes.exists(&notes).unwrap(), "what is the user's stays");
    let (mut storage, mut cut_off, mut leftovers) = (Storage::holding(before), 0, 0);
    let log = disk.log();
    for (at, step) in log.iter().enumerate() {
        storage.follow(step);
        for seed in 0..16 {
            let disk = SimulatedDisk::holding(storage.cut(at, seed));
            let is_home = names(&disk).iter().any(|name| name == super::config::FILE);
            leftovers += usize::from(names(&disk).iter().any(|name| name.ends_with(UNFINISHED)));
            assert!(!is_home || at + 3 >= log.len(), "the settings come last");
            if !is_home {
                cut_off += 1;
                made(&disk, &config);
            }
            let base = read_file(&disk, &Path::new(HOME).join("base.onnx"), 1 << 24).unwrap();
            assert_eq!(fingerprint(&base).to_string(), config.fingerprint, "step {at} ({step}), seed {seed}");
            let left: Vec<String> = names(&disk).into_iter().filter(|name| name.ends_with(UNFINISHED)).collect();
            assert!(left.is_empty(), "step {at} ({step}), seed {seed}: {left:?}");
        }
    }
    assert!(
        cut_off > 100 && leftovers > 20,
        "{cut_off} cuts before it was a home, {leftovers} with an unfinished file"
    );
}
