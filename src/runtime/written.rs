//! How much a profile writes a day: memory cards wear out by it.
//!
//! Nothing is written to know it but what a training adds to the files that it writes anyway. What interactions and
//! feedback wrote is told by where their records lie in the journal.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Home, Session, now_ms};
use crate::disk::{Disk, bytes_written};
use crate::error::{Error, Result};
use crate::journal::JournalState;
use crate::store::{DerivedFile, Store};
use crate::sync::lock;

/// Days that are told of, and kept of trainings.
const DAYS: u64 = 7;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What was written on a day of UTC, in bytes of files; what the file system adds is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WrittenDay {
    /// Its first moment.
    pub start_ms: u64,
    /// Records of interactions and feedback.
    pub records: u64,
    /// Trainings: checkpoints, and the generations that they made.
    pub trainings: u64,
}

impl WrittenDay {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.records.saturating_add(self.trainings)
    }
}

/// What trainings wrote, by days since 1970.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Trainings {
    #[serde(default)]
    days: Vec<(u64, u64)>,
}

impl Trainings {
    /// What cannot be read is forgotten: it is worth no error.
    fn read(file: &DerivedFile) -> Trainings {
        file.text().ok().flatten().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    fn add(&mut self, day: u64, bytes: u64) {
        match self.days.iter_mut().find(|(other, _)| *other == day) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.days.push((day, bytes)),
        }
        self.days.sort_unstable();
        while self.days.len() > DAYS as usize {
            // Days to come were noted by a clock that was ahead.
            let ahead = self.days.iter().rposition(|(other, _)| *other > day);
            self.days.remove(ahead.unwrap_or(0));
        }
    }
}

/// Adds what is written until it is dropped to the trainings of the day. To be made and dropped with the training lock
/// held.
pub(super) struct TrainingWrites {
    file: DerivedFile,
    before: u64,
}

impl TrainingWrites {
    pub fn of(store: &Store) -> TrainingWrites {
        TrainingWrites { file: store.written(), before: bytes_written() }
    }
}

impl Drop for TrainingWrites {
    fn drop(&mut self) {
        let bytes = bytes_written().saturating_sub(self.before);
        if bytes == 0 {
            return;
        }
        let mut trainings = Trainings::read(&self.file);
        trainings.add(now_ms() / DAY_MS, bytes);
        // A figure for people: a disk that does not take it loses nothing else.
        let _ = toml::to_string(&trainings).map(|text| self.file.keep(&text));
    }
}

/// The last `days` days until that of `now_ms`, the last one first.
pub(super) fn by_day(
    disk: &dyn Disk,
    journal: &Path,
    state: &JournalState,
    trainings: &DerivedFile,
    days: u64,
    now_ms: u64,
) -> Result<Vec<WrittenDay>> {
    let today = now_ms / DAY_MS;
    let first = (today + 1).saturating_sub(days.max(1));
    let length = disk.open_read(journal).and_then(|file| file.len());
    let mut later = length.map_err(|e| Error::io("cannot look at the journal", journal, e))?;
    let mut records: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in state.all_interactions().rev() {
        let entry = entry?;
        let day = entry.at_ms / DAY_MS;
        if day < first {
            break;
        }
        // The last record of a segment has none behind it.
        *records.entry(day).or_default() += later.saturating_sub(entry.offset);
        later = entry.offset;
    }
    let trainings = Trainings::read(trainings);
    let of = |day: u64| WrittenDay {
        start_ms: day * DAY_MS,
        records: records.get(&day).copied().unwrap_or(0),
        trainings: trainings.days.iter().find(|(other, _)| *other == day).map_or(0, |(_, bytes)| *bytes),
    };
    Ok((first..=today).rev().map(of).collect())
}

impl Home {
    internal! {
        /// Bytes a day from which on a training in the background waits; none where nothing limits it.
        pub fn write_budget(&self) -> Option<u64> {
            self.config().write_budget()
        }
    }
}

impl Session {
    internal! {
        /// What this profile wrote in the last seven days, today first.
        ///
        /// # Errors
        /// [`ErrorKind::Busy`](crate::ErrorKind::Busy), [`ErrorKind::BadData`](crate::ErrorKind::BadData),
        /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the journal cannot be read.
        pub fn written(&self) -> Result<Vec<WrittenDay>> {
            let mut journal = lock(&self.journal);
            journal.refresh()?;
            let disk = self.home().profile_disk(&self.profile());
            by_day(&*disk, &self.store.journal_path(), journal.state(), &self.store.written(), DAYS, now_ms())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainings_of_a_day_add_up_and_old_days_go() {
        let mut trainings = Trainings::default();
        for day in [9, 3, 9, 4, 5, 6, 7, 8, 10] {
            trainings.add(day, 100);
        }
        let text = toml::to_string(&trainings).unwrap();
        let again: Trainings = toml::from_str(&text).unwrap();
        assert_eq!(again.days, [(4, 100), (5, 100), (6, 100), (7, 100), (8, 100), (9, 200), (10, 100)]);
        trainings.add(2, 50);
        assert_eq!((trainings.days[0], trainings.days.last()), ((2, 50), Some(&(9, 200))), "the clock was set back");
    }
}
