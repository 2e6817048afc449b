//! When work in the background may run: it pauses while a [limit](Limits) is crossed, and goes on when it has been kept
//! for a while.

mod limits;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use limits::{Crossed, Limits, Reason, Reasons};

use crate::device::Sensors;
use crate::process::Pacer;

/// Looks in a row that find all limits kept before work goes on.
const CALM_LOOKS: u32 = 2;

/// How often to look, and how long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Shortest time between looks while work goes on.
    pub working: Duration,
    /// Time between looks in a pause.
    pub paused: Duration,
    /// Longest pause that is waited for in memory.
    pub patience: Duration,
}

impl Default for Rhythm {
    fn default() -> Rhythm {
        Rhythm { working: Duration::from_secs(1), paused: Duration::from_secs(5), patience: Duration::from_secs(600) }
    }
}

/// What a [`Guest`] tells of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    Paused(Crossed),
    /// The pause was longer than the guest's patience: the work ends here.
    GaveUp(Crossed),
    Resumed {
        /// What was crossed last.
        last: Reason,
        /// All that was crossed meanwhile.
        reasons: Reasons,
        paused: Duration,
    },
}

/// Work in the background, as the [`Pacer`] of a training. All threads that ask wait for the one that looks.
pub struct Guest<'a> {
    pub sensors: &'a dyn Sensors,
    pub limits: Limits,
    pub rhythm: Rhythm,
    /// Sleeps; true when the process is to stop.
    pub sleep: &'a (dyn Fn(Duration) -> bool + Sync),
    pub tell: &'a (dyn Fn(Change) + Sync),
    pub state: Mutex<State>,
}

/// Where a guest stands.
#[derive(Debug, Default)]
pub struct State {
    looked: Option<Instant>,
    /// A pause that is not over.
    pause: Option<Pause>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Instant,
    /// What was crossed at the last look that found something.
    last: Crossed,
    reasons: Reasons,
}

impl Pause {
    fn of(all: &[Crossed]) -> Option<Pause> {
        let last = *all.first()?;
        let mut pause = Pause { since: Instant::now(), last, reasons: Reasons::default() };
        pause.note(all);
        Some(pause)
    }

    fn note(&mut self, all: &[Crossed]) {
        all.iter().for_each(|crossed| self.reasons.note(crossed.reason));
        self.last = all.first().copied().unwrap_or(self.last);
    }
}

/// What became of a wait.
enum Waited {
    Calm,
    Stopped,
    TooLong,
}

impl Guest<'_> {
    /// Waits until all limits are kept, however long it takes; false when the process is to stop.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(self.calm(&mut state, None), Waited::Calm)
    }

    /// Whether the last work ended because a pause was too long.
    pub fn gave_up(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).pause.is_some()
    }

    fn calm(&self, state: &mut State, patience: Option<Duration>) -> Waited {
        let is_new = state.pause.is_none();
        let found = state.pause.or_else(|| Pause::of(&self.limits.crossed(self.sensors, false)));
        let Some(mut pause) = found else { return Waited::Calm };
        state.pause = Some(pause);
        if is_new {
            (self.tell)(Change::Paused(pause.last));
        }
        let mut calm = 0;
        while calm < CALM_LOOKS {
            if (self.sleep)(self.rhythm.paused) {
                return Waited::Stopped;
            }
            let crossed = self.limits.crossed(self.sensors, true);
            pause.note(&crossed);
            state.pause = Some(pause);
            calm = if crossed.is_empty() { calm + 1 } else { 0 };
            if calm == 0 && patience.is_some_and(|most| pause.since.elapsed() > most) {
                return Waited::TooLong;
            }
        }
        state.pause = None;
        let Pause { last, reasons, since } = pause;
        (self.tell)(Change::Resumed { last: last.reason, reasons, paused: since.elapsed() });
        Waited::Calm
    }
}

impl Pacer for Guest<'_> {
    fn may_go_on(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread of the training has given up.
        if state.pause.is_some() {
            return false;
        }
        if state.looked.is_some_and(|looked| looked.elapsed() < self.rhythm.working) {
            return true;
        }
        let waited = self.calm(&mut state, Some(self.rhythm.patience));
        state.looked = Some(Instant::now());
        if let (Waited::TooLong, Some(pause)) = (&waited, state.pause) {
            (self.tell)(Change::GaveUp(pause.last));
        }
        matches!(waited, Waited::Calm)
    }
}

impl fmt::Debug for Guest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("limits", &self.limits).field("rhythm", &self.rhythm).finish_non_exhaustive()
    }
}
