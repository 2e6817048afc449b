//! Recording, and times of what is not part of a plan.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ON, Place, SPENT, Spent, add, is_on};
use crate::sync::lock;

/// One recording at a time.
static RECORDING: Mutex<()> = Mutex::new(());

/// Runs `work` and records its time as that of `pass`.
pub(crate) fn span<R>(pass: &'static str, work: impl FnOnce() -> R) -> R {
    if !is_on() {
        return work();
    }
    let start = Instant::now();
    let result = work();
    let place = Place { pass, device: "cpu", operator: String::new(), shape: String::new() };
    add(place, &Spent { calls: 1, time: start.elapsed(), ..Spent::default() });
    result
}

/// Runs `work` and says where its passes spent their time, if their plans are compiled in `prepare`. What that runs is
/// not counted.
pub(crate) fn record<P, R>(prepare: impl FnOnce() -> P, work: impl FnOnce(P) -> R) -> (R, Vec<(Place, Spent)>) {
    /// Ends the recording, however the work ends.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            ON.store(false, Ordering::Relaxed);
        }
    }
    let _one = lock(&RECORDING);
    ON.store(true, Ordering::Relaxed);
    let end = End;
    let prepared = prepare();
    lock(&SPENT).clear();
    let result = work(prepared);
    drop(end);
    (result, std::mem::take(&mut *lock(&SPENT)).into_iter().collect())
}
