//! A profile from and to elsewhere: what it holds, and a new one that is there as a whole or not at all.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::head::{self, Head, TRIES};
use super::{PROBATION, Store, WriterLock};
use crate::adapter::Fingerprint;
use crate::adapter::file::{AdapterFile, stage_bytes};
use crate::disk::fault_injection::{Bug, planted};
use crate::disk::seal_file;
use crate::disk::{Bytes, Disk, folder_of, make_folder};
use crate::error::{Error, Result};
use crate::journal::salvage::survey;
use crate::journal::{Journal, Record};

/// How long another import into the same home is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// Start of the name of a folder in which a profile is being made. No profile's name begins with a dot.
const UNFINISHED: &str = ".incoming-";

/// Which generations a profile has, and which of them serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The one that serves; 0 is the base model.
    pub current: u64,
    /// Where a roll back goes.
    pub previous: u64,
    /// Highest number ever used.
    pub highest: u64,
    /// Predictions until the one that serves is trusted.
    pub probation_left: u32,
    /// Those that have a file, increasing.
    pub generations: Vec<u64>,
}

impl Contents {
    /// Of a profile that has learned nothing: the base model serves.
    pub fn none() -> Contents {
        Contents { current: 0, previous: 0, highest: 0, probation_left: 0, generations: vec![] }
    }

    fn is_sound(&self) -> bool {
        let has = |number: u64| number == 0 || self.generations.binary_search(&number).is_ok();
        has(self.current)
            && self.probation_left <= PROBATION
            && self.generations.is_sorted_by(|a, b| a < b)
            && self.generations.first().is_none_or(|first| *first > 0)
            && self.generations.last().is_none_or(|last| *last <= self.highest)
    }
}

impl Store {
    /// What there is to take elsewhere. To be called with the training lock held.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn contents(&self) -> Result<Contents> {
        let head = self.head()?;
        let generations = self.generations.numbers(&*self.disk)?;
        let Head { current, previous, highest, probation_left, .. } = head;
        Ok(Contents { current, previous, highest, probation_left, generations })
    }

    /// The records of the journal, oldest first.
    ///
    /// # Errors
    /// `BadData`, `Io`; also of each record.
    pub fn records(&self) -> Result<impl Iterator<Item = Result<Record>> + use<>> {
        Journal::read(&*self.disk, &self.journal_path())
    }
}

/// A profile that is being made of what comes from elsewhere, in a folder of its own. Removed when it is dropped before
/// [`Incoming::publish`].
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    folder: PathBuf,
    published: bool,
    _held: WriterLock,
}

impl Incoming {
    /// Begins with an empty profile that is to be `folder`.
    ///
    /// # Errors
    /// `Usage` if there is such a profile, `Busy` while another one is made, `Io`.
    pub fn begin(disk: Arc<dyn Disk>, folder: &Path) -> Result<Incoming> {
        absent(&*disk, folder)?;
        let profiles = folder_of(folder);
        make_folder(&*disk, profiles)?;
        let held = WriterLock::acquire(&*disk, &profiles.join(".incoming.lock"), WAIT, "importing")?;
        let io = |e| Error::io("cannot list the profiles", profiles, e);
        for left in disk.list(profiles).map_err(io)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let left = profiles.join(left);
            disk.remove_all(&left).map_err(|e| Error::io("cannot remove an unfinished profile", &left, e))?;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let store = Store::at(disk, &profiles.join(format!("{UNFINISHED}{name}")));
        let incoming = Incoming { store, folder: folder.to_owned(), published: false, _held: held };
        for folder in [&incoming.store.folder, &incoming.store.generations.folder] {
            make_folder(&*incoming.store.disk, folder)?;
        }
        Ok(incoming)
    }

    /// Makes its journal of the records that `next` gives until `None`; no id below `next_id` is given out again.
    ///
    /// # Errors
    /// `BadData` if the records do not make a journal, what `next` says, `Io`.
    pub fn journal(&self, next_id: u32, now_ms: u64, next: impl FnMut() -> Result<Option<Record>>) -> Result<()> {
        Journal::write(&*self.store.disk, &self.store.journal_path(), next_id, now_ms, next)?;
        self.sound_journal()
    }

    /// [`Incoming::journal`] of the records that `fill` hands on.
    ///
    /// # Errors
    /// As [`Incoming::journal`].
    pub fn journal_of(
        &self,
        next_id: u32,
        now_ms: u64,
        fill: impl FnOnce(&mut dyn FnMut(&Record) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        Journal::write_all(&*self.store.disk, &self.store.journal_path(), next_id, now_ms, fill)?;
        self.sound_journal()
    }

    fn sound_journal(&self) -> Result<()> {
        let path = self.store.journal_path();
        match survey(&*self.store.disk, &path)?.is_sound() {
            true => Ok(()),
            false => Err(Error::bad_data("these records do not make a journal")),
        }
    }

    /// Adds the generation `number`, whose adapter file has these bytes.
    ///
    /// # Errors
    /// `BadData` if they are no adapter, a damaged one, or one of another base; `Io`.
    pub fn generation(&self, number: u64, bytes: &[u8], base: &Fingerprint) -> Result<()> {
        let path = self.store.generations.path(number);
        let adapter = AdapterFile::of_bytes(&path, Bytes::copy_of(bytes))?;
        adapter.fits(base)?;
        let sealed = seal_file(&*self.store.disk, &path, bytes.to_vec())?;
        stage_bytes(&*self.store.disk, &path, &sealed)?.publish(&path)
    }

    /// Gives it its name; the active generation.
    ///
    /// # Errors
    /// `BadData` if `contents` are not what is there; `Usage` if there is such a profile by now; `Io`.
    pub fn publish(mut self, contents: &Contents) -> Result<u64> {
        let disk = &*self.store.disk;
        if !contents.is_sound() || self.store.generations.numbers(disk)? != contents.generations {
            return Err(Error::bad_data("the list of generations is not that of the generations"));
        }
        let Contents { current, highest, probation_left, .. } = *contents;
        let previous = if contents.generations.contains(&contents.previous) { contents.previous } else { 0 };
        let head =
            Head { sequence: 1, current, previous, highest, probation_left, tries_left: TRIES, rolled_back: None };
        head::replace(disk, &self.store.head_path(), &head)?;
        let io = |e| Error::io("cannot name the profile", &self.folder, e);
        disk.rename_new(&self.store.folder, &self.folder).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => exists(&self.folder),
            _ => io(e),
        })?;
        self.published = true;
        if !planted(Bug::ImportNotSynced) {
            disk.sync_dir(folder_of(&self.folder)).map_err(io)?;
        }
        Ok(current)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.store.disk.remove_all(&self.store.folder);
        }
    }
}

fn absent(disk: &dyn Disk, folder: &Path) -> Result<()> {
    match disk.exists(folder) {
        Ok(false) => Ok(()),
        Ok(true) => Err(exists(folder)),
        Err(e) => Err(Error::io("cannot look for the profile", folder, e)),
    }
}

fn exists(folder: &Path) -> Error {
    Error::usage("there is such a profile already")
        .at(folder.display())
        .hint("give another name with --profile; nothing is ever overwritten")
}
