//! Where a training that was cut off stands: the files from which the next one goes on. See *A training that is cut off* in
//! `docs/store.md`.
//!
//! A checkpoint is worth time, not data. One that is damaged, or of another training, is as good as none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::{Finding, State};
use crate::disk::{Disk, StagedFile, UNFINISHED, make_folder, read_file, sweep_unfinished};
use crate::disk::{open_file, seal_file};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{InteractionId, JournalState};

const MAGIC: [u8; 8] = *b"ACCLCKPT";
const VERSION: u32 = 1;
/// Magic, version, zeros, name, length of the payload.
const START: usize = 56;
const HASH: usize = 32;
/// Largest file that is read.
const LONGEST: u64 = 1 << 30;

/// File that says which training it is.
const RUN: &str = "run";
/// Ending of the files that say where one fit stands.
const FIT: &str = ".fit";

/// How much of a journal a training learns from: what was recorded before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Feedback items.
    pub feedback: u64,
    /// Interactions are those below this id.
    pub next_id: u32,
}

impl Cut {
    /// Everything in a journal.
    ///
    /// # Errors
    /// `Usage` after 2^32 interactions.
    pub fn all(state: &JournalState) -> Result<Cut> {
        Ok(Cut { feedback: state.feedback() as u64, next_id: state.next_id()?.0 })
    }
    /// Whether `all` has everything that this has.
    pub fn is_within(&self, all: &Cut) -> bool {
        self.feedback <= all.feedback && self.next_id <= all.next_id
    }
}

/// A training: what decides its result, and how much of the journal it learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Hash of all that decides the result.
    pub name: [u8; 32],
    /// What it learns from.
    pub cut: Cut,
}

/// The checkpoint of a profile. Written only with the training lock held.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

impl Checkpoint {
    pub(super) fn new(disk: Arc<dyn Disk>, profile: &Path) -> Checkpoint {
        Checkpoint { disk, folder: profile.join("checkpoint") }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn names(&self) -> Result<Vec<String>> {
        let (disk, io) = (&*self.disk, |e| Error::io("cannot list the checkpoint", &self.folder, e));
        if !disk.exists(&self.folder).map_err(io)? {
            return Ok(vec![]);
        }
        disk.list(&self.folder).map_err(io)
    }

    /// A name of where it stands: another one after everything that is kept.
    ///
    /// # Errors
    /// `Io`.
    pub fn place(&self) -> Result<String> {
        let mut place = blake3::Hasher::new();
        for name in self.names()?.iter().filter(|n| !n.ends_with(UNFINISHED)) {
            let path = self.folder.join(name);
            let mut end = [0; HASH];
            let read = self.disk.open_read(&path).and_then(|file| {
                let length = file.len()?;
                file.read_at(&mut end, length.saturating_sub(HASH as u64)).map(|_| length)
            });
            let length = read.map_err(|e| Error::io("cannot look at the checkpoint", &path, e))?;
            place.update(name.as_bytes()).update(&length.to_le_bytes()).update(&end);
        }
        Ok(place.finalize().to_hex().to_string())
    }

    /// The training that was cut off; `None` if there is none that can be read.
    pub fn run(&self) -> Option<Run> {
        let (name, payload) = self.sound(RUN)?;
        match postcard::take_from_bytes(&payload) {
            Ok((cut, [])) => Some(Run { name, cut }),
            _ => None,
        }
    }

    /// Begins with `run`, in the place of whatever was there.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin(&self, run: &Run) -> Result<()> {
        self.clear()?;
        make_folder(&*self.disk, &self.folder)?;
        let cut =
            postcard::to_stdvec(&run.cut).map_err(|e| Error::internal("cannot encode a checkpoint").because(e))?;
        self.write(RUN, &run.name, &cut)
    }

    /// What was kept of the fit `name`, if it can be read.
    pub fn fit(&self, name: &[u8; 32]) -> Option<Vec<u8>> {
        let (found, payload) = self.sound(&fit_file(name))?;
        (found == *name).then_some(payload)
    }

    /// Keeps where the fit `name` stands; returns when it is durable.
    ///
    /// # Errors
    /// `Io`: what was kept before still is.
    pub fn keep(&self, name: &[u8; 32], payload: &[u8]) -> Result<()> {
        self.write(&fit_file(name), name, payload)
    }

