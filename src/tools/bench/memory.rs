//! The memory of this process while it works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::status_bytes;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Ends the watch, however the work ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn anonymous() -> u64 {
    status_bytes("/proc/self/status", "RssAnon:")
}

/// Memory that no file backs, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anonymous {
    /// What was held before the work.
    before: u64,
    /// The most that was held meanwhile. Memory that was freed before and is used again does not count twice.
    pub most: u64,
}

impl Anonymous {
    /// What the work took beyond what was held before.
    pub fn more(self) -> u64 {
        self.most.saturating_sub(self.before)
    }
}

/// What `work` gives, and the memory that was held meanwhile.
pub(super) fn most_anonymous<T>(work: impl FnOnce() -> T) -> Result<(T, Anonymous)> {
    let before = anonymous();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(anonymous());
                std::thread::sleep(PAUSE);
            }
            most
        });
        let end = Done(&done);
        let result = work();
        // What is held at the end may be the most, and fall between two looks.
        let last = anonymous();
        drop(end);
        let most = most.join().map_err(|_| Error::internal("the memory could not be watched"))?;
        Ok((result, Anonymous { before, most: most.max(last).max(before) }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_for_a_moment_counts() {
        let (sum, held) = most_anonymous(|| {
            let held = std::hint::black_box(vec![1u8; 96 << 20]);
            std::thread::sleep(10 * PAUSE);
            held.iter().map(|b| u64::from(*b)).sum::<u64>()
        })
        .unwrap();
        assert_eq!(sum, 96 << 20);
        // Other tests may run in this process, and give memory back meanwhile.
        assert!(held.more() > 48 << 20 && held.most > held.more(), "{held:?}");
    }
}
