//! A session forgets: the records leave the disk, and so does every generation that learned from them.

use std::time::Duration;

use super::Session;
use super::language::with_later_turns;
use crate::error::Result;
use crate::store::{Forgotten, Selection};
use crate::sync::lock;

/// How long a training of the same profile is waited for.
const WAIT: Duration = Duration::from_secs(2);

impl Session {
    /// Forgets what is selected. From the next prediction on the nearest generation answers that never saw it, or the base;
    /// training again gives to the bit what would have been learned without it. When this returns, nothing of it is in the
    /// profile's files. Of a language model the later answers of the same conversations go as well: they hold it, too.
    /// Another answer to the same messages is an interaction of its own, and stays.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if an id is unknown: nothing is forgotten then;
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while the profile is trained.
    pub fn forget(&self, what: &Selection) -> Result<Forgotten> {
        let _held = self.store.lock_training(WAIT, "forgetting")?;
        let mut journal = lock(&self.journal);
        let more = if self.home.generates() { Some(with_later_turns(&mut journal, what)?) } else { None };
        let forgotten = self.store.forget(&mut journal, more.as_ref().unwrap_or(what))?;
        drop(journal);
        self.follow()?;
        Ok(forgotten)
    }
}
