//! The cores that the operators of a pass share.
//!
//! A pass runs on a pool of threads, and its operators hand parts of their results to those that have nothing
//! else to do. No sum is ever cut, so that results are the same bits for any number of threads. A pool belongs
//! to one thread at a time, and so runs one pass at a time: in the middle of an operator a thread of it may do
//! what else waits in the pool, and the model runtime's buffers, which are those of the thread, would meet
//! another pass there. The threads sleep when no pass runs; while one does, they look for work between its
//! operators, since to wake one takes as long as a small operator.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use super::lock;
use crate::process::{available_cores, caught, guard_thread};

/// More threads than this are not started, whatever is asked for.
const MOST_THREADS: usize = 64;
/// How long a thread looks for work in vain before it sleeps in the middle of a pass.
const PATIENCE: Duration = Duration::from_millis(1);

static POOLS: Mutex<Pools> = Mutex::new(Pools { idle: vec![], lent: 0 });

/// The pools of the process; they stay for as long as it does.
struct Pools {
    /// Those that belong to nobody.
    idle: Vec<Arc<ThreadPool>>,
    /// Threads of those that do.
    lent: usize,
}

thread_local! {
    /// Where the passes of this thread run.
    static CORES: RefCell<Cores> = const { RefCell::new(Cores::Own) };
    /// How often this thread has handed parts to others.
    static SHARED: Cell<u64> = const { Cell::new(0) };
    /// Whether this is a thread of one of the pools.
    static OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Where the passes of a thread run.
#[derive(Default)]
enum Cores {
    /// On the thread itself.
    #[default]
    Own,
    /// On so many threads, from the first pass on that is worth it.
    Wanted(usize),
    Lent(Lent),
}

/// A pool that belongs to one thread until this is dropped.
struct Lent(Arc<ThreadPool>);

impl Lent {
    /// None where others have the cores already; tests, which run side by side, are lent theirs all the same.
    fn of(threads: usize) -> Option<Lent> {
        let mut pools = lock(&POOLS);
        if pools.lent > 0 && pools.lent + threads > available_cores() && !cfg!(test) {
            return None;
        }
        let found = pools.idle.iter().position(|pool| pool.current_num_threads() == threads);
        let pool = match found {
            Some(at) => pools.idle.swap_remove(at),
            None => start(threads)?,
        };
        pools.lent += threads;
        Some(Lent(pool))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut pools = lock(&POOLS);
        pools.lent -= self.0.current_num_threads();
        pools.idle.push(self.0.clone());
    }
}

/// None where the system gives no more threads.
fn start(threads: usize) -> Option<Arc<ThreadPool>> {
    let named = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("acclimate-{i}"));
    let begin = |_| {
        guard_thread();
        OF_A_POOL.set(true);
    };
    match named.start_handler(begin).build() {
        Ok(pool) => Some(Arc::new(pool)),
        Err(e) => {
            tracing::warn!(error = %e, "cannot start {threads} threads; one is used");
            None
        }
    }
}

/// Runs `work`; the passes that it starts on this thread share `threads` cores, or those that the thread has
/// already. Where others have them, the passes run on this thread alone.
pub(crate) fn on_cores<R>(threads: usize, work: impl FnOnce() -> R) -> R {
    if threads <= 1 || CORES.with_borrow(|cores| !matches!(cores, Cores::Own)) {
        return work();
    }
    /// Gives the pool back, however the work ends.
    struct Scope;
    impl Drop for Scope {
        fn drop(&mut self) {
            drop(CORES.take());
        }
    }
    let _scope = Scope;
    CORES.set(Cores::Wanted(threads.min(MOST_THREADS)));
    work()
}

/// The pool that this thread has, if it may have one. A thread of a pool, ours or the application's, has none:
/// while it waited for another pool, it might be given another pass to run.
fn own_pool() -> Option<Arc<ThreadPool>> {
    if rayon::current_thread_index().is_some() {
        return None;
    }
    CORES.with_borrow_mut(|cores| {
        if let Cores::Wanted(threads) = *cores
            && let Some(lent) = Lent::of(threads)
        {
            *cores = Cores::Lent(lent);
        }
        match cores {
            Cores::Lent(lent) => Some(lent.0.clone()),
            _ => None,
        }
    })
}

/// Runs a pass on the cores that this thread has, if there is enough to share (`worth`), and tells it the pool
/// then; the message of its panic, if it panics there.
pub(crate) fn run_pass<R: Send>(
    worth: bool,
    pass: impl FnOnce(Option<&Arc<ThreadPool>>) -> R + Send,
) -> Result<R, String> {
    let Some(pool) = worth.then(own_pool).flatten() else { return Ok(pass(None)) };
    pool.install(|| {
        let _running = Running::begin(&pool);
        caught(|| pass(Some(&pool)))
    })
}

/// A pass that runs, on this thread of a pool; the others look for work until this is dropped.
struct Running {
    over: Arc<AtomicBool>,
}

