//! The one seam for file operations: everything this crate stores passes a [`Disk`].
//!
//! Methods are small and answer with [`std::io::Result`], so that a test can fail, count or simulate each of them. Callers
//! add what they were doing and where, by [`Error::io`].

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::cipher::Cipher;
use crate::disk::fault_injection::{Bug, planted};
use crate::error::{Error, Result};

/// The methods of a [`Disk`] around another one, `inner`, that pass on what they are given: all but the cipher and the opening
/// for reading.
macro_rules! passes_on {
    () => {
        fn create_dir_all(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.inner.create_dir_all(path)
        }
        fn create_new(&self, path: &std::path::Path) -> std::io::Result<Box<dyn $crate::disk::DiskFile>> {
            self.inner.create_new(path)
        }
        fn open_write(&self, path: &std::path::Path) -> std::io::Result<Box<dyn $crate::disk::DiskFile>> {
            self.inner.open_write(path)
        }
        fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
            self.inner.rename(from, to)
        }
        fn rename_new(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
            self.inner.rename_new(from, to)
        }
        fn sync_dir(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.inner.sync_dir(path)
        }
        fn remove(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.inner.remove(path)
        }
        fn remove_all(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.inner.remove_all(path)
        }
        fn list(&self, path: &std::path::Path) -> std::io::Result<Vec<String>> {
            self.inner.list(path)
        }
        fn exists(&self, path: &std::path::Path) -> std::io::Result<bool> {
            self.inner.exists(path)
        }
        fn load(&self, path: &std::path::Path, max_len: u64) -> std::io::Result<$crate::disk::Bytes> {
            self.inner.load(path, max_len)
        }
        fn map(&self, path: &std::path::Path, max_len: u64) -> std::io::Result<$crate::disk::Bytes> {
            self.inner.map(path, max_len)
        }
        fn open_lock(&self, path: &std::path::Path) -> std::io::Result<Box<dyn $crate::disk::LockFile>> {
            self.inner.open_lock(path)
        }
    };
}
#[cfg(test)]
pub(crate) use passes_on;

pub use key_source::KeySource;
pub use keyed::KeyedDisk;
pub(crate) use sealed::{is_sealed, open_file, seal_file};
pub use staged::{StagedFile, UNFINISHED, sweep_unfinished};
pub use written::BytesWritten;
use written::Counter;

pub(crate) mod fault_injection;
mod key_source;
mod keyed;
pub mod lock;
mod no_replace;
mod sealed;
mod staged;
mod written;

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
pub(crate) mod storage;

/// Mode of every folder this crate makes: its owner only.
const DIR_MODE: u32 = 0o700;
/// Mode of every file this crate makes: its owner only.
const FILE_MODE: u32 = 0o600;

/// Mode of files that are never written again.
const PUBLISHED_MODE: u32 = 0o400;

/// A file system, as far as this crate needs one.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a folder and its missing parents, readable by their owner only. Fine if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes a new empty file for reading and writing, readable by its owner only. Fails if there is one.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing regular file for reading and writing.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing regular file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name in the same file system, replacing what had it, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file or a folder another name in the same folder, which nothing may have; `AlreadyExists` if something
    /// does.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file. What is open of it stays usable.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it. After an error any part of it may be gone.
    fn remove_all(&self, path: &Path) -> io::Result<()>;
    /// File names in a folder, sorted; names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// The bytes of a whole file, in memory of their own: what becomes of the file later changes none of them. Refuses more than
    /// `max_len` bytes.
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes>;
    /// The bytes of a whole file, where they lie in the page cache if the file system can map them. Only for
    /// files that are never written again: one that is cut off while it is mapped raises SIGBUS, one that is
    /// overwritten changes these bytes.
    fn map(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        self.load(path, max_len)
    }
    /// Opens a lock file, making it if it is missing.
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>>;
    /// What seals the records and files that are written through this disk; `None` where they are stored as they are.
    fn cipher(&self) -> Option<&Cipher> {
        None
    }
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Returns when data and length are durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Takes the permission to write from everybody, where the file system knows permissions.
    fn set_read_only(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An advisory lock of the operating system, held until this is dropped.
pub trait LockFile: fmt::Debug + Send + Sync {
    /// Takes the lock if it is free; `false` if somebody has it.
    fn try_lock(&self) -> io::Result<bool>;
    /// What the last holder wrote.
    fn note(&self) -> io::Result<String>;
    /// Says who holds the lock.
    fn set_note(&self, note: &str) -> io::Result<()>;
}

/// How a file that is in use is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileAccess {
    /// It is mapped: it costs page cache, which processes share, and no memory of its own. For homes to which nobody
    /// else writes.
    #[default]
    Mmap,
    /// It is read: whatever becomes of the file changes no answer.
    Read,
}

