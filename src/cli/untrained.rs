//! What a build without training says instead.

use acclimate::{Error, Result, Session};

use super::output::Output;

/// It cannot.
pub(super) fn in_chat(_: &Session, _: &Output) -> Result<String> {
    Err(Error::usage("this build cannot train").hint("use a program with the feature `train`"))
}
