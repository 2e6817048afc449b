//! A profile on disk: its generations, which of them serves, and its locks; see `docs/store.md`.

pub mod check;
pub mod checkpoint;
mod derived;
pub mod forget;
pub mod generations;
pub mod head;
mod probation;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use crate::disk::lock::WriterLock;
pub use check::{Finding, Repair, State};
pub use checkpoint::{Checkpoint, Cut, Run};
pub use derived::DerivedFile;
pub use forget::{Forgotten, Selection};
pub use generations::GenerationInfo;
pub use head::{Cause, Head, RolledBack, TRIES};
pub use probation::{Probation, end_tries};
pub use transfer::{Contents, Incoming};

use crate::adapter::file::{AdapterFile, stage_adapter};
use crate::adapter::{Adapter, Fingerprint};
use crate::disk::fault_injection::{Bug, planted};
use crate::disk::{BytesWritten, Disk, FileAccess, folder_of, make_folder, sweep_unfinished};
use crate::error::{Error, ErrorKind, Result};
use generations::Generations;

/// Generations kept on disk unless told otherwise.
pub const DEFAULT_LIMIT: usize = 16;
/// Predictions that a new generation is on probation for.
pub const PROBATION: u32 = 20;
/// How long the short lock is waited for unless told otherwise.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(5);
const LONGEST_NAME: usize = 64;

/// The generations of one profile. Cheap; all state is on disk, so that several handles and processes agree.
#[derive(Debug, Clone)]
pub struct Store {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    generations: Generations,
    limit: usize,
    wait: Duration,
    /// Sequence number of the last head that was made durable here; 0 for none.
    flushed: Arc<AtomicU64>,
}

/// Folder of profile `name` in a home.
///
/// # Errors
/// `Usage` if the name is not 1 to 64 letters, digits, `-`, `_` or `.`, or starts with `.` or `-`.
pub fn profile_folder(home: &Path, name: &str) -> Result<PathBuf> {
    let allowed = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !allowed || name.is_empty() || name.len() > LONGEST_NAME || name.starts_with(['.', '-']) {
        return Err(Error::usage(format!("{name:?} cannot be the name of a profile"))
            .hint("use 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit"));
    }
    Ok(home.join("profiles").join(name))
}

impl Store {
    fn at(disk: Arc<dyn Disk>, folder: &Path) -> Store {
        let generations = Generations { folder: folder.join("generations") };
        Store {
            disk,
            folder: folder.to_owned(),
            generations,
            limit: DEFAULT_LIMIT,
            wait: DEFAULT_WAIT,
            flushed: Arc::default(),
        }
    }

