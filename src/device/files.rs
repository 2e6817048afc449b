//! Files of the system below a root, read in bounded pieces and without waiting.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Most bytes of one file, files of one folder, and letters of one word that are read.
const MOST_BYTES: u64 = 1 << 20;
const MOST_NAMES: usize = 1024;
const MOST_LETTERS: usize = 200;

/// What lies below a root: `/`, or a folder with the files of a recorded board.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    pub fn below(root: impl Into<PathBuf>) -> Files {
        Files { root: root.into() }
    }

    /// True when these are the files of the running system.
    pub fn are_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `path` lies. It cannot leave the root by `..`.
    pub fn path(&self, path: &str) -> PathBuf {
        let inside = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
        self.root.join(inside.collect::<PathBuf>())
    }

    /// The text of a regular file, its first megabyte at most. None where it cannot be read, or nothing is in it.
    pub fn text(&self, path: &str) -> Option<String> {
        let file = open(&self.path(path))?;
        let mut bytes = vec![];
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
    }

    /// The first line of a file, without characters that do anything to a terminal.
    pub fn word(&self, path: &str) -> Option<String> {
        word(self.text(path)?.lines().next()?)
    }

    /// The number that a file holds.
    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    /// Names in a folder: `zone2` before `zone10`. Empty where it cannot be read.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return vec![] };
        let names = entries.flatten().take(MOST_NAMES).filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}

/// `text` as one printable word; None where nothing is left of it.
pub fn word(text: &str) -> Option<String> {
    let word: String = text.chars().filter(|c| !c.is_control()).take(MOST_LETTERS).collect();
    Some(word.trim().to_string()).filter(|word| !word.is_empty())
}

/// Opens a regular file to read. A pipe that nobody writes to is not waited for.
fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path).ok()?;
    file.metadata().is_ok_and(|about| about.is_file()).then_some(file)
}
