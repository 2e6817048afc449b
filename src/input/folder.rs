//! A folder of pictures with one sub-folder per label. What is in it and cannot be used is left out, and named.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{image, label};
use crate::error::{Error, Result};

/// Most pictures in a folder.
const MAX_PICTURES: usize = 1_000_000;

/// A file or folder that a dataset leaves out, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Skipped {
    /// The file or folder.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What a folder holds: pictures in the order of their labels and names, each decoded once so that a damaged one is
/// known here.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub labels: Vec<String>,
    pub pictures: Vec<PathBuf>,
    /// By name.
    pub skipped: Vec<Skipped>,
}

/// Reads a folder. Hidden files are passed over.
///
/// Errors: it cannot be listed, a sub-folder's name is no label, too many pictures, or not one that can be used.
pub(super) fn read(path: &Path) -> Result<Folder> {
    let mut found = Folder::default();
    let mut folders = vec![];
    for entry in sorted_entries(path)? {
        if !entry.is_dir() {
            found.skip(&entry, "not in a folder that names its label");
            continue;
        }
        let name = entry.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| Error::bad_data("a label that is not UTF-8").at(entry.display()))?;
        let label = label::clean(name).map_err(|e| e.at(entry.display()))?;
        found.list(&entry, &label)?;
        folders.push((entry, label));
    }
    found.drop_damaged();
    for (folder, label) in folders {
        if !found.labels.contains(&label) {
            found.skip(&folder, "no picture for this label");
        }
    }
    found.skipped.sort();
    if found.pictures.is_empty() {
        let e = Error::bad_data("a folder without pictures").at(path.display());
        let first = found.skipped.iter().find(|s| !s.file.is_dir()).or(found.skipped.first());
        let e = match first {
            Some(s) => e.because(format!("{} left out; {}: {}", found.skipped.len(), s.file.display(), s.reason)),
            None => e,
        };
        return Err(e.hint("put the pictures (.png, .jpg, .webp) into one sub-folder per label"));
    }
    Ok(found)
}

impl Folder {
    fn skip(&mut self, file: &Path, reason: &str) {
        self.skipped.push(Skipped { file: file.to_owned(), reason: reason.to_owned() });
    }

    /// Adds the pictures of one label.
    fn list(&mut self, folder: &Path, label: &str) -> Result<()> {
        for file in sorted_entries(folder)? {
            if file.is_dir() {
                self.skip(&file, "a folder within the folder of a label");
            } else if !image::is_named_as_picture(&file) {
                self.skip(&file, "not a .png, .jpg or .webp");
            } else if self.pictures.len() == MAX_PICTURES {
                return Err(Error::bad_data(format!("more than {MAX_PICTURES} pictures")).at(folder.display()));
            } else {
                self.labels.push(label.to_owned());
                self.pictures.push(file);
            }
        }
        Ok(())
    }

    /// Decodes every picture, on all cores, and leaves out those that do not decode.
    fn drop_damaged(&mut self) {
        let (next, damaged) = (AtomicUsize::new(0), Mutex::new(vec![]));
        let work = || {
            while let Some(file) = self.pictures.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(e) = image::read(file) {
                    let skipped = Skipped { file: file.clone(), reason: reason(&e, file) };
                    damaged.lock().unwrap_or_else(|e| e.into_inner()).push(skipped);
                }
            }
        };
        let threads = crate::process::available_cores().min(self.pictures.len());
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        let damaged = damaged.into_inner().unwrap_or_else(|e| e.into_inner());
        if damaged.is_empty() {
            return;
        }
        let out: std::collections::HashSet<&PathBuf> = damaged.iter().map(|s| &s.file).collect();
        let pairs = std::mem::take(&mut self.pictures).into_iter().zip(std::mem::take(&mut self.labels));
        (self.pictures, self.labels) = pairs.filter(|(file, _)| !out.contains(file)).unzip();
        self.skipped.extend(damaged);
    }
}

/// An error about `file`, in words that do not repeat its name.
fn reason(e: &Error, file: &Path) -> String {
    let name = file.display().to_string();
    e.to_string().replace(&format!(" ({name})"), "").replace(&format!("{name}: "), "")
}

/// Entries of a folder by name; hidden ones are left out.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |e| Error::io("cannot read the folder", folder, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}
