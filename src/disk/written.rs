//! How much this process has written through the real disk.

use std::sync::atomic::{AtomicU64, Ordering};

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Bytes of files that this process has written since it began. What the file system adds is not among them.
pub fn bytes_written() -> u64 {
    WRITTEN.load(Ordering::Relaxed)
}

pub(super) fn count(bytes: usize) {
    WRITTEN.fetch_add(bytes as u64, Ordering::Relaxed);
}
