//! What the last training found out beside its verdict: `choice.toml`, which sites it chose within limits, and how
//! much of the gradient of the person's feedback falls on each; `doubts.toml`, which feedback it doubts;
//! `attempt.toml`, that one in the background runs. Derived from feedback, so it is encrypted where the profile is, and
//! forgotten with any of it. `written.toml`, how many bytes trainings write a day, tells nothing of what was said: it
//! stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{Finding, State};
use crate::disk::{Disk, StagedFile, folder_of, read_file};
use crate::disk::{open_file, seal_file};
use crate::error::{Error, ErrorKind, Result};

/// Largest file that is read.
const LONGEST: u64 = 16 << 20;

/// One such file of one profile. Written only with the training lock held.
#[derive(Debug, Clone)]
pub struct DerivedFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    what: &'static str,
}

impl DerivedFile {
    pub(super) fn choice(disk: Arc<dyn Disk>, profile: &Path) -> DerivedFile {
        DerivedFile { disk, path: profile.join("choice.toml"), what: "which layers the last training chose" }
    }

    pub(super) fn doubts(disk: Arc<dyn Disk>, profile: &Path) -> DerivedFile {
        DerivedFile { disk, path: profile.join("doubts.toml"), what: "which feedback the last training doubts" }
    }

    pub(super) fn written(disk: Arc<dyn Disk>, profile: &Path) -> DerivedFile {
        DerivedFile { disk, path: profile.join("written.toml"), what: "how much trainings wrote in the last days" }
    }

    pub(super) fn attempt(disk: Arc<dyn Disk>, profile: &Path) -> DerivedFile {
        DerivedFile { disk, path: profile.join("attempt.toml"), what: "a training in the background that runs" }
    }

    /// Keeps `text` in the place of what was there.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep(&self, text: &str) -> Result<()> {
        let bytes = seal_file(&*self.disk, &self.path, text.as_bytes().to_vec())?;
        StagedFile::write(&*self.disk, folder_of(&self.path), &bytes)?.replace(&self.path)
    }

    /// What was kept; `None` if there is nothing.
    ///
    /// # Errors
    /// `BadData` if it is damaged, `NoKey`, `Io`.
    pub fn text(&self) -> Result<Option<String>> {
        if !self.is_there()? {
            return Ok(None);
        }
        let bytes = read_file(&*self.disk, &self.path, LONGEST)?;
        let bytes = open_file(&*self.disk, &self.path, &bytes)?.unwrap_or(bytes);
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|e| Error::bad_data("not a text file").at(self.path.display()).because(e))
    }

    fn is_there(&self) -> Result<bool> {
        self.disk.exists(&self.path).map_err(|e| Error::io("cannot look for the file", &self.path, e))
    }

    /// Removes it; returns when it is gone from storage.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self) -> Result<()> {
        if !self.is_there()? {
            return Ok(());
        }
        let gone = self.disk.remove(&self.path).and_then(|()| self.disk.sync_dir(folder_of(&self.path)));
        gone.map_err(|e| Error::io("cannot remove the file", &self.path, e))
    }

    pub(super) fn finding(&self) -> Result<Option<Finding>> {
        match self.text() {
            Ok(text) => Ok(text.map(|_| Finding::new(&self.path, State::Sound, self.what))),
            Err(e) if e.kind() == ErrorKind::BadData => {
                Ok(Some(Finding::new(&self.path, State::Leftover, format!("{e}; the next training replaces it"))))
            }
            Err(e) => Err(e),
        }
    }
}
