//! A [`Disk`] in memory that logs what is done to it, so that [`super::storage`] can tell what a power cut would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Bytes, Disk, DiskFile, LockFile, folder_of};

/// Identity of a file, whatever its name.
pub(crate) type FileId = usize;

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Folder,
    File(FileId),
}

/// What can happen to a disk, and, between those, what the story that uses it says.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Folder(PathBuf),
    Create(PathBuf, FileId),
    Write(FileId, u64, Arc<[u8]>),
    Truncate(FileId, u64),
    Sync(FileId),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFolder(PathBuf),
    /// Number of a fact of the story.
    Said(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write(file, at, bytes) => write!(f, "write {} bytes at {at} of file {file}", bytes.len()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Names and contents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) names: BTreeMap<PathBuf, Node>,
    pub(crate) files: BTreeMap<FileId, Arc<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct State {
    now: Contents,
    next: FileId,
    log: Vec<Step>,
    locked: BTreeSet<PathBuf>,
}

/// The disk; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

impl State {
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.now.names.contains_key(from) {
            return Err(missing());
        }
        move_names(&mut self.now.names, from, to);
        self.log.push(Step::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }
}

/// Gives `from`, and with a folder all that is in it, the name `to`.
pub(super) fn move_names(names: &mut BTreeMap<PathBuf, Node>, from: &Path, to: &Path) {
    let moved: Vec<PathBuf> = names.keys().filter(|name| name.starts_with(from)).cloned().collect();
    for name in moved {
        if let Some(node) = names.remove(&name) {
            names.insert(moved_name(&name, from, to), node);
        }
    }
}

/// The name of `path` once `from` is called `to`.
pub(super) fn moved_name(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(below) if below.as_os_str().is_empty() => to.to_owned(),
        Ok(below) => to.join(below),
        Err(_) => path.to_owned(),
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SimulatedDisk {
    /// A disk with these contents, all of it durable.
    pub(crate) fn holding(now: Contents) -> SimulatedDisk {
        let next = now.files.keys().last().map_or(0, |last| last + 1);
        SimulatedDisk(Arc::new(Mutex::new(State { now, next, ..State::default() })))
    }
    /// A disk that shows these contents, whose next file is the `next`-th.
    pub(crate) fn going_on(now: Contents, next: FileId) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(State { now, next, ..State::default() })))
    }
    /// Notes what the story says.
    pub(crate) fn say(&self, fact: usize) {
        self.state().log.push(Step::Said(fact));
    }
    /// Everything that happened so far.
    pub(crate) fn log(&self) -> Vec<Step> {
        self.state().log.clone()
    }
    /// Whether a file that has a name holds `needle`.
    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        let state = self.state();
        let mut files = state.now.names.values().filter_map(|node| match node {
            Node::File(id) => state.now.files.get(id),
            Node::Folder => None,
        });
        files.any(|bytes| bytes.windows(needle.len()).any(|w| w == needle))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match self.state().now.names.get(path) {
            Some(Node::File(id)) => Ok(Box::new(SimulatedFile { disk: self.clone(), id: *id })),
            Some(Node::Folder) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(missing()),
        }
    }
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|p| !p.as_os_str().is_empty() && !state.now.names.contains_key(*p))
            .map(Path::to_owned)
            .collect();
        while let Some(folder) = missing.pop() {
            state.now.names.insert(folder.clone(), Node::Folder);
            state.log.push(Step::Folder(folder));
        }
        Ok(())
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.now.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.now.names.get(folder_of(path)) != Some(&Node::Folder) {
            return Err(missing());
        }
        let id = state.next;
        state.next += 1;
        state.now.names.insert(path.to_owned(), Node::File(id));
        state.now.files.insert(id, Arc::default());
        state.log.push(Step::Create(path.to_owned(), id));
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.now.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state().log.push(Step::SyncFolder(path.to_owned()));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.now.names.remove(path).ok_or_else(missing)?;
        state.log.push(Step::Remove(path.to_owned()));
        Ok(())
    }
    fn remove_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.now.names.get(path) != Some(&Node::Folder) {
            return Err(missing());
        }
        // What is in a folder sorts behind it, and goes first.
        let below: Vec<PathBuf> = state.now.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
        for name in below.into_iter().rev() {
            state.now.names.remove(&name);
            state.log.push(Step::Remove(name));
        }
        Ok(())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.now.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.state().now.names.contains_key(path))
    }
    fn load(&self, path: &Path, max_len: u64) -> io::Result<Bytes> {
        let state = self.state();
        let Some(Node::File(id)) = state.now.names.get(path) else { return Err(missing()) };
        let bytes = state.now.files.get(id).ok_or_else(missing)?;
        if bytes.len() as u64 > max_len {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Bytes::copy_of(bytes))
    }
    fn open_lock(&self, path: &Path) -> io::Result<Box<dyn LockFile>> {
        Ok(Box::new(SimulatedLock { disk: self.clone(), path: path.to_owned(), held: Mutex::new(false) }))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    id: FileId,
}

impl SimulatedFile {
    fn change(&self, step: Step, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.disk.state();
        change(Arc::make_mut(state.now.files.get_mut(&self.id).ok_or_else(missing)?));
        state.log.push(step);
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().now.files.get(&self.id).ok_or_else(missing)?.len() as u64)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = state.now.files.get(&self.id).ok_or_else(missing)?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        self.change(Step::Write(self.id, offset, bytes.into()), |file| {
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        })
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Step::Truncate(self.id, len), |file| file.resize(len as usize, 0))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.change(Step::Sync(self.id), |_| ())
    }
}

/// A lock between handles; it leaves no trace on storage.
#[derive(Debug)]
struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
    held: Mutex<bool>,
}

impl LockFile for SimulatedLock {
    fn try_lock(&self) -> io::Result<bool> {
        let taken = self.disk.state().locked.insert(self.path.clone());
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        Ok(taken)
    }
    fn note(&self) -> io::Result<String> {
        Ok(String::new())
    }
    fn set_note(&self, _note: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        if *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            self.disk.state().locked.remove(&self.path);
        }
    }
}