    /// Removes all of it; returns when it is gone from storage.
    ///
    /// # Errors
    /// `Io`.
    pub fn clear(&self) -> Result<()> {
        let io = |e| Error::io("cannot remove the checkpoint", &self.folder, e);
        let names = self.names()?;
        // First what says that it may be gone on from.
        for name in names.iter().filter(|n| *n == RUN).chain(names.iter().filter(|n| *n != RUN)) {
            self.disk.remove(&self.folder.join(name)).map_err(io)?;
        }
        if names.is_empty() { Ok(()) } else { self.disk.sync_dir(&self.folder).map_err(io) }
    }

    /// Removes the checkpoint where its training may have seen one of `ids`, or `all`.
    pub(super) fn forget<'a>(&self, mut ids: impl Iterator<Item = &'a InteractionId>, all: bool) -> Result<()> {
        if all || self.run().is_none_or(|run| ids.any(|id| id.0 < run.cut.next_id)) {
            self.clear()?;
        }
        Ok(())
    }

    /// Removes what a writer has not finished.
    pub(super) fn sweep(&self) -> Result<()> {
        if self.names()?.iter().any(|n| n.ends_with(UNFINISHED)) {
            sweep_unfinished(&*self.disk, &self.folder)
        } else {
            Ok(())
        }
    }

    pub(super) fn findings(&self) -> Result<Vec<Finding>> {
        let finding = |name: &String| {
            let path = self.folder.join(name);
            let read = match name.ends_with(UNFINISHED) {
                true => return Ok(Finding::new(&path, State::Leftover, "an unfinished file")),
                false => self.read(name),
            };
            match read {
                Ok(_) => Ok(Finding::new(
                    &path,
                    State::Sound,
                    "of a training that was cut off; the next one goes on from it",
                )),
                Err(e) if e.kind() == ErrorKind::BadData => {
                    Ok(Finding::new(&path, State::Leftover, format!("{e}; the next training does without it")))
                }
                Err(e) => Err(e),
            }
        };
        self.names()?.iter().map(finding).collect()
    }

    fn sound(&self, file: &str) -> Option<([u8; 32], Vec<u8>)> {
        let path = self.folder.join(file);
        if !self.disk.exists(&path).unwrap_or(false) {
            return None;
        }
        self.read(file).inspect_err(|e| tracing::warn!(error = %e, "a checkpoint is left aside")).ok()
    }

    /// Name and payload of a file.
    fn read(&self, file: &str) -> Result<([u8; 32], Vec<u8>)> {
        let path = self.folder.join(file);
        let bytes = read_file(&*self.disk, &path, LONGEST)?;
        let bytes = open_file(&*self.disk, &path, &bytes)?.unwrap_or(bytes);
        unwrap(&bytes).ok_or_else(|| Error::bad_data("a damaged checkpoint").at(path.display()))
    }

    fn write(&self, file: &str, name: &[u8; 32], payload: &[u8]) -> Result<()> {
        let path = self.folder.join(file);
        let bytes = seal_file(&*self.disk, &path, wrap(name, payload))?;
        StagedFile::write(&*self.disk, &self.folder, &bytes)?.replace(&path)
    }
}

fn fit_file(name: &[u8; 32]) -> String {
    let hex: String = name.iter().take(8).map(|b| format!("{b:02x}")).collect();
    hex + FIT
}

