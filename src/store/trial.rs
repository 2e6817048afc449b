//! A generation on trial: a try is counted on the medium before it begins, so that one that ends the process is seen by the next.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::head::{self, Cause, Head, TRIES, TakenBack};
use super::{Store, WriterLock};
use crate::disk::fault_injection::{Bug, planted};
use crate::error::{ErrorKind, Result};

/// A try of the generation on trial, under way: dropped without [`Trial::passed`] it stays counted.
#[derive(Debug)]
pub struct Trial {
    store: Store,
    generation: u64,
    /// While it is held, a try that has not ended is no failure.
    _held: WriterLock,
    _under_way: UnderWay,
}

/// The tries of this process.
#[derive(Debug, Default)]
struct Tries {
    under_way: usize,
    /// None may begin any more.
    closed: bool,
}

static TRIES_HERE: (Mutex<Tries>, Condvar) = (Mutex::new(Tries { under_way: 0, closed: false }), Condvar::new());

fn tries_here() -> MutexGuard<'static, Tries> {
    TRIES_HERE.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A try that is counted among those of this process until this is dropped.
#[derive(Debug)]
struct UnderWay;

impl UnderWay {
    /// Waits for the end of the process where no try may begin any more.
    fn begin() -> UnderWay {
        let mut tries = tries_here();
        while tries.closed {
            tries = TRIES_HERE.1.wait(tries).unwrap_or_else(PoisonError::into_inner);
        }
        tries.under_way = tries.under_way.saturating_add(1);
        UnderWay
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut tries = tries_here();
        tries.under_way = tries.under_way.saturating_sub(1);
        TRIES_HERE.1.notify_all();
    }
}

/// Lets the tries of this process end, for at most `wait`, and no other one begin: to be called by whoever is about to end the
/// process, so that its end is not taken for a crash of the generation that is tried. What wants to begin a try waits from now on.
pub fn end_tries(wait: Duration) {
    let mut tries = tries_here();
    tries.closed = true;
    let ended = TRIES_HERE.1.wait_timeout_while(tries, wait, |tries| tries.under_way > 0);
    drop(ended.unwrap_or_else(PoisonError::into_inner));
}

impl Head {
    fn on_trial(&self) -> bool {
        self.current != 0 && self.trial_left > 0
    }
}

impl Store {
    /// The generation to use now and, where it is on trial, a try of it, counted. A generation whose last try never ended is
    /// taken back first. While another handle tries the generation, it is used without being counted.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn begin(&self) -> Result<(u64, Option<Trial>)> {
        let head = self.head()?;
        self.settle(&head);
        if !head.on_trial() {
            return Ok((head.current, None));
        }
        let lock = self.folder.join("trial.lock");
        let held = match WriterLock::acquire(&*self.disk, &lock, Duration::ZERO, "trying a generation") {
            Ok(held) => held,
            Err(e) if e.kind() == ErrorKind::Busy => return Ok((head.current, None)),
            Err(e) => return Err(e),
        };
        let _short = self.lock_short("trying a generation")?;
        let head = self.head()?;
        if !head.on_trial() {
            return Ok((head.current, None));
        }
        let Some(tries_left) = head.tries_left.checked_sub(1) else {
            return Ok((self.leave(head.current, Cause::Crash)?, None));
        };
        let under_way = UnderWay::begin();
        if !planted(Bug::TrialCountedLate) {
            head::flip(&*self.disk, &self.head_path(), |h| Ok(Head { tries_left, ..h }))?;
        }
        Ok((
            head.current,
            Some(Trial { store: self.clone(), generation: head.current, _held: held, _under_way: under_way }),
        ))
    }

    /// Makes a head durable that this store has not met: whoever wrote it may have been killed before it could. Best effort, since a
    /// disk that cannot sync still answers.
    fn settle(&self, head: &Head) {
        if self.settled.load(Ordering::Relaxed) != head.sequence && head::settle(&*self.disk, &self.head_path()).is_ok()
        {
            self.settled.store(head.sequence, Ordering::Relaxed);
        }
    }

    /// Takes `generation` back, if it still serves; the generation that serves now.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn take_back(&self, generation: u64, cause: Cause) -> Result<u64> {
        let _short = self.lock_short("taking a generation back")?;
        let current = self.current()?;
        if current == generation && current != 0 { self.leave(generation, cause) } else { Ok(current) }
    }

    /// Goes from `generation` to the one before it that can be read, under the short lock.
    fn leave(&self, generation: u64, cause: Cause) -> Result<u64> {
        let sound = |number: &u64| *number == 0 || self.open_generation(*number, None).is_ok();
        let change = |h: Head| {
            let mut target = h.previous;
            while !sound(&target) {
                target = self.previous_of(target, |_| true);
            }
            let previous = self.previous_of(target, |_| true);
            let taken_back = Some(TakenBack { generation, cause });
            Ok(Head { current: target, previous, trial_left: 0, taken_back, ..h })
        };
        head::flip(&*self.disk, &self.head_path(), change).map(|head| head.current)
    }
}

impl Trial {
    /// The generation that is tried.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends the try well, after `predictions` answers; how many more the trial asks for. What fails is tried once more: a generation
    /// should not be taken for crashed because one write failed.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn passed(self, predictions: u32) -> Result<u32> {
        self.count(predictions).or_else(|_| self.count(predictions))
    }

    fn count(&self, predictions: u32) -> Result<u32> {
        let store = &self.store;
        let _short = store.lock_short("counting the trial")?;
        let head = store.head()?;
        if head.current != self.generation || !head.on_trial() {
            return Ok(0);
        }
        let trial_left = head.trial_left.saturating_sub(predictions);
        let change = |h| Ok(Head { trial_left, tries_left: TRIES, ..h });
        head::flip(&*store.disk, &store.head_path(), change).map(|head| head.trial_left)
    }
}
