//! Files that become visible only when they are complete, and are durable when they do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Disk, DiskFile, folder_of, read_full};
use crate::disk::fault_injection::{Bug, planted};
use crate::error::{Error, Result};

/// Ending of the files that a writer has not finished yet.
pub const UNFINISHED: &str = ".tmp";

/// A file that has no final name yet. Dropped without [`StagedFile::publish`] or [`StagedFile::replace`] it is removed.
#[derive(Debug)]
pub struct StagedFile<'a> {
    disk: &'a dyn Disk,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    synced: bool,
    named: bool,
}

impl<'a> StagedFile<'a> {
    /// Makes an empty file in `folder`.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(disk: &'a dyn Disk, folder: &Path) -> Result<StagedFile<'a>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{}-{number}{UNFINISHED}", std::process::id()));
        // A name left by an earlier process of the same number is nobody's.
        if disk.exists(&path).map_err(|e| Error::io("cannot look for a file", &path, e))? {
            disk.remove(&path).map_err(|e| Error::io("cannot remove an unfinished file", &path, e))?;
        }
        let file = disk.create_new(&path).map_err(|e| Error::io("cannot create a file", &path, e))?;
        Ok(StagedFile { disk, file, path, synced: false, named: false })
    }

    /// Writes `bytes` into a new file in `folder`.
    ///
    /// # Errors
    /// `Io`; nothing is left behind where the disk still allows removal.
    pub fn write(disk: &'a dyn Disk, folder: &Path, bytes: &[u8]) -> Result<StagedFile<'a>> {
        let mut staged = StagedFile::create(disk, folder)?;
        staged.write_at(bytes, 0)?;
        Ok(staged)
    }

    /// Copies the file `from` into a new file in `folder`.
    ///
    /// # Errors
    /// `Io`.
    pub fn copy(disk: &'a dyn Disk, folder: &Path, from: &Path) -> Result<StagedFile<'a>> {
        let io = |e| Error::io("cannot read the file", from, e);
        let source = disk.open_read(from).map_err(io)?;
        let mut staged = StagedFile::create(disk, folder)?;
        let (mut at, mut piece) = (0u64, vec![0; 1 << 20]);
        loop {
            let n = read_full(&*source, &mut piece, at).map_err(io)?;
            let Some(bytes) = piece.get(..n).filter(|bytes| !bytes.is_empty()) else { return Ok(staged) };
            staged.write_at(bytes, at)?;
            at = at.saturating_add(n as u64);
        }
    }

    /// Where it is as long as it has no name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.synced = false;
        self.file.write_at(bytes, offset).map_err(|e| Error::io("cannot write a file", &self.path, e))
    }

    /// Takes the permission to write from everybody, for a file that is published once and never written again.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_read_only(&mut self) -> Result<()> {
        self.synced = false;
        self.file.set_read_only().map_err(|e| Error::io("cannot change the mode of a file", &self.path, e))
    }

    /// Returns when the file's contents are durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&mut self) -> Result<()> {
        if !self.synced && !planted(Bug::NamedBeforeSync) {
            self.file.sync_data().map_err(|e| Error::io("cannot sync a file", &self.path, e))?;
            self.synced = true;
        }
        Ok(())
    }

    /// Syncs the file, gives it its final name, in the same folder, and makes the name durable.
    ///
    /// # Errors
    /// `Usage` if something has that name, also when it got it a moment ago; `Io`.
    pub fn publish(self, name: &Path) -> Result<()> {
        self.name(name, |disk, from| disk.rename_new(from, name))
    }

    /// As [`StagedFile::publish`], in the place of the file that has that name, if there is one.
    ///
    /// # Errors
    /// `Io`.
    pub fn replace(self, name: &Path) -> Result<()> {
        self.name(name, |disk, from| disk.rename(from, name))
    }

    fn name(mut self, name: &Path, rename: impl Fn(&dyn Disk, &Path) -> io::Result<()>) -> Result<()> {
        self.sync()?;
        rename(self.disk, &self.path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::usage("will not overwrite an existing file").at(name.display()).hint("choose another name")
            }
            _ => Error::io("cannot name a file", name, e),
        })?;
        self.named = true;
        let folder = folder_of(name);
        if planted(Bug::NameNotSynced) {
            return Ok(());
        }
        self.disk.sync_dir(folder).map_err(|e| Error::io("cannot sync a folder", folder, e))
    }
}

/// Whether a [`StagedFile`] has this name.
fn is_staged(name: &str) -> bool {
    let numbers = name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbers.and_then(|numbers| numbers.split_once('-')).is_some_and(|(a, b)| is_number(a) && is_number(b))
}

/// Removes the files that staging left unfinished in `folder`: only while nobody writes one there. Files of other
/// names, and folders, are somebody else's.
///
/// # Errors
/// `Io`.
pub fn sweep_unfinished(disk: &dyn Disk, folder: &Path) -> Result<()> {
    let names = disk.list(folder).map_err(|e| Error::io("cannot list a folder", folder, e))?;
    for name in names.iter().filter(|name| is_staged(name)) {
        let path = folder.join(name);
        match disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::IsADirectory => {
                return Err(Error::io("cannot remove an unfinished file", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Drop for StagedFile<'_> {
    fn drop(&mut self) {
        if !self.named {
            let _ = self.disk.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{RealDisk, read_file};

    #[test]
    fn a_staged_file_never_overwrites_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        StagedFile::write(&RealDisk, dir.path(), b"one").unwrap().publish(&name).unwrap();
        let again = StagedFile::write(&RealDisk, dir.path(), b"two").unwrap().publish(&name).unwrap_err();
        assert_eq!(again.kind(), crate::error::ErrorKind::Usage);
        assert_eq!(read_file(&RealDisk, &name, 10).unwrap(), b"one");
        assert!(read_file(&RealDisk, &name, 2).is_err());
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["f"]);
    }

    #[test]
    fn a_sweep_takes_what_staging_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let others = [".-1.tmp", ".1-.tmp", ".1-2-3.tmp", ".12.tmp", ".a-1.tmp", "1-2.tmp", "notes.tmp"];
        others.iter().for_each(|name| std::fs::write(dir.path().join(name), b"mine").unwrap());
        std::fs::create_dir(dir.path().join(".3-4.tmp")).unwrap();
        let staged = StagedFile::write(&RealDisk, dir.path(), b"half").unwrap();
        assert_eq!(RealDisk.list(dir.path()).unwrap().len(), others.len() + 2);
        // As a process that was killed does.
        std::mem::forget(staged);
        sweep_unfinished(&RealDisk, dir.path()).unwrap();
        let left = RealDisk.list(dir.path()).unwrap();
        assert_eq!(left, [&others[..3], &[".12.tmp", ".3-4.tmp", ".a-1.tmp"], &others[5..]].concat());
    }
}
