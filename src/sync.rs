//! Locks, and loops over several threads.

use std::sync::Mutex;

use crate::error::{Error, Result};

/// A poisoned lock only means that another thread failed while it held it; the maps behind it are always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `work` over `jobs` on up to `threads` threads; results keep the order of the jobs.
pub(crate) fn in_parallel<J: Sync, T: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if threads <= 1 || jobs.len() <= 1 {
        return jobs.iter().map(work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut slots: Vec<Option<Result<T>>> = jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let run = || {
            let mut done = vec![];
            loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(job) = jobs.get(i) else { return done };
                done.push((i, work(job)));
            }
        };
        let workers: Vec<_> = (0..threads.min(jobs.len())).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            if let Ok(done) = worker.join() {
                for (i, result) in done {
                    slots[i] = Some(result);
                }
            }
        }
    });
    slots.into_iter().map(|s| s.unwrap_or_else(|| Err(Error::internal("a worker thread stopped")))).collect()
}
