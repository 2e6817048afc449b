//! A bundle: one person's profile as one encrypted file, to be taken to another home of the same base.
//!
//! It holds the journal, the generations and the head; not the base, which is named by its hash. `docs/bundle-format.md` lays
//! it out. The encryption is [age](https://age-encryption.org)'s, so that other tools open it, too.

#[cfg(test)]
pub(crate) mod carried;
mod chunks;
mod seal;

use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adapter::Fingerprint;
use crate::disk::{Disk, DiskFile, RealDisk, StagedFile, folder_of};
use crate::error::{Error, Result};
use crate::runtime::{Home, Session, now_ms};
use crate::store::{Contents, Incoming, Store, profile_folder};
use chunks::{Chunk, Reader, Writer};
pub use seal::{Lock, Unlock};

/// How long a training of the same profile is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// The first piece of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    /// The base that everything was learned on.
    base: Fingerprint,
    /// Name of the profile.
    profile: String,
    /// What the base answers.
    task: String,
    /// The settings of the home that it comes from, for people.
    settings: String,
    /// The active generation, and which numbers are used up.
    contents: Contents,
    /// No interaction below it is given out again.
    next_id: u32,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Records of the journal in it.
    pub records: u64,
    /// Generations in it.
    pub generations: Vec<u64>,
}

/// What was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The new profile.
    pub profile: String,
    /// Records of its journal.
    pub records: u64,
    /// Its generations.
    pub generations: Vec<u64>,
    /// The one that serves.
    pub generation: u64,
}

/// Writes the profile of `session` to the new file `out`, locked with `lock`.
///
/// # Errors
/// `Usage` if there is such a file, `Busy` while the profile is trained, `BadData` if part of it is damaged, `Io`.
pub fn export(session: &Session, out: &Path, lock: &Lock) -> Result<Exported> {
    let (home, store) = (session.home(), session.store());
    let _held = store.lock_training(WAIT, "exporting")?;
    // What waits for storage belongs to it, too.
    let next_id = session.flush()?.0;
    let config = home.config();
    let settings = toml::to_string(config).map_err(|e| Error::internal("cannot write the settings").because(e))?;
    let manifest = Manifest {
        base: home.base().fingerprint(),
        profile: session.profile(),
        task: config.task.clone(),
        settings,
        contents: store.contents()?,
        next_id,
    };
    write(&RealDisk, store, &manifest, out, lock)
}

/// Writes what `store` has to the new file `out` on `disk`. To be called with the training lock held.
fn write(disk: &dyn Disk, store: &Store, manifest: &Manifest, out: &Path, lock: &Lock) -> Result<Exported> {
    let io = |e| Error::io("cannot write the bundle", out, e);
    let generations = &manifest.contents.generations;
    let mut staged = StagedFile::create(disk, folder_of(out))?;
    let file = Appending { file: &mut staged, at: 0 };
    let mut sealed = lock.seal(BufWriter::with_capacity(1 << 20, file))?;
    let mut writer = Writer::begin(&mut sealed).map_err(io)?;
    writer.manifest(manifest).map_err(io)?;
    let mut records = 0;
    for record in store.records()? {
        writer.record(&record?).map_err(io)?;
        records += 1;
    }
    for number in generations {
        writer.adapter(*number, store.open_generation(*number, None)?.bytes()).map_err(io)?;
    }
    writer.end(records).map_err(io)?;
    let mut file = sealed.finish().map_err(io)?;
    file.flush().map_err(io)?;
    let bytes = file.get_ref().at;
    drop(file);
    staged.publish(out)?;
    Ok(Exported { file: out.to_owned(), bytes, records, generations: generations.clone() })
}

/// Makes a new profile of the bundle in `file`: the one that it was made of, or `profile`. Nothing is there until all of it is.
///
/// # Errors
/// `NoKey` if it does not open with `unlock`; `BadData` if it is no bundle, damaged, or of another base (both hashes are named);
/// `Usage` if there is such a profile; `Io`.
pub fn import(home: &Home, file: &Path, unlock: &Unlock, profile: Option<&str>) -> Result<Imported> {
    let disk = |name: &str| home.profile_disk(name);
    let target = Target { home: home.path(), disk: &disk, base: home.base().fingerprint(), task: &home.config().task };
    open(&RealDisk, file, unlock).and_then(|opened| target.read(opened, profile)).map_err(|e| match e.place() {
        None => e.at(file.display()),
        Some(_) => e,
    })
}

/// What the bundle in `file` holds, decrypted.
fn open(disk: &dyn Disk, file: &Path, unlock: &Unlock) -> Result<Box<dyn Read>> {
    let source = disk.open_read(file).map_err(|e| Error::io("cannot read the bundle", file, e))?;
    unlock.open(BufReader::with_capacity(1 << 20, Reading { file: source, at: 0 })).map_err(|e| e.at(file.display()))
}

/// Where a bundle goes to.
struct Target<'a> {
    home: &'a Path,
    /// The disk through which the files of a profile are used.
    disk: &'a dyn Fn(&str) -> Arc<dyn Disk>,
    base: Fingerprint,
    task: &'a str,
}

impl Target<'_> {
    fn read(&self, opened: impl Read, profile: Option<&str>) -> Result<Imported> {
        let mut reader = Reader::begin(opened)?;
        let manifest: Manifest = reader.manifest()?;
        self.fits(&manifest)?;
        let name = profile.unwrap_or(&manifest.profile);
        let folder = profile_folder(self.home, name).map_err(|e| match profile {
            Some(_) => e,
            None => Error::bad_data(e.what()).hint("give another name with --profile"),
        })?;
        let incoming = Incoming::begin((self.disk)(name), &folder)?;
        let records = std::cell::Cell::new(0u64);
        incoming.journal(manifest.next_id, now_ms(), || {
            let record = reader.record()?;
            records.set(records.get() + u64::from(record.is_some()));
            Ok(record)
        })?;
        let mut left = manifest.contents.generations.iter();
        let ended = loop {
            match reader.next()? {
                Chunk::Adapter(number, bytes) if left.next() == Some(&number) => {
                    incoming.generation(number, &bytes, &self.base)?;
                }
                Chunk::End(counted) => break counted,
                _ => return Err(damaged("a piece is not where it belongs")),
            }
        };
        if ended != records.get() || left.next().is_some() {
            return Err(damaged("pieces are missing"));
        }
        reader.finish()?;
        let generations = manifest.contents.generations.clone();
        let generation = incoming.publish(&manifest.contents)?;
        Ok(Imported { profile: name.to_owned(), records: records.get(), generations, generation })
    }

    fn fits(&self, manifest: &Manifest) -> Result<()> {
        if manifest.base != self.base {
            return Err(Error::bad_data(format!(
                "this bundle belongs to another base: it was made on {}, the home's is {}",
                manifest.base, self.base
            ))
            .hint("import it into a home of the model it was made on"));
        }
        if manifest.task != self.task {
            let (theirs, ours) = (&manifest.task, self.task);
            return Err(Error::bad_data(format!("this bundle is of a home for {theirs}; this home is for {ours}"))
                .hint("make a home with the same --task and --labels"));
        }
        Ok(())
    }
}

fn damaged(what: &str) -> Error {
    Error::bad_data(format!("damaged bundle: {what}")).hint("export it again; nothing was imported")
}

/// A staged file that is written from its start to its end.
struct Appending<'a, 'd> {
    file: &'a mut StagedFile<'d>,
    at: u64,
}

impl Write for Appending<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write_at(bytes, self.at).map_err(std::io::Error::other)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file that is read from its start to its end.
struct Reading {
    file: Box<dyn DiskFile>,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
