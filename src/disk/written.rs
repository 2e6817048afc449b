//! How much this process writes to files of some folders, through the real disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The folders that are watched.
static WATCHED: Mutex<Vec<(PathBuf, Weak<AtomicU64>)>> = Mutex::new(vec![]);

/// Counts the bytes that are written to files which are made in some folders while it lives. What the file system adds
/// is not among them.
#[derive(Debug)]
pub struct BytesWritten(Arc<AtomicU64>);

impl BytesWritten {
    /// In these folders; folders in them are others.
    pub fn to(folders: impl IntoIterator<Item = PathBuf>) -> BytesWritten {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|(_, bytes)| bytes.strong_count() > 0);
        watched.extend(folders.into_iter().map(|folder| (folder, Arc::downgrade(&bytes))));
        BytesWritten(bytes)
    }

    /// So far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What counts for a new file, if anything does.
#[derive(Debug, Default)]
pub(super) struct Counter(Option<Arc<AtomicU64>>);

impl Counter {
    pub fn of(file: &Path) -> Counter {
        let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        let here = watched.iter().find(|(folder, _)| file.parent() == Some(folder.as_path()));
        Counter(here.and_then(|(_, bytes)| bytes.upgrade()))
    }

    pub fn add(&self, bytes: usize) {
        if let Some(count) = &self.0 {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, RealDisk};

    #[test]
    fn what_is_made_in_a_folder_counts_for_that_folder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let before = RealDisk.create_new(&at("a/before")).unwrap();
        let (a, b) = (BytesWritten::to([at("a")]), BytesWritten::to([at("b")]));
        before.write_at(&[0; 7], 0).unwrap();
        let file = RealDisk.create_new(&at("a/file")).unwrap();
        RealDisk.create_new(&at("b/file")).unwrap().write_at(&[0; 50], 0).unwrap();
        RealDisk.create_new(&at("outside")).unwrap().write_at(&[0; 9], 0).unwrap();
        file.write_at(&[0; 100], 0).unwrap();
        file.write_at(&[0; 100], 0).unwrap();
        assert_eq!((a.bytes(), b.bytes()), (200, 50));
        drop(a);
        file.write_at(&[0; 100], 0).unwrap();
        assert_eq!(BytesWritten::to([at("a")]).bytes(), 0);
    }
}
