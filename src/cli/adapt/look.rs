//! What is due, and what was said about it. Where nothing happens, a profile costs a look at unchanged files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use acclimate::runtime::{JournalMark, Standing, rest_of_today};
use acclimate::{Error, Home};

/// First and longest time after which what failed is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// Longest time after which a home that wrote enough today is looked at again: somebody may allow it more.
const LAST_LOOK: Duration = Duration::from_secs(900);

/// What is known of one profile, or of a home that cannot be looked at.
#[derive(Debug, Default)]
struct Known {
    /// Its journal when nothing was due.
    settled: Option<JournalMark>,
    /// All its feedback when it was left alone.
    left: Option<usize>,
    failures: u32,
    retry: Option<Instant>,
    /// The last failure that was said.
    said: String,
}

/// All homes, as they were at the last look.
#[derive(Debug)]
pub struct Looks {
    after: Option<usize>,
    known: HashMap<(PathBuf, Option<String>), Known>,
}

/// What a look at a profile finds.
pub enum Found {
    Nothing,
    Due(Standing),
    Failed(Error),
}

impl Looks {
    pub fn new(after: Option<usize>) -> Looks {
        Looks { after, known: HashMap::new() }
    }

    fn of(&mut self, home: &Path, profile: Option<&str>) -> &mut Known {
        self.known.entry((home.into(), profile.map(str::to_string))).or_default()
    }

    /// Looks at a profile whose journal has this mark.
    pub fn look(&mut self, home: &Path, profile: &str, mark: Option<JournalMark>) -> Found {
        let after = self.after;
        let known = self.of(home, Some(profile));
        if mark.is_none() || known.settled == mark || known.retry.is_some_and(|retry| Instant::now() < retry) {
            return Found::Nothing;
        }
        match Home::standing(home, profile) {
            Ok(standing) if standing.is_due(after) && known.left.is_none_or(|then| standing.feedback > then) => {
                Found::Due(standing)
            }
            Ok(_) => {
                (known.settled, known.failures) = (mark, 0);
                known.said.clear();
                Found::Nothing
            }
            Err(e) => Found::Failed(e),
        }
    }

    /// Notes that it went well; what was said before may be said again.
    pub fn went_well(&mut self, home: &Path, profile: Option<&str>) {
        *self.of(home, profile) = Known::default();
    }

    /// Notes that a home can be looked at. Where it could not before, a disk that is back, its profiles are tried at
    /// once.
    pub fn is_there(&mut self, home: &Path) {
        let was_gone = self.of(home, None).failures > 0;
        self.went_well(home, None);
        let of_home = self.known.iter_mut().filter(|((of, _), _)| was_gone && of == home);
        of_home.for_each(|(_, known)| (known.retry, known.failures) = (None, 0));
    }

    /// Notes that it is left alone until there is more feedback.
    pub fn left(&mut self, home: &Path, profile: &str, mark: Option<JournalMark>, feedback: usize) {
        *self.of(home, Some(profile)) = Known { settled: mark, left: Some(feedback), ..Known::default() };
    }

    /// Notes that it waits until tomorrow. Whether that is to be said.
    pub fn waits(&mut self, home: &Path, profile: &str) -> bool {
        const WAITS: &str = "waits";
        let known = self.of(home, Some(profile));
        known.retry = Some(Instant::now() + rest_of_today().min(LAST_LOOK));
        std::mem::replace(&mut known.said, WAITS.into()) != WAITS
    }

    /// Whether a home that failed is left alone for a while.
    pub fn rests(&self, home: &Path) -> bool {
        let known = self.known.get(&(home.into(), None));
        known.and_then(|known| known.retry).is_some_and(|retry| Instant::now() < retry)
    }

    /// Notes a failure; whether it is a new one, to be said.
    pub fn failed(&mut self, home: &Path, profile: Option<&str>, why: &str) -> bool {
        let known = self.of(home, profile);
        let wait = FIRST_RETRY.saturating_mul(1 << known.failures.min(16)).min(LAST_RETRY);
        (known.failures, known.retry) = (known.failures.saturating_add(1), Some(Instant::now() + wait));
        std::mem::replace(&mut known.said, why.to_string()) != why
    }

    /// Notes that another process is at work on it: it is looked at again next time. Whether that is to be said.
    pub fn busy(&mut self, home: &Path, profile: Option<&str>) -> bool {
        const BUSY: &str = "busy";
        std::mem::replace(&mut self.of(home, profile).said, BUSY.into()) != BUSY
    }
}