/// A cache line: what is made of these is aligned for any number.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The whole contents of a file, starting at a multiple of 64: in memory of their own, or mapped.
#[derive(Debug)]
pub struct Bytes(Held);

#[derive(Debug)]
enum Held {
    Own { lines: Vec<Line>, len: usize },
    Mapped(memmap2::Mmap),
}

impl Bytes {
    /// `len` bytes that `fill` writes, and what it gives.
    fn filled<T>(len: usize, fill: impl FnOnce(&mut [u8]) -> T) -> (Vec<Line>, T) {
        let mut lines: Vec<Line> = vec![bytemuck::Zeroable::zeroed(); len.div_ceil(size_of::<Line>())];
        let given = fill(bytemuck::cast_slice_mut::<Line, u8>(&mut lines).get_mut(..len).unwrap_or_default());
        (lines, given)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let (lines, ()) = Bytes::filled(bytes.len(), |all| all.copy_from_slice(bytes));
        Bytes(Held::Own { lines, len: bytes.len() })
    }

    /// Whether they lie in the page cache, not in memory of their own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Held::Mapped(_))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Own { lines, len } => bytemuck::cast_slice::<Line, u8>(lines).get(..*len).unwrap_or_default(),
            Held::Mapped(map) => map,
        }
    }
}

/// The file system of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File, Counter);

impl RealDisk {
    /// Opens only regular files: a pipe would block, a folder fails late.
    fn open(path: &Path, options: &mut OpenOptions) -> io::Result<RealFile> {
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(RealFile(options.read(true).open(path)?, Counter::default()))
    }
}

impl RealFile {
    fn len_of_at_most(&self, max_len: u64) -> io::Result<usize> {
        let len = self.len()?;
        usize::try_from(len).ok().filter(|_| len <= max_len).ok_or_else(|| too_long(len, max_len))
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Box::new(RealFile(file, Counter::of(path))))
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealDisk::open(path, OpenOptions::new().write(true))?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealDisk::open(path, &mut OpenOptions::new())?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        no_replace::rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        let file = RealDisk::open(path, &mut OpenOptions::new())?;
        // A file that is shortened meanwhile is shorter here, too.
        let (lines, len) = Bytes::filled(file.len_of_at_most(max_len)?, |all| read_full(&file, all, 0));
        Ok(Bytes(Held::Own { lines, len: len? }))
    }
    fn map(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        let file = RealDisk::open(path, &mut OpenOptions::new())?;
        if file.len_of_at_most(max_len)? == 0 {
            return Ok(Bytes::copy_of(&[]));
        }
        // SAFETY: the bytes are read as plain numbers, of which any pattern is one. Nobody who keeps to
        // `Disk::map` writes to the file again; what another process can do to it is in docs/security.md.
        match unsafe { memmap2::Mmap::map(&file.0) } {
            Ok(map) => Ok(Bytes(Held::Mapped(map))),
            // Not every file system can.
            Err(_) => self.load(path, max_len),
        }
    }
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path);
        let file = match made {
            // Where nothing can be written, readers still take turns; only the note is missing.
            // Where there is none, that it cannot be made is what failed.
            Err(e) if takes_no_writes(&e) => File::open(path).map_err(|_| e)?,
            other => other?,
        };
        Ok(Box::new(RealFile(file, Counter::default())))
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.add(bytes.len());
        self.0.write_all_at(bytes, offset)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn set_read_only(&self) -> io::Result<()> {
        match self.0.set_permissions(fs::Permissions::from_mode(PUBLISHED_MODE)) {
            Err(e) if takes_no_modes(&e) => Ok(()),
            other => other,
        }
    }
}

