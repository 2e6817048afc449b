//! A disk with a key: those who write through it seal, those who read through it open.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Bytes, Disk, DiskFile, LockFile};
use crate::cipher::Cipher;

/// Another disk, and the cipher of the profile whose files are used through this one. Bytes pass as they are: the journal, the
/// adapter files and the checkpoint ask for [`Disk::cipher`] and seal whole records and files, so that what a torn write leaves
/// is judged as without a key.
#[derive(Debug, Clone)]
pub struct KeyedDisk {
    inner: Arc<dyn Disk>,
    cipher: Cipher,
}

impl KeyedDisk {
    /// `inner` with `cipher`.
    pub fn new(inner: Arc<dyn Disk>, cipher: Cipher) -> KeyedDisk {
        KeyedDisk { inner, cipher }
    }
}

impl Disk for KeyedDisk {
    fn cipher(&self) -> Option<&Cipher> {
        Some(&self.cipher)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.create_new(path)
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_write(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename_new(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        self.inner.load(path, max_len)
    }
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        self.inner.open_lock(path)
    }
}
