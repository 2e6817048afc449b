//! Where the segments of a journal are, and what their files are called.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Result};

/// The folder of the segments of the journal at `path`.
pub fn segments_folder(path: &Path) -> PathBuf {
    path.with_extension("segments")
}

pub(super) fn segment_path(journal: &Path, number: u32) -> PathBuf {
    segments_folder(journal).join(format!("{number:06}.log"))
}

/// The number of the segment that a file of this name is.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log").filter(|d| d.len() >= 6 && d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Names in the folder of the segments of the journal at `path`.
pub(super) fn segment_names(disk: &dyn Disk, path: &Path) -> Result<Vec<String>> {
    let folder = segments_folder(path);
    let io = |e| Error::io("cannot list the segments of the journal", &folder, e);
    if disk.exists(&folder).map_err(io)? { disk.list(&folder).map_err(io) } else { Ok(vec![]) }
}