impl LockFile for RealFile {
    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
    fn note(&self) -> io::Result<String> {
        let mut buffer = [0u8; 256];
        let n = self.0.read_at(&mut buffer, 0)?;
        Ok(String::from_utf8_lossy(buffer.get(..n).unwrap_or(&[])).trim().to_owned())
    }
    fn set_note(&self, note: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(note.as_bytes(), 0)
    }
}

/// Whether a file cannot be written here, and may still be read.
pub(crate) fn takes_no_writes(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Whether the file system keeps no permissions of single files, as FAT does not.
fn takes_no_modes(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

fn too_long(len: u64, max_len: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("the file has {len} bytes, more than the {max_len} allowed here"),
    )
}

/// Fills `buffer` from `offset`, stopping early only at the end of the file; the number of bytes read.
pub fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let n = file.read_at(rest, offset.saturating_add(done as u64))?;
        if n == 0 {
            break;
        }
        done = done.saturating_add(n);
    }
    Ok(done)
}

/// Reads a whole file of at most `max_len` bytes.
///
/// # Errors
/// `Io` if it cannot be read or is longer.
pub fn read_file(disk: &dyn Disk, path: &Path, max_len: u64) -> Result<Vec<u8>> {
    let read = || {
        let file = disk.open_read(path)?;
        let len = file.len()?;
        let bytes = usize::try_from(len).ok().filter(|_| len <= max_len).ok_or_else(|| too_long(len, max_len))?;
        let mut buffer = vec![0; bytes];
        let n = read_full(&*file, &mut buffer, 0)?;
        buffer.truncate(n);
        Ok(buffer)
    };
    read().map_err(|e| Error::io("cannot read the file", path, e))
}

/// The folder that the name `path` stands in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder and its missing parents; returns when their names are durable. The name of the folder itself is made
/// durable also if it was there: who made it may have been cut off before.
///
/// # Errors
/// `Io`.
pub fn make_folder(disk: &dyn Disk, path: &Path) -> Result<()> {
    let io = |e| Error::io("cannot make a folder", path, e);
    let mut above = vec![folder_of(path)];
    while let Some(folder) = above.last().filter(|folder| folder.parent().is_some_and(|p| !p.as_os_str().is_empty())) {
        if disk.exists(folder).map_err(io)? {
            break;
        }
        above.push(folder_of(folder));
    }
    disk.create_dir_all(path).map_err(io)?;
    if planted(Bug::FolderNotSynced) {
        return Ok(());
    }
    above.iter().rev().try_for_each(|folder| disk.sync_dir(folder)).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        RealDisk.create_dir_all(&inner).unwrap();
        StagedFile::write(&RealDisk, &inner, b"x").unwrap().publish(&inner.join("f")).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&inner.join("f")), 0o600);
        assert_eq!(RealDisk.list(&inner).unwrap(), ["f"]);
    }

    #[test]
    fn loaded_mapped_and_copied_bytes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        let mut staged = StagedFile::write(&RealDisk, dir.path(), b"0123456789").unwrap();
        staged.set_read_only().unwrap();
        staged.publish(&name).unwrap();
        assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o400);
        let (loaded, mapped) = (RealDisk.load(&name, 10).unwrap(), RealDisk.map(&name, 10).unwrap());
        assert!(mapped.is_mapped() && !loaded.is_mapped());
        for bytes in [&loaded, &mapped, &Bytes::copy_of(b"0123456789")] {
            assert_eq!(&**bytes, b"0123456789");
            assert!((bytes.as_ptr() as usize).is_multiple_of(64));
        }
        for open in [RealDisk::load, RealDisk::map] {
            assert!(open(&RealDisk, &name, 9).is_err() && open(&RealDisk, dir.path(), 9).is_err());
        }
        // What takes the file's name, or its name away, is no matter to a map.
        StagedFile::write(&RealDisk, dir.path(), b"another").unwrap().replace(&name).unwrap();
        RealDisk.remove(&name).unwrap();
        assert_eq!(&*mapped, b"0123456789");
        fs::write(&name, b"").unwrap();
        assert_eq!(&*loaded, b"0123456789");
        assert_eq!(&*RealDisk.map(&name, 10).unwrap(), b"");
    }
}