    /// Opens a profile's folder.
    ///
    /// # Errors
    /// `Usage` if there is none, `BadData` if its head is damaged, `Io`.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<Store> {
        let store = Store::at(disk, folder);
        let head = store.head_path();
        if !store.disk.exists(&head).map_err(|e| Error::io("cannot look for a profile", &head, e))? {
            return Err(Error::usage("there is no such profile").at(folder.display()).hint("check its name"));
        }
        store.head()?;
        Ok(store)
    }

    /// Opens a profile's folder, making what is missing of it. Its generation is the base at first.
    ///
    /// # Errors
    /// `BadData` if its head is damaged, `Busy`, `Io`.
    pub fn create(disk: Arc<dyn Disk>, folder: &Path) -> Result<Store> {
        let store = Store::at(disk, folder);
        let disk = &*store.disk;
        let head = store.head_path();
        let is_made = || disk.exists(&head).map_err(|e| Error::io("cannot look for a profile", &head, e));
        // The head comes last: where it is, all names above it are durable.
        if !is_made()? {
            for folder in [folder_of(folder), folder, &store.generations.folder] {
                make_folder(disk, folder)?;
            }
            let _held = store.lock_short("making the profile")?;
            if !is_made()? {
                if !store.generations.numbers(disk)?.is_empty() {
                    return Err(Error::bad_data("the head, which says the active generation, is gone")
                        .at(head.display())
                        .hint("the generations are untouched: `acclimate repair` makes a new head for them"));
                }
                head::create(disk, &head, 0)?;
            }
        }
        store.head()?;
        Ok(store)
    }

    /// Keeps at most `limit` generations on disk; the current and the previous one in any case.
    #[must_use]
    pub fn keeping(self, limit: usize) -> Store {
        Store { limit, ..self }
    }
    /// Waits at most `wait` for the short lock.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Store {
        Store { wait, ..self }
    }

    /// The profile's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
    /// The profile's journal.
    pub fn journal_path(&self) -> PathBuf {
        self.folder.join("journal.log")
    }
    /// The short lock: appends and head flips.
    pub fn journal_lock_path(&self) -> PathBuf {
        self.folder.join("journal.lock")
    }
    /// Where a training that was cut off stands.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.disk.clone(), &self.folder)
    }
    /// What the last training within limits chose.
    pub fn choice(&self) -> DerivedFile {
        DerivedFile::choice(self.disk.clone(), &self.folder)
    }
    /// Which feedback the last training doubts.
    pub fn doubts(&self) -> DerivedFile {
        DerivedFile::doubts(self.disk.clone(), &self.folder)
    }
    /// How much trainings wrote in the last days.
    pub fn written(&self) -> DerivedFile {
        DerivedFile::written(self.disk.clone(), &self.folder)
    }
    /// Counts from now on what this process writes to checkpoints and generations.
    pub fn count_training_writes(&self) -> BytesWritten {
        BytesWritten::to([self.checkpoint().folder().to_owned(), self.generations.folder.clone()])
    }
    /// That a training in the background runs.
    pub fn attempt(&self) -> DerivedFile {
        DerivedFile::attempt(self.disk.clone(), &self.folder)
    }
    fn head_path(&self) -> PathBuf {
        self.folder.join("head")
    }

    fn lock_short(&self, purpose: &str) -> Result<WriterLock> {
        WriterLock::acquire(&*self.disk, &self.journal_lock_path(), self.wait, purpose)
    }

    /// Takes the training lock, to be held while a generation is made and committed.
    ///
    /// # Errors
    /// `Busy`, naming the holder; `Io`.
    pub fn lock_training(&self, wait: Duration, purpose: &str) -> Result<WriterLock> {
        let held = WriterLock::acquire(&*self.disk, &self.folder.join("train.lock"), wait, purpose)?;
        let there = self.disk.exists(&self.generations.folder);
        if !there.map_err(|e| Error::io("cannot look for a folder", &self.generations.folder, e))? {
            make_folder(&*self.disk, &self.generations.folder)?;
        }
        let highest = head::read_whole(&*self.disk, &self.head_path())?.map(|head| head.highest);
        self.generations.sweep(&*self.disk, highest)?;
        self.checkpoint().sweep()?;
        // The short lock, too: the journal's and the head's new files are written under it alone.
        let _short = self.lock_short("cleaning up")?;
        sweep_unfinished(&*self.disk, &self.folder)?;
        Ok(held)
    }

    /// Whether a training could begin now.
    ///
    /// # Errors
    /// `Busy`, naming the holder of the lock; `Io`.
    pub fn training_may_begin(&self) -> Result<()> {
        let lock = self.folder.join("train.lock");
        WriterLock::acquire(&*self.disk, &lock, Duration::ZERO, "looking").map(drop)
    }

    /// What the head says now.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn head(&self) -> Result<Head> {
        head::read(&*self.disk, &self.head_path())
    }

    /// The active generation; 0 is the base model.
    ///
    /// # Errors
    /// `BadData`, `Io`.
    pub fn current(&self) -> Result<u64> {
        self.head().map(|head| head.current)
    }

    /// Makes `adapter` the current generation, on probation; its number. To be called with the training lock held.
    ///
    /// # Errors
    /// `Busy` if another generation serves than `lineage.parent`; `BadData` if the adapter is not valid; `Io`. The old
    /// generation serves on then.
    pub fn commit(&self, adapter: &Adapter) -> Result<u64> {
        let disk = &*self.disk;
        let parent = adapter.lineage.parent;
        let still = |current: u64| match current == parent {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Busy,
                format!("generation {current} serves now, not {parent}, which this adapter was trained on"),
            )
            .at(self.folder.display())
            .hint("train again")),
        };
        let next = |head: &Head| {
            let on_disk = self.generations.numbers(disk)?.last().copied().unwrap_or(0);
            let highest = if planted(Bug::NumberReused) { on_disk } else { head.highest.max(on_disk) };
            highest.checked_add(1).ok_or_else(|| Error::usage("no generation numbers left"))
        };
        let head = self.head()?;
        still(head.current)?;
        // Nobody else uses up a number while the training lock is held.
        let number = next(&head)?;
        let path = self.generations.path(number);
        let mut staged = stage_adapter(disk, &path, adapter)?;
        // The slow part, before anybody has to wait for the lock.
        staged.sync()?;
        let _held = self.lock_short("committing a generation")?;
        let before = self.head()?;
        still(before.current)?;
        if next(&before)? != number {
            return Err(Error::new(ErrorKind::Busy, format!("another generation {number} was made meanwhile"))
                .at(self.folder.display())
                .hint("train again"));
        }
        let flip = || {
            head::flip(disk, &self.head_path(), |h| {
                let (current, previous, highest) = (number, h.current, number);
                Ok(Head {
                    current,
                    previous,
                    highest,
                    probation_left: PROBATION,
                    tries_left: TRIES,
                    rolled_back: None,
                    ..h
                })
            })
        };
        let named = match planted(Bug::FlippedBeforeNamed) {
            true => flip().and_then(|head| staged.publish(&path).map(|()| head)),
            false => staged.publish(&path).and_then(|()| flip()),
        };
        match named {
            // The commit stands; what could not be removed now goes with the next one.
            Ok(head) => drop(self.generations.prune(disk, &head, self.limit)),
            Err(e) => {
                // Only if the head surely does not name it.
                if self.current().is_ok_and(|current| current != number) {
                    let _ = disk.remove(&path);
                }
                return Err(e);
            }
        }
        Ok(number)
    }

    /// Makes an earlier generation (or, by number, a later one that was rolled back over) the current one: `to`, or else the
    /// one that served before. The active generation now.
    ///
    /// # Errors
    /// `Usage` if there is nothing to roll back to, `BadData` if the target's file is damaged, `Busy`, `Io`. Nothing changes then.
    pub fn rollback(&self, to: Option<u64>) -> Result<u64> {
        let disk = &*self.disk;
        let _held = self.lock_short("rolling back")?;
        let head = self.head()?;
        let target = match to {
            None if head.current == 0 => {
                return Err(
                    Error::usage("nothing to roll back: the base model serves already").at(self.folder.display())
                );
            }
            None => head.previous,
            Some(to) if to == head.current => {
                return Err(Error::usage(format!("generation {to} serves already")).at(self.folder.display()));
            }
            Some(to) => to,
        };
        if target != 0 {
            self.open_generation(target, None)?;
        }
        let previous = self.previous_of(target, |_| true);
        let change = |h| Ok(Head { current: target, previous, probation_left: 0, rolled_back: None, ..h });
        head::flip(disk, &self.head_path(), change)?;
        Ok(target)
    }

    /// Where a roll back from `generation` goes, among those accepted.
    fn previous_of(&self, generation: u64, accept: impl Fn(u64) -> bool) -> u64 {
        if generation == 0 { 0 } else { self.generations.ancestor(&*self.disk, generation, accept) }
    }

    /// The generations on disk, oldest first.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Io`; a damaged generation is an entry with an error.
    pub fn list(&self) -> Result<Vec<GenerationInfo>> {
        let head = self.head()?;
        let info = |number| GenerationInfo {
            number,
            current: number == head.current,
            previous: number == head.previous,
            rolled_back: head.rolled_back.filter(|t| t.generation == number).map(|t| t.cause),
            header: crate::adapter::file::read_header(&*self.disk, &self.generations.path(number)),
        };
        Ok(self.generations.numbers(&*self.disk)?.into_iter().map(info).collect())
    }

    /// A generation and those that it descends from, as far as their files are there; nothing for the base model.
    pub fn line(&self, generation: u64) -> Vec<u64> {
        let parent = |&child: &u64| match self.generations.ancestor(&*self.disk, child, |_| true) {
            0 => None,
            parent => Some(parent),
        };
        std::iter::successors((generation != 0).then_some(generation), parent).collect()
    }

    /// Loads a generation, verified in full; with `base`, one that fits that base.
    ///
    /// # Errors
    /// `Usage` if there is none of that number, `BadData`, `Io`.
    pub fn open_generation(&self, number: u64, base: Option<&Fingerprint>) -> Result<AdapterFile> {
        self.open_generation_as(number, base, FileAccess::Read)
    }

    /// As [`Store::open_generation`], mapped or read.
    ///
    /// # Errors
    /// As [`Store::open_generation`].
    pub fn open_generation_as(
        &self,
        number: u64,
        base: Option<&Fingerprint>,
        access: FileAccess,
    ) -> Result<AdapterFile> {
        if !self.generations.exists(&*self.disk, number)? {
            let what = match number {
                0 => "generation 0 is the base model and has no adapter".into(),
                _ => format!("there is no generation {number} on disk"),
            };
            return Err(Error::usage(what).at(self.folder.display()).hint("see history for those that are there"));
        }
        AdapterFile::open_as(&*self.disk, &self.generations.path(number), base, access)
    }
}

#[cfg(test)]
mod tests;
