//! How much a day of use writes: memory cards wear out by what is written to them.

use std::collections::BTreeSet;

use super::scenario::Story;
use crate::disk::simulated::{SimulatedDisk, Step};
use crate::journal::SegmentSize;

/// A file system writes whole blocks.
const BLOCK: u64 = 4096;
/// Blocks that a journalling file system writes of its own at every sync: the file's inode, a descriptor, a commit.
const PER_SYNC: u64 = 3;

/// Bytes that reach storage, with what the file system adds.
fn written(log: &[Step]) -> u64 {
    let (mut dirty, mut changed, mut blocks) = (BTreeSet::new(), BTreeSet::new(), 0);
    for step in log {
        match step {
            Step::Write(file, at, bytes) => {
                let end = at + (bytes.len() as u64).max(1);
                dirty.extend((at / BLOCK..end.div_ceil(BLOCK)).map(|block| (*file, block)));
                changed.insert(*file);
            }
            Step::Create(_, file) | Step::Truncate(file, _) => drop(changed.insert(*file)),
            Step::Sync(file) => {
                let before = dirty.len();
                dirty.retain(|(of, _)| of != file);
                blocks += (before - dirty.len()) as u64;
                // Where nothing has changed there is nothing to write.
                blocks += if changed.remove(file) { PER_SYNC } else { 0 };
            }
            Step::SyncFolder(_) => blocks += 1 + PER_SYNC,
            _ => {}
        }
    }
    (blocks + dirty.len() as u64) * BLOCK
}

#[test]
fn a_day_of_use_writes_no_more_than_25_mib() {
    let story = Story::on(SimulatedDisk::default());
    let store = story.store().unwrap();
    let mut journal = story.journal(&store).unwrap();
    journal.set_segment_size(SegmentSize::default());
    let before = story.disk.log().len();
    // One every 86 seconds, so that each of them is synced by itself after 5 seconds; windows of 3 KiB; every tenth corrected.
    // Three days, in which a segment is sealed.
    for n in 0..3000 {
        let id = story.ask(&mut journal, "x".repeat(3072)).unwrap();
        journal.flush().unwrap();
        if n % 10 == 0 {
            story.correct(&mut journal, id).unwrap();
        }
        if n % 500 == 499 {
            story.learn(&store, &mut journal).unwrap();
            while store.head().unwrap().probation_left > 0 {
                story.start(&store, 1).unwrap();
            }
        }
    }
    assert_eq!(journal.state().segments().len(), 1);
    let mib = written(&story.disk.log()[before..]) as f64 / f64::from(1 << 20) / 3.0;
    println!("a day of 1,000 interactions of 3 KiB, 100 corrections, 2 trainings with their trials: {mib:.1} MiB");
    assert!(mib <= 25.0, "{mib:.1} MiB");
}
