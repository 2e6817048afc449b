//! A [`Disk`] for tests that counts operations and fails the n-th one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Bytes, Disk, DiskFile, LockFile, RealDisk};

/// What the failing operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// ENOSPC; from then on every write and creation fails too. A write leaves half of its bytes behind.
    Full,
    /// EIO, once.
    Broken,
    /// EIO from then on, whatever the operation.
    Dead,
    /// EIO from then on at every sync of a file or folder; everything else is done.
    Unsynced,
}

#[derive(Debug)]
struct Plan {
    done: AtomicUsize,
    fail_at: usize,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Grows,
    Syncs,
    Other,
}

impl Plan {
    fn step(&self, op: Op) -> io::Result<()> {
        let n = self.done.fetch_add(1, Ordering::SeqCst);
        let fails = match self.fault {
            Fault::Full => n == self.fail_at || (n > self.fail_at && op == Op::Grows),
            Fault::Broken => n == self.fail_at,
            Fault::Dead => n >= self.fail_at,
            Fault::Unsynced => n >= self.fail_at && op == Op::Syncs,
        };
        match (fails, self.fault) {
            (false, _) => Ok(()),
            (true, Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            (true, _) => Err(io::Error::from_raw_os_error(5)),
        }
    }
}

/// The real disk, until operation number `fail_at` (from 0).
#[derive(Debug, Clone)]
pub(crate) struct FaultyDisk(Arc<Plan>);

impl FaultyDisk {
    pub(crate) fn new(fail_at: usize, fault: Fault) -> FaultyDisk {
        FaultyDisk(Arc::new(Plan { done: AtomicUsize::new(0), fail_at, fault }))
    }
    /// A disk that only counts, and does not wait for storage.
    pub(crate) fn counting() -> FaultyDisk {
        FaultyDisk::new(usize::MAX, Fault::Broken)
    }
    pub(crate) fn operations(&self) -> usize {
        self.0.done.load(Ordering::SeqCst)
    }
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { file, plan: self.0.clone() })
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.step(Op::Grows)?;
        RealDisk.create_dir_all(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.step(Op::Grows)?;
        Ok(self.wrap(RealDisk.create_new(path)?))
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.step(Op::Other)?;
        Ok(self.wrap(RealDisk.open_write(path)?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.step(Op::Other)?;
        Ok(self.wrap(RealDisk.open_read(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step(Op::Grows)?;
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step(Op::Grows)?;
        RealDisk.rename_new(from, to)
    }
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        self.0.step(Op::Syncs)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.step(Op::Other)?;
        RealDisk.remove(path)
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.0.step(Op::Other)?;
        RealDisk.remove_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.step(Op::Other)?;
        RealDisk.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.step(Op::Other)?;
        RealDisk.exists(path)
    }
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        self.0.step(Op::Other)?;
        RealDisk.load(path, max_len)
    }
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        self.0.step(Op::Other)?;
        RealDisk.open_lock(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    plan: Arc<Plan>,
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.plan.step(Op::Other)?;
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plan.step(Op::Other)?;
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(e) = self.plan.step(Op::Grows) {
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(e);
        }
        self.file.write_at(bytes, offset)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.plan.step(Op::Other)?;
        self.file.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        // The step is what is tested; a real sync would only cost time.
        self.plan.step(Op::Syncs)
    }
}
