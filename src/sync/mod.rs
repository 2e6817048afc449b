//! Locks, and loops over several threads.

mod cores;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::process::caught;
pub(crate) use cores::{cores, each_chunk, each_job, each_part, on_cores, parts, run_pass, times_shared};

/// A poisoned lock only means that another thread failed while it held it; the maps behind it are always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `work` over `jobs` on up to `threads` threads; results keep the order of the jobs. Where there are
/// more threads than jobs, the passes of each share its part of them.
///
/// # Errors
/// That of the first job that failed; a job that panics is an error that says what the panic said, on any number of threads.
pub(crate) fn in_parallel<J: Sync, T: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let gave_up = |text| Error::internal("a worker gave up").because(text);
    let one = |job| caught(|| work(job)).unwrap_or_else(|text| Err(gave_up(text)));
    if threads <= 1 || jobs.len() <= 1 {
        return on_cores(threads, || jobs.iter().map(one).collect());
    }
    let (next, workers) = (AtomicUsize::new(0), threads.min(jobs.len()));
    let mut slots: Vec<Option<Result<T>>> = jobs.iter().map(|_| None).collect();
    let run = || {
        on_cores(threads / workers, || {
            let mut done = vec![];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(i) else { return done };
                done.push((i, one(job)));
            }
        })
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        for (i, result) in workers.into_iter().filter_map(|worker| worker.join().ok()).flatten() {
            slots[i] = Some(result);
        }
    });
    slots.into_iter().map(|s| s.unwrap_or_else(|| Err(Error::internal("a worker thread stopped")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_said_when_it_gave_up_is_in_the_error() {
        for threads in [1, 3] {
            let e = in_parallel(threads, &[1, 2, 3, 4], |&job| match job {
                3 => panic!("job {job} met a shape that nobody foresaw"),
                _ => Ok(job),
            })
            .unwrap_err();
            let text = format!("{e:?}");
            assert!(text.contains("job 3 met a shape that nobody foresaw"), "{threads} threads: {text}");
        }
        assert_eq!(in_parallel(2, &[1, 2, 3], |&job| Ok(10 * job)).unwrap(), [10, 20, 30]);
    }
}
