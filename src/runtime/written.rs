//! How much a profile writes a day: memory cards wear out by it.
//!
//! Little is written to know it: a training keeps a small file of its own up to date. What interactions and feedback
//! wrote is told by where their records lie in the journal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::home::{keyed, profiles};
use super::{Home, Session, now_ms};
use crate::disk::{BytesWritten, Disk, RealDisk};
use crate::error::{Error, Result};
use crate::journal::{Journal, JournalState};
use crate::store::{DerivedFile, Store, profile_folder};
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

/// So much is written before it is noted: a process that is killed loses no more of it.
const NOTED_EVERY: u64 = 1 << 20;

/// Adds what a training writes until this is dropped to the trainings of the day. To be made and dropped with the
/// training lock held.
pub(super) struct TrainingWrites {
    file: DerivedFile,
    written: BytesWritten,
    noted: Mutex<u64>,
}

impl TrainingWrites {
    pub fn of(store: &Store) -> TrainingWrites {
        TrainingWrites { file: store.written(), written: store.count_training_writes(), noted: Mutex::new(0) }
    }

    /// After something was written.
    pub fn follow(&self) {
        self.note(NOTED_EVERY);
    }

    fn note(&self, least: u64) {
        let mut noted = lock(&self.noted);
        let bytes = self.written.bytes().saturating_sub(*noted);
        if bytes < least {
            return;
        }
        let mut trainings = Trainings::read(&self.file);
        trainings.add(now_ms() / DAY_MS, bytes);
        // A figure for people: a disk that does not take it loses nothing else.
        let kept = toml::to_string(&trainings).map(|text| self.file.keep(&text));
        if matches!(kept, Ok(Ok(()))) {
            *noted = noted.saturating_add(bytes);
        }
    }
}

impl Drop for TrainingWrites {
    fn drop(&mut self) {
        self.note(1);
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

/// What the profiles of a home wrote today, and what they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenToday {
    /// Bytes of all profiles together. A profile that cannot be read counts for nothing.
    pub bytes: u64,
    /// Bytes a day from which on a training in the background waits; none where nothing limits it.
    pub budget: Option<u64>,
}

impl WrittenToday {
    /// The budget, where it is used up for today.
    fn over_budget(&self) -> Option<u64> {
        self.budget.filter(|budget| self.bytes >= *budget)
    }
}

impl Home {
    internal! {
        /// What the profiles of the home in `path` wrote today. No model is loaded, and nothing is written.
        ///
        /// # Errors
        /// As [`Home::open`] where the settings or the key cannot be read.
        pub fn written_today(path: &Path) -> Result<WrittenToday> {
            today(path, &Config::read(&RealDisk, path)?)
        }
    }

    internal! {
        /// How much the home in `path` wrote today, and its budget, where that is used up. Where there is no budget, no
        /// journal is read.
        ///
        /// # Errors
        /// As [`Home::written_today`].
        pub fn over_write_budget(path: &Path) -> Result<Option<(u64, u64)>> {
            let config = Config::read(&RealDisk, path)?;
            if config.write_budget().is_none() {
                return Ok(None);
            }
            let today = today(path, &config)?;
            Ok(today.over_budget().map(|budget| (today.bytes, budget)))
        }
    }
}

/// What the profiles of a home with these settings wrote today.
fn today(path: &Path, config: &Config) -> Result<WrittenToday> {
    let key = config.key(&RealDisk, path, None)?;
    let of = |profile: &String| -> Result<u64> {
        let disk = keyed(Arc::new(RealDisk), key.as_ref(), profile);
        let store = Store::open(disk.clone(), &profile_folder(path, profile)?)?;
        let journal = store.journal_path();
        let state = Journal::load_state(&*disk, &journal)?;
        let days = by_day(&*disk, &journal, &state, &store.written(), 1, now_ms())?;
        Ok(days.first().map_or(0, WrittenDay::bytes))
    };
    let all = profiles(&RealDisk, path)?;
    let bytes = all.iter().map(|profile| of(profile).unwrap_or(0)).fold(0, u64::saturating_add);
    Ok(WrittenToday { bytes, budget: config.write_budget() })
}

/// Time that is left of the day of UTC.
pub fn rest_of_today() -> Duration {
    Duration::from_millis(DAY_MS - now_ms() % DAY_MS)
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
    use crate::disk::Disk;

    #[test]
    fn a_training_that_is_killed_loses_little_of_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(Arc::new(RealDisk), &folder.path().join("p")).unwrap();
        let noted = || Trainings::read(&store.written()).days.iter().map(|(_, bytes)| *bytes).sum::<u64>();
        let write = |name: &str, bytes: u64| {
            let file = RealDisk.create_new(&folder.path().join("p/generations").join(name)).unwrap();
            file.write_at(&vec![0; bytes as usize], 0).unwrap();
        };
        let writes = TrainingWrites::of(&store);
        write("a", 1000);
        writes.follow();
        assert_eq!(noted(), 0, "little is not worth a write");
        write("b", NOTED_EVERY);
        writes.follow();
        assert_eq!(noted(), 1000 + NOTED_EVERY);
        write("c", 500);
        writes.follow();
        // Killed: what the end of it notes is not there.
        let note = folder.path().join("p/written.toml");
        let before = std::fs::read(&note).unwrap();
        drop(writes);
        assert_eq!(noted(), 1500 + NOTED_EVERY);
        std::fs::write(&note, before).unwrap();
        let next = TrainingWrites::of(&store);
        write("d", 30);
        drop(next);
        assert_eq!(noted(), 1030 + NOTED_EVERY);
    }

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

    #[test]
    fn without_a_budget_no_journal_is_read() {
        use crate::runtime::InitOptions;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits_cnn.onnx");
        drop(Home::init(&path, &InitOptions::new(model)).unwrap().session("p").unwrap());
        let settings = std::fs::read_to_string(path.join("acclimate.toml")).unwrap();
        let with_budget = |bytes: u64| {
            std::fs::write(path.join("acclimate.toml"), format!("write_budget = {bytes}\n{settings}")).unwrap();
            Home::over_write_budget(&path)
        };
        let today = Home::written_today(&path).unwrap().bytes;
        assert!(with_budget(today + 1).unwrap().is_none());
        // What asks for the journals fails from here on.
        std::fs::remove_dir_all(path.join("profiles")).unwrap();
        std::fs::write(path.join("profiles"), b"").unwrap();
        assert!(with_budget(today + 1).is_err());
        assert!(with_budget(0).unwrap().is_none());
    }
}
