//! The wall between tract and the caller: tract reports through `anyhow` and sometimes panics; both become [`Error`].

use crate::error::{Error, ErrorKind, Result};
use crate::process::caught;

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
        Err(panic) => Err(Error::new(kind, what).because(format!("the model runtime gave up: {panic}"))),
    }
}
