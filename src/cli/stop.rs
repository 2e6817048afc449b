//! SIGINT, SIGTERM and SIGHUP: the first asks the work to stop where nothing is lost, the second ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use acclimate::store::end_tries;
use acclimate::{Error, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// Exit code after a signal.
const STOPPED: i32 = 130;

/// Longest that a signal waits for the answer of a generation on probation.
const WAIT: Duration = Duration::from_secs(5);

/// Whether the command looks at [`STOP`].
static LOOKED_AT: AtomicBool = AtomicBool::new(false);

/// Whether signals are another program's.
static OTHERS: AtomicBool = AtomicBool::new(false);

/// Wakes who [sleeps](sleep), and who waits until the end has been told of.
static WOKEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// How a process ends that must not take long.
struct Leave {
    within: Duration,
    code: i32,
    tell: Box<dyn Fn() + Send + Sync>,
}

static LEAVE: OnceLock<Leave> = OnceLock::new();

/// [`on_signal`] of work that must end `within` a time: what has not ended by then is cut off, with exit code `code`.
/// It is for work that may be cut off anywhere. `tell` is called when the first signal comes.
pub fn on_signal_within(
    within: Duration,
    code: i32,
    tell: impl Fn() + Send + Sync + 'static,
) -> Result<&'static AtomicBool> {
    LEAVE.get_or_init(|| Leave { within, code, tell: Box::new(tell) });
    on_signal()
}

/// Waits for `time`, or a signal; true if there was one.
pub fn sleep(time: Duration) -> bool {
    let held = WOKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
    let goes_on = |_: &mut bool| !STOP.load(Ordering::SeqCst);
    drop(WOKEN.1.wait_timeout_while(held, time, goes_on).unwrap_or_else(PoisonError::into_inner));
    STOP.load(Ordering::SeqCst)
}

/// After a signal to work that must leave within a time: waits until that has been told of, so that nothing ends
/// before.
pub fn until_told() {
    let held = WOKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
    let within = LEAVE.get().map_or(Duration::ZERO, |leave| leave.within);
    let told = WOKEN.1.wait_timeout_while(held, within, |told| !*told);
    drop(told.unwrap_or_else(PoisonError::into_inner));
}

/// The first signal to work that is looking at the flag.
fn begin_to_leave() {
    let wake = |told: bool| {
        *WOKEN.0.lock().unwrap_or_else(PoisonError::into_inner) |= told;
        WOKEN.1.notify_all();
    };
    wake(false);
    let Some(leave) = LEAVE.get() else { return };
    // This thread hears the second signal.
    std::thread::spawn(move || {
        let until = Instant::now() + leave.within;
        // What is told may wait for a reader; the end does not.
        std::thread::spawn(move || {
            (leave.tell)();
            wake(true);
        });
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        end_tries(Duration::ZERO);
        std::process::exit(leave.code);
    });
}

/// From now on a signal ends the process between two tries of a generation on probation, and not within one: the generation is not to
/// blame for it. What cannot be watched for keeps the system's own way to stop.
pub fn between_tries() {
    let _ = watch();
}

/// From now on the first signal sets the flag.
pub fn on_signal() -> Result<&'static AtomicBool> {
    watch()?;
    LOOKED_AT.store(true, Ordering::SeqCst);
    Ok(&STOP)
}

/// What was asked to stop has stopped, and nothing looks at the flag until the next [`on_signal`]: a signal ends the
/// process.
pub fn at_rest() {
    LOOKED_AT.store(false, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
}

/// While another program has the terminal, signals are its own.
pub fn leave_to_others(on: bool) {
    let _ = watch();
    OTHERS.store(on, Ordering::SeqCst);
}

fn watch() -> Result<()> {
    static WATCHED: Once = Once::new();
    let handler = || {
        if OTHERS.load(Ordering::SeqCst) {
            return;
        }
        let again = STOP.swap(true, Ordering::SeqCst);
        if again || !LOOKED_AT.load(Ordering::SeqCst) {
            end_tries(if again { Duration::ZERO } else { WAIT });
            std::process::exit(STOPPED);
        }
        begin_to_leave();
    };
    let mut outcome = Ok(());
    WATCHED.call_once(|| {
        let watched = ctrlc::set_handler(handler);
        outcome = watched.map_err(|e| Error::internal("cannot watch for signals").because(e));
    });
    outcome
}
