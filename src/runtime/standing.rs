//! Whether a profile has enough to learn from, told from its files alone: no model is loaded, and nothing is written.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::Home;
use super::config::Config;
use super::home::{keyed, profiles};
use crate::adapt::FEWEST_EXAMPLES;
use crate::base::Task;
use crate::disk::RealDisk;
use crate::error::{Error, Result};
use crate::journal::{Journal, JournalState};
use crate::store::{Store, profile_folder};

/// Share of all feedback that must be new, as the number that it is divided by.
const NEW_SHARE: usize = 20;

/// Length and time of a profile's journal: where they are as before, so is what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalMark {
    bytes: u64,
    changed: SystemTime,
}

/// What a profile has to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Feedback items that the last training did not read.
    pub waiting: usize,
    /// All feedback items.
    pub feedback: usize,
    /// Feedback items that teach by themselves.
    pub known_answers: usize,
}

impl Standing {
    /// Whether a training is worth its time: `after` new items of feedback, or when not given so many that trainings
    /// take a time that grows as the feedback does.
    pub fn is_due(&self, after: Option<usize>) -> bool {
        let wanted = after.unwrap_or_else(|| FEWEST_EXAMPLES.max(self.feedback / NEW_SHARE));
        self.waiting >= wanted.max(1) && self.known_answers >= FEWEST_EXAMPLES
    }

    fn of(state: &JournalState, of_texts: bool) -> Standing {
        let said = state.spoken().saturating_sub(state.ignored());
        let known_answers = if of_texts { said } else { said.saturating_sub(state.rejected()) };
        Standing { waiting: state.waiting(), feedback: state.feedback(), known_answers }
    }
}

impl Home {
    internal! {
        /// The profiles of the home in `path`, with the marks of their journals; none where there is no journal yet.
        ///
        /// # Errors
        /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where there is no home,
        /// [`ErrorKind::Io`](crate::ErrorKind::Io).
        pub fn journal_marks(path: &Path) -> Result<Vec<(String, Option<JournalMark>)>> {
            Config::read(&RealDisk, path)?;
            let mark = |profile: String| {
                let file = profile_folder(path, &profile)?.join("journal.log");
                let found = std::fs::metadata(&file).and_then(|m| Ok((m.len(), m.modified()?)));
                match found {
                    Ok((bytes, changed)) => Ok((profile, Some(JournalMark { bytes, changed }))),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok((profile, None)),
                    Err(e) => Err(Error::io("cannot look at the journal", &file, e)),
                }
            };
            profiles(&RealDisk, path)?.into_iter().map(mark).collect()
        }
    }

    internal! {
        /// What the profile of the home in `path` has to learn from.
        ///
        /// # Errors
        /// As [`Home::open`] where the settings, the key or the journal cannot be read.
        pub fn standing(path: &Path, profile: &str) -> Result<Standing> {
            let config = Config::read(&RealDisk, path)?;
            let key = config.key(&RealDisk, path, None)?;
            let disk = keyed(Arc::new(RealDisk), key.as_ref(), profile);
            let store = Store::open(disk.clone(), &profile_folder(path, profile)?)?;
            let state = Journal::load_state(&*disk, &store.journal_path())?;
            let of_texts = config.task.parse().is_ok_and(|task: Task| task == Task::CausalLm);
            Ok(Standing::of(&state, of_texts))
        }
    }
}

impl Home {
    internal! {
        /// Whether a training of the profile of the home in `path` could begin now. No model is loaded.
        ///
        /// # Errors
        /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) where one runs, [`ErrorKind::Io`](crate::ErrorKind::Io).
        pub fn training_may_begin(path: &Path, profile: &str) -> Result<()> {
            Store::open(Arc::new(RealDisk), &profile_folder(path, profile)?)?.training_may_begin()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_is_what_is_worth_a_training() {
        let due = |waiting, feedback, after| Standing { waiting, feedback, known_answers: feedback }.is_due(after);
        assert!(due(8, 8, None) && !due(7, 7, None));
        assert!(due(50, 1000, None) && !due(49, 1000, None), "a twentieth");
        assert!(due(1, 1000, Some(1)) && !due(0, 1000, Some(0)), "nothing new is never due");
        assert!(!due(3, 3, Some(1)), "too few to judge");
        let rejected = Standing { waiting: 20, feedback: 20, known_answers: 0 };
        assert!(!rejected.is_due(None), "only rejections");
    }
}
