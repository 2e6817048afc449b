//! Whether the process was killed in the middle of a training, and how often at the same place: a training that is too
//! large for the machine must not be begun for ever.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::train_options::{AfterDeaths, TrainOptions};
use super::{Session, now_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::process::TrainLimits;
use crate::store::{Cut, DerivedFile};
use crate::sync::lock;

/// Deaths at one place after which less memory is tried, and deaths at any.
const DEATHS: u32 = 2;
const DEATHS_ANYWHERE: u32 = 4;
/// How often less is tried before the training is left alone.
const LEVELS: u32 = 2;

/// What is kept while a training runs. What is found at the begin of one is of a process that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Where the checkpoint stood.
    place: String,
    /// How often a process died there.
    deaths: u32,
    /// How often since less memory was tried, wherever.
    #[serde(default)]
    anywhere: u32,
    /// How often in all.
    #[serde(default)]
    times: u32,
    /// How often less memory was tried.
    level: u32,
    /// And how much, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    /// Feedback that there was.
    feedback: u64,
    at_ms: u64,
    /// Whether it ended without a verdict and without a death.
    #[serde(default)]
    interrupted: bool,
}

impl Kept {
    /// The note of a training that begins at `place`, after what `before` says.
    fn next(before: Option<Kept>, place: String, feedback: u64) -> Kept {
        let now = Kept {
            place,
            deaths: 0,
            anywhere: 0,
            times: 0,
            level: 0,
            memory: None,
            feedback,
            at_ms: now_ms(),
            interrupted: false,
        };
        let Some(before) = before else { return now };
        let (level, times, memory) = (before.level, before.times, before.memory);
        if level > LEVELS {
            // Something new may change what it takes.
            return Kept { level: if feedback > before.feedback { LEVELS } else { level }, times, ..now };
        }
        if before.interrupted {
            return Kept { level, times, memory, ..now };
        }
        let times = times.saturating_add(1);
        let deaths = if before.place == now.place { before.deaths.saturating_add(1) } else { 1 };
        let anywhere = before.anywhere.saturating_add(1);
        match deaths >= DEATHS || anywhere >= DEATHS_ANYWHERE {
            true => Kept { level: level.saturating_add(1), times, ..now },
            false => Kept { deaths, anywhere, level, times, memory, ..now },
        }
    }
}

/// The note of the training that runs, for the end of the process that is no death.
static UNDER_WAY: Mutex<Option<(DerivedFile, Kept)>> = Mutex::new(None);

/// The process is about to end because it was told to: that is no death of the training that runs. How little memory it
/// has to take stays known.
pub fn excuse_training() {
    let Some((note, kept)) = lock(&UNDER_WAY).take() else { return };
    // What cannot be written is counted once; it takes two.
    let _ = match kept.level {
        0 => note.remove(),
        _ => toml::to_string(&Kept { deaths: 0, anywhere: 0, interrupted: true, ..kept })
            .map_or(Ok(()), |text| note.keep(&text)),
    };
}

/// A training that is noted until this is dropped.
pub(super) struct Attempt {
    pub limits: TrainLimits,
}

