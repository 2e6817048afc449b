//! Whether a candidate can be finished in the time that a training has: told from its first steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Part of a fit's steps, and the fewest of them, that are timed before anything is told from them.
const TIMED: u64 = 10;
const FEWEST: u64 = 2;

/// The time of one training.
pub(super) struct Pace {
    started: Instant,
    budget: Option<Duration>,
    late: AtomicBool,
}

impl Pace {
    pub fn new(started: Instant, budget: Option<Duration>) -> Pace {
        Pace { started, budget, late: AtomicBool::new(false) }
    }

    /// Whether some fit was stopped because the budget does not reach.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Whether `ahead` from now would be too much.
    pub fn would_be_late(&self, ahead: Duration) -> bool {
        self.budget.is_some_and(|b| self.started.elapsed() + ahead > b)
    }

    /// To be asked before each of `steps` steps: whether to stop here. `ahead` are the steps that come after them,
    /// where they are the first and tell what all of them take; those of later ones are not looked at. Nor are the
    /// first `warm` steps, which compile plans and compute what later ones find kept.
    pub fn watch(&self, steps: u64, warm: u64, ahead: Option<u64>) -> impl Fn() -> bool + Sync + '_ {
        let clock: Mutex<(u64, Option<Instant>)> = Mutex::default();
        move || {
            let mut clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
            let done = clock.0;
            clock.0 += 1;
            if done == 0 || self.budget.is_none() {
                return false;
            }
            let timed = done.saturating_sub(warm);
            if done <= warm {
                clock.1 = Some(Instant::now());
            }
            let ahead = match (clock.1, ahead) {
                (Some(first), Some(ahead)) if timed >= (steps / TIMED).max(FEWEST) => {
                    let step = first.elapsed().as_secs_f64() / timed as f64;
                    let left = steps.saturating_sub(done) + ahead;
                    Duration::try_from_secs_f64(step * left as f64).unwrap_or(Duration::MAX)
                }
                _ => Duration::ZERO,
            };
            if self.is_late() || self.would_be_late(ahead) {
                self.late.store(true, Ordering::Relaxed);
            }
            self.is_late()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: u64 = 3;

    /// The step before which a fit of 100 steps of 2 ms is stopped.
    fn stopped_at(budget_ms: u64, ahead: Option<u64>) -> Option<u64> {
        let pace = Pace::new(Instant::now(), Some(Duration::from_millis(budget_ms)));
        let stop = pace.watch(100, WARM, ahead);
        let at = (0..100).find(|_| {
            let late = stop();
            std::thread::sleep(Duration::from_millis(2));
            late
        });
        assert_eq!(pace.is_late(), at.is_some());
        at
    }

    #[test]
    fn what_cannot_be_finished_is_stopped_early() {
        assert!(stopped_at(300, Some(200)).is_some_and(|at| at <= 10 + WARM), "600 ms of steps and more");
        assert_eq!(stopped_at(60_000, Some(200)), None);
        assert_eq!(stopped_at(0, Some(200)), Some(1), "nothing is left");
        assert!(stopped_at(150, None).is_some(), "when it is late");
        assert!((0..50).all(|_| !Pace::new(Instant::now(), None).watch(1, 1, Some(1))()));
    }
}
