//! A disk with a key: those who write through it seal, those who read through it open.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile};
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
    passes_on!();
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.open_read(path)
    }
}