impl Attempt {
    /// It came to a verdict: nothing needs to be known of it.
    pub fn end(self) {
        if let Some((note, _)) = lock(&UNDER_WAY).take() {
            let _ = note.remove();
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        excuse_training();
    }
}

impl Session {
    /// Notes that a training begins, where `options` ask for it. To be called with the training lock held.
    ///
    /// # Errors
    /// `Busy` where nothing is left to be read; what the options say about the deaths before it; `Io`.
    pub(super) fn begin_attempt(&self, options: &TrainOptions<'_>) -> Result<Option<Attempt>> {
        let Some(careful) = options.careful else { return Ok(None) };
        let note = self.store.attempt();
        // A note that cannot be read is as good as none.
        let before: Option<Kept> = note.text().ok().flatten().and_then(|text| toml::from_str(&text).ok());
        let was_left = before.as_ref().is_some_and(|before| before.level > LEVELS);
        let feedback = {
            let journal = lock(&self.journal);
            // Of two that found it due the second finds it done.
            if journal.state().waiting() == 0 {
                return Err(Error::new(ErrorKind::Busy, "another process has just trained this profile")
                    .at(self.store.folder().display())
                    .hint("nothing is to be done"));
            }
            Cut::all(journal.state())?.feedback
        };
        let mut now = Kept::next(before, self.store.checkpoint().place()?, feedback);
        let times = now.times;
        let limits = careful(match now.level {
            0 if times == 0 => AfterDeaths::AsUsual,
            0 => AfterDeaths::Again { times },
            level if level > LEVELS => AfterDeaths::LeaveAlone,
            level => AfterDeaths::Halved { times, level, memory: now.memory },
        });
        if (1..=LEVELS).contains(&now.level) {
            now.memory = limits.as_ref().ok().and_then(|limits| limits.memory_bytes);
        }
        if !(was_left && now.level > LEVELS) {
            let text = toml::to_string(&now).map_err(|e| Error::internal("cannot note a training").because(e))?;
            note.keep(&text)?;
        }
        let limits = limits?;
        *lock(&UNDER_WAY) = Some((note, now));
        Ok(Some(Attempt { limits }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels and deaths of trainings that all die, at these places and with so much feedback.
    fn levels(begun: &[(&str, u64)]) -> Vec<(u32, u32)> {
        let mut before = None;
        let one = |(place, feedback): &(&str, u64)| {
            let now = Kept::next(before.take(), place.to_string(), *feedback);
            let said = (now.level, now.deaths);
            before = Some(toml::from_str(&toml::to_string(&now).unwrap()).unwrap());
            said
        };
        begun.iter().map(one).collect()
    }

    #[test]
    fn two_deaths_at_one_place_halve_the_memory_and_six_end_it() {
        let same = [("a", 9); 8];
        assert_eq!(levels(&same), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 0)]);
        assert_eq!(levels(&[("a", 9), ("b", 9), ("c", 9), ("d", 9)]).last(), Some(&(0, 1)), "it gets further");
        assert_eq!(levels(&[("a", 9), ("b", 9), ("b", 9)]), [(0, 0), (0, 1), (1, 0)], "twice before the same step");
        let further = [("a", 9), ("b", 9), ("c", 9), ("d", 9), ("e", 9), ("f", 9)];
        assert_eq!(levels(&further)[4..], [(1, 0), (1, 1)], "a little further each time is no way to end");
        let interrupted = Kept { level: 2, deaths: 1, interrupted: true, ..Kept::next(None, "a".into(), 9) };
        let again = Kept::next(Some(interrupted), "a".into(), 9);
        assert_eq!((again.level, again.deaths, again.interrupted), (2, 0, false), "as little memory as before");
        let more = [&same[..7], &[("a", 10)]].concat();
        assert_eq!(levels(&more).last(), Some(&(LEVELS, 0)), "with new feedback it is tried once more");
    }

    #[test]
    fn the_memory_of_a_level_stays_what_it_was_first_until_the_verdict() {
        use std::path::Path;
        use std::sync::atomic::{AtomicU64, Ordering};

        use crate::input::LabelledSet;
        use crate::runtime::{Feedback, Home, InitOptions};

        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx"))).unwrap();
        let session = home.session("p").unwrap();
        let windows = LabelledSet::read(models.join("hapt_users_23_26.npz")).unwrap();
        let id = session.predict(&windows.input(0).unwrap()).unwrap().id.unwrap();
        session.feedback(id, Feedback::Accept).unwrap();
        // What is free is another number each time.
        let free = AtomicU64::new(800 << 20);
        let careful = |deaths| {
            let most = free.fetch_sub(1 << 20, Ordering::Relaxed);
            Ok(match deaths {
                AfterDeaths::Halved { level, memory, .. } => {
                    TrainLimits::default().memory_bytes(memory.unwrap_or(most >> level))
                }
                _ => TrainLimits::default(),
            })
        };
        let options = TrainOptions::default().careful(&careful);
        let begin = || session.begin_attempt(&options).unwrap().unwrap();
        // A process that dies drops nothing.
        let dies = || {
            let attempt = begin();
            let memory = attempt.limits.memory_bytes;
            std::mem::forget(attempt);
            memory
        };
        let (first, second) = (798 << 19, 794 << 18);
        assert_eq!([dies(), dies(), dies()], [None, None, Some(first)]);
        // A stop in between changes nothing.
        let stopped = begin();
        assert_eq!(stopped.limits.memory_bytes, Some(first));
        drop(stopped);
        assert_eq!([dies(), dies(), dies()], [Some(first), Some(first), Some(second)]);
        begin().end();
        assert_eq!(dies(), None, "a verdict ends it");
    }
}
