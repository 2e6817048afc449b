//! SIGINT and SIGTERM: the first asks the work to stop where nothing is lost, the second ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use acclimate::{Error, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// Exit code after a signal.
const STOPPED: i32 = 130;

/// From now on the first signal sets the flag. Commands that never look at it keep the system's own way to stop.
pub fn on_signal() -> Result<&'static AtomicBool> {
    let handler = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(STOPPED);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::internal("cannot watch for signals").because(e))?;
    Ok(&STOP)
}