impl Running {
    fn begin(pool: &ThreadPool) -> Running {
        let over = Arc::new(AtomicBool::new(false));
        let (own, watched) = (rayon::current_thread_index(), over.clone());
        pool.spawn_broadcast(move |thread| {
            if Some(thread.index()) != own {
                look_for_work(&watched);
            }
        });
        Running { over }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Does what parts there are until the pass is over.
fn look_for_work(over: &AtomicBool) {
    let (mut last, mut rounds) = (Instant::now(), 0u32);
    while !over.load(Ordering::Acquire) {
        rounds = rounds.wrapping_add(1);
        match rayon::yield_now() {
            Some(Yield::Executed) => last = Instant::now(),
            _ if rounds.is_multiple_of(256) && last.elapsed() > PATIENCE => return,
            _ if rounds.is_multiple_of(64) => std::thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Cores of the pass that this is part of.
pub(crate) fn cores() -> usize {
    if OF_A_POOL.get() { rayon::current_num_threads() } else { 1 }
}

/// Into how many parts work of `size` is cut, where a part of less than `fewest` is not worth handing over: two
/// for each core of the pass that this is part of, so that a slow one does not hold up the others.
pub(crate) fn parts(size: usize, fewest: usize) -> usize {
    match cores() {
        1 => 1,
        cores => (size / fewest).clamp(1, 2 * cores),
    }
}

/// Calls `work` with each of `0..parts`, on the cores of the pass that this is part of.
///
/// # Errors
/// One that `work` gave.
pub(crate) fn each_part<E: Send>(parts: usize, work: impl Fn(usize) -> Result<(), E> + Sync + Send) -> Result<(), E> {
    if parts <= 1 || !OF_A_POOL.get() {
        return (0..parts).try_for_each(work);
    }
    SHARED.set(SHARED.get() + 1);
    let (next, over, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
    let take = || {
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return;
            }
            let _counted = Counted(&over);
            if let Err(e) = work(part) {
                lock(&failed).get_or_insert(e);
                // Nobody takes what is left.
                let left = parts.saturating_sub(next.swap(parts, Ordering::Relaxed));
                over.fetch_add(left, Ordering::Release);
            }
        }
    };
    rayon::scope(|scope| {
        for _ in 1..parts.min(cores()) {
            scope.spawn(|_| take());
        }
        take();
        // The end of the scope would put this thread to sleep if it had to wait for long.
        let mut rounds = 0u32;
        while over.load(Ordering::Acquire) < parts {
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(256) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    });
    lock(&failed).take().map_or(Ok(()), Err)
}

/// How often this thread has handed parts to others so far.
pub(crate) fn times_shared() -> u64 {
    SHARED.get()
}

/// Adds one when dropped, also by a panic.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Calls `work(at, chunk)` with every `len` of `values`, `at` counting the chunks, as [`each_part`] does.
///
/// # Errors
/// As [`each_part`].
pub(crate) fn each_chunk<T: Send, E: Send>(
    values: &mut [T],
    len: usize,
    work: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    each_job(values.chunks_mut(len).enumerate().collect(), |(at, chunk)| work(at, chunk))
}

/// Calls `work` with each of `jobs`, as [`each_part`] does.
///
/// # Errors
/// As [`each_part`].
pub(crate) fn each_job<J: Send, E: Send>(
    jobs: Vec<J>,
    work: impl Fn(J) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    let jobs: Vec<Mutex<Option<J>>> = jobs.into_iter().map(|job| Mutex::new(Some(job))).collect();
    each_part(jobs.len(), |at| lock(&jobs[at]).take().map_or(Ok(()), &work))
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn every_part_is_done_once_and_errors_and_panics_come_out() {
        for threads in [1, 2, 5] {
            on_cores(threads, || {
                let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
                let add = |i: usize| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                    Ok::<(), ()>(())
                };
                assert_eq!(run_pass(true, |_| each_part(100, add)), Ok(Ok(())));
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1), "{threads} threads");
                let fails = |i: usize| if i == 70 { Err(i) } else { Ok(()) };
                assert_eq!(run_pass(true, |_| each_part(100, fails)), Ok(Err(70)));
                let gives_up = |i: usize| -> Result<(), ()> { if i == 3 { panic!("part {i}") } else { Ok(()) } };
                let text = caught(|| run_pass(true, |_| each_part(10, gives_up)));
                assert!(matches!(&text, Err(t) | Ok(Err(t)) if t == "part 3"), "{threads} threads: {text:?}");
                let mut values = vec![0usize; 103];
                let counted = run_pass(true, |_| {
                    each_chunk(&mut values, 10, |at, chunk| {
                        chunk.fill(at);
                        Ok::<(), ()>(())
                    })
                });
                assert_eq!(counted, Ok(Ok(())));
                assert!(values.iter().enumerate().all(|(i, v)| *v == i / 10));
            });
        }
    }

    #[test]
    fn work_inside_work_has_the_same_cores() {
        let cores = || run_pass(true, |_| rayon::current_num_threads()).unwrap();
        let has_none = || CORES.with_borrow(|cores| matches!(cores, Cores::Own));
        on_cores(3, || {
            assert_eq!(cores(), 3);
            on_cores(2, || assert_eq!(cores(), 3));
            assert!(caught(|| on_cores(2, || panic!("inside"))).is_err());
            assert_eq!(cores(), 3);
        });
        assert!(caught(|| on_cores(2, || panic!("outside"))).is_err());
        on_cores(1, || assert!(has_none()));
        assert!(has_none());
        on_cores(usize::MAX, || assert_eq!(cores(), MOST_THREADS));
        // Jobs side by side divide the threads; one job has them all.
        let of_jobs = |threads: usize, jobs: &[u8]| {
            crate::sync::in_parallel(threads, jobs, |_| Ok(if has_none() { 1 } else { cores() })).unwrap()
        };
        assert_eq!(of_jobs(4, &[1, 2]), [2, 2]);
        assert_eq!(of_jobs(4, &[1, 2, 3]), [1, 1, 1]);
        assert_eq!(of_jobs(3, &[1]), [3]);
    }

    #[test]
    fn a_thread_of_the_applications_pool_runs_its_passes_alone() {
        let own = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let alone = |_| on_cores(3, || run_pass(true, |pool| pool.is_none() && parts(1 << 30, 1) == 1)).unwrap();
        assert!(own.install(|| (0..50).into_par_iter().all(alone)));
        assert!(!alone(0));
    }
}
