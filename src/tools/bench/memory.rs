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

/// Memory of this process that no file backs, bytes.
pub(super) fn anonymous() -> u64 {
    status_bytes("/proc/self/status", "RssAnon:")
}

/// What `work` gives, and the most that it took of memory that no file backs, beyond what was held before.
pub(super) fn most_anonymous<T>(work: impl FnOnce() -> T) -> Result<(T, u64)> {
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
        Ok((result, most.max(last).saturating_sub(before)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_for_a_moment_counts() {
        let (sum, bytes) = most_anonymous(|| {
            let held = std::hint::black_box(vec![1u8; 96 << 20]);
            std::thread::sleep(10 * PAUSE);
            held.iter().map(|b| u64::from(*b)).sum::<u64>()
        })
        .unwrap();
        assert_eq!(sum, 96 << 20);
        // Other tests may run in this process, and give memory back meanwhile.
        assert!(bytes > 48 << 20, "{bytes}");
    }
}
