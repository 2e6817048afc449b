//! Checks everything that a profile stores, and repairs what can be repaired. Nothing is deleted: what cannot be used is copied
//! into the quarantine before anything takes its place.

use std::path::Path;
use std::time::Duration;

use super::head::{self, Cause, Head, TRIES};
use super::{PROBATION, Store, WriterLock};
use crate::adapter::Fingerprint;
use crate::disk::{StagedFile, UNFINISHED, make_folder};
use crate::error::{Error, Result};
use crate::journal::salvage::{Survey, is_headless, salvage, stand_in, survey};

/// How long a training is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// What is the matter with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing.
    Sound,
    /// What an interrupted program left; nobody was told that it is there. The next training cleans it up.
    Leftover,
    /// Something that was acknowledged is not there, or not as it was.
    Damaged,
}

impl State {
    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            State::Sound => "sound",
            State::Leftover => "leftover",
            State::Damaged => "damaged",
        }
    }
}

/// One file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its path.
    pub file: String,
    /// What is the matter with it.
    pub state: State,
    /// In words.
    pub what: String,
}

impl Finding {
    /// A finding about `file`.
    pub fn new(file: &Path, state: State, what: impl Into<String>) -> Finding {
        Finding { file: file.display().to_string(), state, what: what.into() }
    }

    /// What a check of `file` returned; the words for success, or an error. What cannot be read is damaged, too, and the other
    /// files are looked at all the same.
    pub fn of(file: &Path, checked: Result<String>) -> Finding {
        match checked {
            Ok(what) => Finding::new(file, State::Sound, what),
            Err(e) => Finding::new(file, State::Damaged, e.to_string()),
        }
    }
}

/// One thing that `repair` did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// The file.
    pub file: String,
    /// What was done, in words.
    pub what: String,
    /// Where the file as it was is kept; empty if it was not there, or nothing of it was taken away.
    pub quarantined: String,
}

impl Store {
    /// Handle on a profile's folder, whatever is in it.
    pub(crate) fn unchecked(disk: std::sync::Arc<dyn crate::disk::Disk>, folder: &Path) -> Store {
        Store::at(disk, folder)
    }

