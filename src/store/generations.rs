//! The adapter files of a profile: their names, which of them exist, and which are removed.

use std::path::{Path, PathBuf};

use crate::adapter::file::{AdapterHeader, read_header};
use crate::disk::fault_injection::{Bug, planted};
use crate::disk::{Disk, sweep_unfinished};
use crate::error::{Error, Result};

use super::head::{Cause, Head};

/// Ending of the adapter files.
const ENDING: &str = ".adapter";

/// One generation on disk.
#[derive(Debug)]
#[non_exhaustive]
pub struct GenerationInfo {
    /// Its number.
    pub number: u64,
    /// Whether it serves.
    pub current: bool,
    /// Whether a roll back without target goes there.
    pub previous: bool,
    /// Why it was rolled back automatically, if it was the last one that failed.
    pub rolled_back: Option<Cause>,
    /// Its header and the length of its file; an error if it is damaged. Tensors are not checked.
    pub(crate) header: Result<(AdapterHeader, u64)>,
}

impl GenerationInfo {
    /// Length of its file, bytes; none if it is damaged.
    pub fn bytes(&self) -> Option<u64> {
        self.header.as_ref().ok().map(|(_, length)| *length)
    }
    /// What is the matter with its file, if it is damaged. Its tensors are not checked: [`Home::verify`](crate::Home::verify) does.
    pub fn damage(&self) -> Option<&Error> {
        self.header.as_ref().err()
    }
    internal! {
        /// Its header and the length of its file; an error if it is damaged. Tensors are not checked.
        pub fn header(&self) -> &Result<(AdapterHeader, u64)> {
            &self.header
        }
    }
}

/// The folder of adapter files.
#[derive(Debug, Clone)]
pub(super) struct Generations {
    pub(super) folder: PathBuf,
}

impl Generations {
    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}{ENDING}"))
    }

    fn names(&self, disk: &dyn Disk) -> Result<Vec<String>> {
        match disk.list(&self.folder) {
            // Whoever copies a home may leave out its empty folders.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            other => other.map_err(|e| Error::io("cannot list the generations", &self.folder, e)),
        }
    }

    /// Numbers that have a file, increasing.
    pub(super) fn numbers(&self, disk: &dyn Disk) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = self.names(disk)?.iter().filter_map(|name| parse(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn exists(&self, disk: &dyn Disk, number: u64) -> Result<bool> {
        let path = self.path(number);
        Ok(number != 0 && disk.exists(&path).map_err(|e| Error::io("cannot look for a generation", &path, e))?)
    }

    /// The nearest ancestor of `number` that has a file and is accepted; 0 if there is none.
    pub(super) fn ancestor(&self, disk: &dyn Disk, number: u64, accept: impl Fn(u64) -> bool) -> u64 {
        let mut child = number;
        loop {
            let parent = match read_header(disk, &self.path(child)) {
                // A parent is older than its child, so this ends.
                Ok((header, _)) if header.lineage.parent < child => header.lineage.parent,
                _ => 0,
            };
            if parent == 0 || (accept(parent) && self.exists(disk, parent).unwrap_or(false)) {
                return parent;
            }
            child = parent;
        }
    }

    /// Removes these generations; returns when they are gone from storage.
    pub(super) fn remove(&self, disk: &dyn Disk, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            let path = self.path(*number);
            disk.remove(&path).map_err(|e| Error::io("cannot remove a generation", &path, e))?;
        }
        disk.sync_dir(&self.folder).map_err(|e| Error::io("cannot sync a folder", &self.folder, e))
    }

    /// Removes the oldest files beyond `limit`, but never what `head` refers to. The number of files removed.
    pub(super) fn prune(&self, disk: &dyn Disk, head: &Head, limit: usize) -> Result<usize> {
        let numbers = self.numbers(disk)?;
        let excess = numbers.len().saturating_sub(limit);
        let in_use = |n: &u64| (*n == head.current || *n == head.previous) && !planted(Bug::PrunedInUse);
        let removable = numbers.into_iter().filter(|n| !in_use(n));
        let mut removed = 0;
        for number in removable.take(excess) {
            let path = self.path(number);
            disk.remove(&path).map_err(|e| Error::io("cannot remove an old generation", &path, e))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes what writers left: unfinished files, and, where the head knows the highest number ever used, finished ones that
    /// it never named. Only while nobody writes one.
    pub(super) fn sweep(&self, disk: &dyn Disk, highest: Option<u64>) -> Result<()> {
        sweep_unfinished(disk, &self.folder)?;
        for number in self.numbers(disk)?.into_iter().filter(|n| highest.is_some_and(|highest| *n > highest)) {
            let path = self.path(number);
            disk.remove(&path).map_err(|e| Error::io("cannot remove an unfinished generation", &path, e))?;
        }
        Ok(())
    }
}

/// The number of a generation's file name, if it is one.
fn parse(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(ENDING)?.parse().ok()?;
    (number != 0 && Path::new(name) == Path::new(&format!("{number:06}{ENDING}"))).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_strictly() {
        assert_eq!(parse("000012.adapter"), Some(12));
        assert_eq!(parse("1234567.adapter"), Some(1_234_567));
        for other in ["12.adapter", "+00012.adapter", "000000.adapter", "000012.adapter.tmp", "0000012.adapter", "x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
