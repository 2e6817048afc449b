//! The wall between tract and the caller: tract reports through `anyhow` and sometimes panics; both become [`Error`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs inside a call into tract: a panic hook can then stay silent, since the panic becomes an error.
pub fn in_guarded_call() -> bool {
    GUARDED.with(Cell::get)
}

/// Runs `work`, turning tract errors and panics into one [`Error`] of `kind` that says `what` failed.
pub(crate) fn guarded<T>(
    kind: ErrorKind,
    what: impl Into<String>,
    work: impl FnOnce() -> tract_core::internal::TractResult<T>,
) -> Result<T> {
    match caught(work) {
        Ok(Ok(value)) => Ok(value),
        // An error of ours that travelled through tract keeps its own words.
        Ok(Err(e)) => match e.downcast::<Error>() {
            Ok(ours) => Err(ours),
            Err(e) => Err(Error::new(kind, what).because(format!("{e:#}"))),
        },
        Err(text) => Err(Error::new(kind, what).because(format!("the model runtime gave up: {text}"))),
    }
}

/// Runs `work`; if it panics, what the panic said.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    let before = GUARDED.with(|g| g.replace(true));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.with(|g| g.set(before));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
    })
}