    /// Looks at everything that the profile stores; changes nothing.
    ///
    /// # Errors
    /// `Io` if a file cannot be read.
    pub fn verify(&self, base: &Fingerprint) -> Result<Vec<Finding>> {
        let disk = &*self.disk;
        let mut findings = vec![self.check_head()?];
        for number in self.generations.numbers(disk)? {
            let path = self.generations.path(number);
            let opened = self.open_generation(number, Some(base));
            let mut finding = Finding::of(&path, opened.map(|g| format!("{} bytes", g.file_bytes())));
            let highest = head::read_whole(disk, &self.head_path()).ok().flatten().map(|head| head.highest);
            if highest.is_some_and(|highest| number > highest) {
                (finding.state, finding.what) = (State::Leftover, "a generation that was never committed".into());
            }
            findings.push(finding);
        }
        findings.extend(self.check_journal()?);
        findings.extend(self.checkpoint().findings()?);
        findings.extend(self.choice().finding()?);
        findings.extend(self.doubts().finding()?);
        findings.extend(self.attempt().finding()?);
        findings.extend(self.written().finding()?);
        for folder in [&self.folder, &self.generations.folder] {
            let names = match disk.list(folder) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
                other => other.map_err(|e| Error::io("cannot list a folder", folder, e))?,
            };
            let unfinished = names.iter().filter(|name| name.ends_with(UNFINISHED));
            findings.extend(unfinished.map(|n| Finding::new(&folder.join(n), State::Leftover, "an unfinished file")));
        }
        Ok(findings)
    }

    fn is_without_head(&self) -> Result<bool> {
        let path = self.head_path();
        self.disk.exists(&path).map(|there| !there).map_err(|e| Error::io("cannot look for the head", &path, e))
    }

    /// Whether the making of the profile was cut off: nothing has been stored in it.
    pub(crate) fn is_unmade(&self) -> Result<bool> {
        let path = self.journal_path();
        let journal = self.disk.exists(&path).map_err(|e| Error::io("cannot look for the journal", &path, e))?;
        Ok(self.is_without_head()? && !journal && self.generations.numbers(&*self.disk)?.is_empty())
    }

    fn check_head(&self) -> Result<Finding> {
        let (disk, path) = (&*self.disk, self.head_path());
        let whole = head::read_whole(disk, &path).map(|whole| whole.is_some());
        if self.is_without_head()? {
            return Ok(Finding::new(&path, State::Damaged, "the head, which says the active generation, is gone"));
        }
        let mut finding = Finding::of(&path, self.head().map(|head| format!("generation {} serves", head.current)));
        if let Ok(head) = self.head() {
            if head.current != 0 && !self.generations.exists(disk, head.current)? {
                (finding.state, finding.what) =
                    (State::Damaged, format!("generation {} serves and has no file", head.current));
            } else if !whole? {
                (finding.state, finding.what) =
                    (State::Leftover, "one of its two slots is torn; the other counts".into());
            }
        }
        Ok(finding)
    }

    /// The journal as one finding, and the files that a cut off rewrite of it left.
    fn check_journal(&self) -> Result<Vec<Finding>> {
        let found = match self.survey_journal() {
            Err(e) if e.kind() == crate::ErrorKind::NoKey => return Err(e),
            Err(e) => return Ok(vec![Finding::of(&self.journal_path(), Err(e))]),
            Ok(found) => found,
        };
        let Some(found) = found else {
            let (state, what) = match self.head().map_or(0, |head| head.highest) {
                _ if is_headless(&*self.disk, &self.journal_path())? => {
                    (State::Damaged, "the file that lists its segments is gone")
                }
                0 => (State::Sound, "none yet"),
                _ => (State::Damaged, "it is gone, and with it what the generations learned from"),
            };
            return Ok(vec![Finding::new(&self.journal_path(), state, what)]);
        };
        let state = match found.is_sound() {
            true if found.torn > 0 => State::Leftover,
            true => State::Sound,
            false => State::Damaged,
        };
        let path = self.journal_path();
        let mut findings = vec![Finding::new(&path, state, journal_words(&found, &path))];
        let stray = |file| Finding::new(file, State::Leftover, "a segment that the journal does not name");
        findings.extend(found.stray.iter().map(|file| stray(file)));
        Ok(findings)
    }

    fn survey_journal(&self) -> Result<Option<Survey>> {
        let path = self.journal_path();
        let there = self.disk.exists(&path).map_err(|e| Error::io("cannot look for the journal", &path, e))?;
        if there { survey(&*self.disk, &path).map(Some) } else { Ok(None) }
    }

    /// Repairs what can be repaired. Keeps all generations and records that are whole; the others are in the quarantine.
    ///
    /// # Errors
    /// `Busy` while the profile is trained, `Io`.
    pub fn repair(&self, base: &Fingerprint, now_ms: u64) -> Result<Vec<Repair>> {
        let disk = &*self.disk;
        // Without cleaning up: a repair removes nothing.
        let _training = WriterLock::acquire(disk, &self.folder.join("train.lock"), WAIT, "repairing")?;
        let mut done = vec![];
        let damaged = |number: &u64| {
            self.open_generation(*number, Some(base))
                .is_err_and(|e| !matches!(e.kind(), crate::ErrorKind::Io | crate::ErrorKind::NoKey))
        };
        let bad: Vec<u64> = self.generations.numbers(disk)?.into_iter().filter(damaged).collect();
        if self.is_without_head()? || self.head().is_err_and(|e| e.kind() != crate::ErrorKind::Io) {
            done.push(self.repair_head(&bad, now_ms)?);
        }
        // What an active generation cannot be used for, the one before it can.
        let head = self.head()?;
        if head.current != 0 && (bad.contains(&head.current) || !self.generations.exists(disk, head.current)?) {
            let serves = self.roll_back_automatically(head.current, Cause::Unusable)?;
            if !bad.contains(&head.current) {
                let what = format!("generation {} is gone: generation {serves} serves", head.current);
                done.push(repair(&self.head_path(), what, String::new()));
            }
        }
        for number in bad {
            let path = self.generations.path(number);
            let quarantined = self.quarantine(&path, now_ms)?;
            self.generations.remove(disk, &[number])?;
            done.push(repair(&path, format!("generation {number} cannot be used"), quarantined));
        }
        let path = self.journal_path();
        if is_headless(disk, &path)? || self.survey_journal()?.is_some_and(|found| !found.is_sound()) {
            let _short = self.lock_short("repairing the journal")?;
            if is_headless(disk, &path)? {
                stand_in(disk, &path)?;
            }
            // Asked again, since nobody can write any more.
            let found = survey(disk, &path)?;
            if !found.is_sound() {
                done.push(self.repair_journal(&path, &found, now_ms)?);
            }
        }
        Ok(done)
    }

    /// A journal of what can be kept. Every file in which something else stands goes into the quarantine first, and the growing one.
    /// To be called with the short lock held.
    fn repair_journal(&self, path: &Path, found: &Survey, now_ms: u64) -> Result<Repair> {
        let disk = &*self.disk;
        let damaged = found.damaged.iter().map(|d| &*d.file);
        let mut files: Vec<&Path> = damaged.chain(found.orphans.iter().map(|file| &**file)).chain([path]).collect();
        files.sort_unstable();
        files.dedup();
        let mut quarantined = String::new();
        for file in files.into_iter().chain(found.stray.iter().map(|file| &**file)) {
            if disk.exists(file).map_err(|e| Error::io("cannot look for a file", file, e))? {
                quarantined = self.quarantine(file, now_ms)?;
            }
        }
        let found = salvage(disk, path)?;
        Ok(repair(path, journal_words(&found, path), quarantined))
    }

    /// A new head in the place of one of which nothing is left: the newest generation that can be used serves, on probation again.
    fn repair_head(&self, bad: &[u64], now_ms: u64) -> Result<Repair> {
        let (disk, path) = (&*self.disk, self.head_path());
        let _short = self.lock_short("repairing the head")?;
        let quarantined = if self.is_without_head()? { String::new() } else { self.quarantine(&path, now_ms)? };
        let numbers = self.generations.numbers(disk)?;
        let current = numbers.iter().rev().find(|n| !bad.contains(n)).copied().unwrap_or(0);
        let previous = self.previous_of(current, |n| !bad.contains(&n));
        let highest = numbers.last().copied().unwrap_or(0);
        let probation_left = if current == 0 { 0 } else { PROBATION };
        let head =
            Head { sequence: 1, current, previous, highest, probation_left, tries_left: TRIES, rolled_back: None };
        head::replace(disk, &path, &head)?;
        Ok(repair(&path, format!("generation {current} serves: the newest that can be used"), quarantined))
    }

    /// A copy of `file` in the quarantine, on storage when this returns; its path.
    fn quarantine(&self, file: &Path, now_ms: u64) -> Result<String> {
        let (disk, folder) = (&*self.disk, self.quarantine_path());
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        make_folder(disk, &folder)?;
        let free = (now_ms..).map(|ms| folder.join(format!("{name}.{ms}")));
        let Some(place) = free.take(1000).find(|place| disk.exists(place).is_ok_and(|there| !there)) else {
            return Err(Error::usage("the quarantine is full").at(folder.display()).hint("move its files away"));
        };
        StagedFile::copy(disk, &folder, file)?.publish(&place)?;
        Ok(place.display().to_string())
    }
}

fn repair(file: &Path, what: String, quarantined: String) -> Repair {
    Repair { file: file.display().to_string(), what, quarantined }
}

/// `2 places`, `1 place`.
fn counted(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

fn journal_words(found: &Survey, path: &Path) -> String {
    let mut words = counted(found.kept, "record");
    if !found.header {
        words += ", a damaged header";
    }
    if let Some(first) = found.damaged.first() {
        let bytes = counted(found.damaged.iter().map(|d| d.bytes).sum(), "damaged byte");
        words += &format!(
            ", {bytes} in {}, the first at byte {}",
            counted(found.damaged.len() as u64, "place"),
            first.offset
        );
        if first.file != path {
            words += &format!(" of {}", first.file.display());
        }
    }
    let about_lost = found.orphaned.saturating_add(found.mended);
    if about_lost > 0 {
        words += &format!(", {} about what is lost", counted(about_lost, "record"));
    }
    if found.torn > 0 {
        words += &format!(", {} of a write that was cut off", counted(found.torn, "byte"));
    }
    words
}
