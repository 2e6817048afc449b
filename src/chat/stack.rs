//! Room on the stack for templates that nest deep.

use std::thread;

use super::limits::STACK_BYTES;
use crate::error::{Error, ErrorKind, Result};

/// Runs `work` where it may recurse as deep as the limits on templates let it.
///
/// Errors: those of `work`; no thread can be started ([`ErrorKind::Io`]); `work` panicked
/// ([`ErrorKind::UnsupportedModel`]).
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
        let started = builder.spawn_scoped(scope, work).map_err(|e| {
            Error::new(ErrorKind::Io, "cannot start a thread for the chat template")
                .because(e)
                .hint("raise the limits on this process's memory and threads")
        })?;
        started.join().unwrap_or_else(|_| {
            Err(Error::unsupported("the template engine gave up on the chat template")
                .hint("give another chat_template.jinja"))
        })
    })
}
