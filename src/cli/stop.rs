//! SIGINT, SIGTERM and SIGHUP: the first asks the work to stop where nothing is lost, the second ends it at once.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    };
    let mut outcome = Ok(());
    WATCHED.call_once(|| {
        let watched = ctrlc::set_handler(handler);
        outcome = watched.map_err(|e| Error::internal("cannot watch for signals").because(e));
    });
    outcome
}