fn wrap(name: &[u8; 32], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(START + payload.len() + HASH);
    bytes.extend(MAGIC);
    bytes.extend(u64::from(VERSION).to_le_bytes());
    bytes.extend(name);
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(payload);
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

fn unwrap(bytes: &[u8]) -> Option<([u8; 32], Vec<u8>)> {
    let (body, hash) = bytes.split_last_chunk::<HASH>()?;
    let rest = body.strip_prefix(&MAGIC)?.strip_prefix(&u64::from(VERSION).to_le_bytes())?;
    let (name, rest) = rest.split_first_chunk::<32>()?;
    let (length, payload) = rest.split_first_chunk::<8>()?;
    let whole = u64::from_le_bytes(*length) == payload.len() as u64 && blake3::hash(body) == *hash;
    whole.then(|| (*name, payload.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::disk::simulated::{SimulatedDisk, Step};
    use crate::disk::storage::Storage;

    const CUT: Cut = Cut { feedback: 7, next_id: 9 };

    fn payload(n: u8) -> Vec<u8> {
        vec![n; 100 * usize::from(n)]
    }

    #[test]
    fn what_was_kept_is_found_and_every_damage_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(Arc::new(RealDisk), dir.path());
        assert!(checkpoint.run().is_none() && checkpoint.fit(&[1; 32]).is_none());
        let run = Run { name: [5; 32], cut: CUT };
        let mut places = vec![checkpoint.place().unwrap()];
        checkpoint.begin(&run).unwrap();
        places.push(checkpoint.place().unwrap());
        for n in [1, 2] {
            checkpoint.keep(&[1; 32], &payload(n)).unwrap();
            places.push(checkpoint.place().unwrap());
        }
        assert_eq!(checkpoint.place().unwrap(), places[3]);
        assert!((0..3).all(|i| places[i + 1..].iter().all(|later| *later != places[i])), "{places:?}");
        assert_eq!((checkpoint.run(), checkpoint.fit(&[1; 32])), (Some(run), Some(payload(2))));
        assert!(checkpoint.findings().unwrap().iter().all(|f| f.state == State::Sound));
        // Under another fit's file name.
        let path = dir.path().join("checkpoint").join(fit_file(&[1; 32]));
        std::fs::copy(&path, dir.path().join("checkpoint").join(fit_file(&[2; 32]))).unwrap();
        assert!(checkpoint.fit(&[2; 32]).is_none());
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&bytes).is_none());
        }
        assert!((0..whole.len()).all(|len| unwrap(&whole[..len]).is_none()));
        std::fs::write(&path, &whole[1..]).unwrap();
        assert!(checkpoint.fit(&[1; 32]).is_none());
        let findings = checkpoint.findings().unwrap();
        assert!(
            findings.iter().any(|f| f.state == State::Leftover) && findings.iter().all(|f| f.state != State::Damaged)
        );
        checkpoint.begin(&Run { name: [6; 32], cut: CUT }).unwrap();
        assert_eq!(checkpoint.names().unwrap(), [RUN], "another training does without what was there");
    }

    #[test]
    fn it_goes_when_its_training_saw_what_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(Arc::new(RealDisk), dir.path());
        for (ids, all, stays) in [(vec![9, 12], false, true), (vec![12, 8], false, false), (vec![], true, false)] {
            checkpoint.begin(&Run { name: [5; 32], cut: CUT }).unwrap();
            let ids: Vec<InteractionId> = ids.into_iter().map(InteractionId).collect();
            checkpoint.forget(ids.iter(), all).unwrap();
            assert_eq!(checkpoint.run().is_some(), stays, "{ids:?}");
        }
        // Nobody can tell what a damaged one saw.
        checkpoint.begin(&Run { name: [5; 32], cut: CUT }).unwrap();
        std::fs::write(dir.path().join("checkpoint/run"), b"x").unwrap();
        checkpoint.forget([InteractionId(50)].iter(), false).unwrap();
        assert!(checkpoint.names().unwrap().is_empty());
    }

    /// Cuts the power at every operation: a state that was kept is there, or a later one; never anything else.
    #[test]
    fn a_power_cut_leaves_the_last_state_or_the_one_before() {
        let disk = SimulatedDisk::default();
        let at = |disk: SimulatedDisk| Checkpoint::new(Arc::new(disk), Path::new("home/profiles/ada"));
        let checkpoint = at(disk.clone());
        for folder in ["home", "home/profiles", "home/profiles/ada"] {
            make_folder(&disk, Path::new(folder)).unwrap();
        }
        checkpoint.begin(&Run { name: [5; 32], cut: CUT }).unwrap();
        let began = disk.log().len();
        for n in 1..=6 {
            checkpoint.keep(&[1; 32], &payload(n)).unwrap();
            disk.say(usize::from(n));
        }
        let mut storage = Storage::default();
        let (mut kept, mut cuts) = (0, 0);
        for (step_at, step) in disk.log().iter().enumerate() {
            match step {
                Step::Said(n) => kept = *n as u8,
                step => storage.follow(step),
            }
            for seed in 0..32 {
                let after = SimulatedDisk::holding(storage.cut(step_at, seed));
                let found = at(after.clone());
                let state = found.fit(&[1; 32]);
                let allowed = [kept, kept + 1].map(|n| (n > 0).then(|| payload(n)));
                assert!(allowed.contains(&state), "step {step_at} ({step}), seed {seed}: {:?}", state.map(|s| s.len()));
                assert!(step_at < began || found.run().is_some());
                found.sweep().unwrap();
                assert!(found.findings().unwrap().iter().all(|f| f.state == State::Sound));
                cuts += 1;
            }
        }
        assert!(cuts > 500, "{cuts}");
    }
}
