//! A generation on probation: a try is counted durably before it begins, so that one that ends the process is seen by the next.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::head::{self, Cause, Head, RolledBack, TRIES};
use super::{Store, WriterLock};
use crate::disk::fault_injection::{Bug, planted};
use crate::error::{ErrorKind, Result};

/// A try of the generation on probation, under way: dropped without [`Probation::passed`] it stays counted.
#[derive(Debug)]
pub struct Probation {
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
    fn on_probation(&self) -> bool {
        self.current != 0 && self.probation_left > 0
    }
}

impl Store {
    /// The generation to use now and, where it is on probation, a try of it, counted. A generation whose last try never ended is
    /// rolled back automatically first. While another handle tries the generation, it is used without being counted.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn begin(&self) -> Result<(u64, Option<Probation>)> {
        let head = self.head()?;
        self.flush(&head);
        if !head.on_probation() {
            return Ok((head.current, None));
        }
        let lock = self.folder.join("probation.lock");
        let held = match WriterLock::acquire(&*self.disk, &lock, Duration::ZERO, "trying a generation") {
            Ok(held) => held,
            Err(e) if e.kind() == ErrorKind::Busy => return Ok((head.current, None)),
            Err(e) => return Err(e),
        };
        let _short = self.lock_short("trying a generation")?;
        let head = self.head()?;
        if !head.on_probation() {
            return Ok((head.current, None));
        }
        let Some(tries_left) = head.tries_left.checked_sub(1) else {
            return Ok((self.leave(head.current, Cause::Crash)?, None));
        };
        let under_way = UnderWay::begin();
        if !planted(Bug::ProbationCountedLate) {
            head::flip(&*self.disk, &self.head_path(), |h| Ok(Head { tries_left, ..h }))?;
        }
        Ok((
            head.current,
            Some(Probation { store: self.clone(), generation: head.current, _held: held, _under_way: under_way }),
        ))
    }

    /// Makes a head durable that this store has not met: whoever wrote it may have been killed before it could. Best effort, since a
    /// disk that cannot sync still answers.
    fn flush(&self, head: &Head) {
        if self.flushed.load(Ordering::Relaxed) != head.sequence && head::flush(&*self.disk, &self.head_path()).is_ok()
        {
            self.flushed.store(head.sequence, Ordering::Relaxed);
        }
    }

    /// Takes `generation` back, if it still serves; the active generation now.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn roll_back_automatically(&self, generation: u64, cause: Cause) -> Result<u64> {
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
            let rolled_back = Some(RolledBack { generation, cause });
            Ok(Head { current: target, previous, probation_left: 0, rolled_back, ..h })
        };
        head::flip(&*self.disk, &self.head_path(), change).map(|head| head.current)
    }
}

impl Probation {
    /// The generation that is tried.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends the try well, after `predictions` answers; how many more the probation asks for. What fails is tried once more: a generation
    /// should not be taken for crashed because one write failed.
    ///
    /// # Errors
    /// `BadData` if the head is damaged, `Busy`, `Io`.
    pub fn passed(self, predictions: u32) -> Result<u32> {
        self.count(predictions).or_else(|_| self.count(predictions))
    }

    fn count(&self, predictions: u32) -> Result<u32> {
        let store = &self.store;
        let _short = store.lock_short("counting the probation")?;
        let head = store.head()?;
        if head.current != self.generation || !head.on_probation() {
            return Ok(0);
        }
        let probation_left = head.probation_left.saturating_sub(predictions);
        let change = |h| Ok(Head { probation_left, tries_left: TRIES, ..h });
        head::flip(&*store.disk, &store.head_path(), change).map(|head| head.probation_left)
    }
}
