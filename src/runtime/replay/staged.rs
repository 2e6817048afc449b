//! A home that is being made beside its place, so that it is there as a whole or not at all.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, folder_of, make_folder};
use crate::error::{Error, Result};

/// End of the name of a folder in which a home is being made; its name begins with a dot.
const UNFINISHED: &str = ".incoming";

/// The folder of a home that is being made. Removed when it is dropped before [`Staged::publish`]; what a process that
/// was killed left is removed by the next [`Staged::begin`].
pub(in crate::runtime) struct Staged<'a> {
    disk: &'a dyn Disk,
    folder: PathBuf,
    to: PathBuf,
    published: bool,
}

impl Staged<'_> {
    /// Refuses what cannot be made: a home in `to` of the home in `old`.
    ///
    /// # Errors
    /// `Usage` if one is in the other, or `to` is there and not an empty folder; `Io`.
    pub fn check(disk: &dyn Disk, old: &Path, to: &Path) -> Result<()> {
        let (from, new) = (resolved(old)?, resolved(to)?);
        if from == new {
            return Err(Error::usage("the new home and the old one are the same folder")
                .at(to.display())
                .hint("choose another folder for the new home; the old one is only read"));
        }
        if new.starts_with(&from) || from.starts_with(&new) {
            return Err(Error::usage("one of the two homes is to be inside of the other")
                .at(to.display())
                .hint("choose a folder beside the old home"));
        }
        let io = |e| Error::io("cannot look into the folder", to, e);
        let taken = disk.exists(to).map_err(io)? && !(to.is_dir() && disk.list(to).map_err(io)?.is_empty());
        match taken {
            true => Err(Error::usage("the folder of the new home is not empty")
                .at(to.display())
                .hint("choose another folder, or remove what is there")),
            false => Ok(()),
        }
    }

    /// An empty folder beside `to`.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin<'a>(disk: &'a dyn Disk, to: &Path) -> Result<Staged<'a>> {
        let to = resolved(to)?;
        let mut name = OsString::from(".");
        name.push(to.file_name().unwrap_or_default());
        name.push(UNFINISHED);
        let folder = folder_of(&to).join(name);
        let io = |e| Error::io("cannot remove an unfinished home", &folder, e);
        if disk.exists(&folder).map_err(io)? {
            disk.remove_all(&folder).map_err(io)?;
        }
        let staged = Staged { disk, folder, to, published: false };
        make_folder(disk, &staged.folder)?;
        Ok(staged)
    }

    /// Where it is made.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// `Usage` if something has that name by now, `Io`.
    pub fn publish(mut self) -> Result<()> {
        let io = |e| Error::io("cannot name the new home", &self.to, e);
        // An empty folder is replaced.
        let named = match self.disk.exists(&self.to).map_err(io)? {
            true => self.disk.rename(&self.folder, &self.to),
            false => self.disk.rename_new(&self.folder, &self.to),
        };
        named.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {
                Error::usage("the folder of the new home was taken meanwhile").at(self.to.display())
            }
            _ => io(e),
        })?;
        self.published = true;
        self.disk.sync_dir(folder_of(&self.to)).map_err(io)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.disk.remove_all(&self.folder);
        }
    }
}

/// `path` without links and dots, as far as it is there.
fn resolved(path: &Path) -> Result<PathBuf> {
    let io = |e| Error::io("cannot find the folder", path, e);
    let whole = std::path::absolute(path).map_err(io)?;
    for there in whole.ancestors() {
        match there.canonicalize() {
            Ok(real) => {
                let rest = whole.strip_prefix(there).unwrap_or(Path::new(""));
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(io(e)),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_home_is_there_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for there in [false, true] {
            let to = at(if there { "empty" } else { "missing/deep" });
            if there {
                std::fs::create_dir(&to).unwrap();
            }
            let before = Staged::begin(&RealDisk, &to).unwrap();
            let folder = before.folder().to_owned();
            std::fs::write(folder.join("left"), "x").unwrap();
            // A process that is killed drops nothing.
            std::mem::forget(before);
            let staged = Staged::begin(&RealDisk, &to).unwrap();
            assert_eq!(staged.folder(), folder);
            assert!(!folder.join("left").exists(), "what was left is gone");
            drop(staged);
            assert!(!folder.exists() && to.exists() == there);
            let staged = Staged::begin(&RealDisk, &to).unwrap();
            std::fs::write(folder.join("whole"), "x").unwrap();
            staged.publish().unwrap();
            assert!(to.join("whole").exists() && !folder.exists());
        }
    }

    #[test]
    fn homes_lie_beside_each_other_in_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("old/profiles")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("old"), at("link")).unwrap();
        let check = |to: &str| Staged::check(&RealDisk, &at("old"), &at(to));
        for (to, words) in [
            ("old", "the same folder"),
            ("link", "the same folder"),
            ("empty/../old", "the same folder"),
            ("old/new", "inside of the other"),
            ("link/new", "inside of the other"),
            ("", "inside of the other"),
            ("file", "not empty"),
        ] {
            let e = check(to).unwrap_err();
            assert!(e.to_string().contains(words), "{to}: {e}");
        }
        assert!(check("empty").is_ok() && check("new").is_ok() && check("a/b/new").is_ok());
    }
}
