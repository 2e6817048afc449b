//! A home on disk and the sessions that predict, take feedback, train and swap generations while they serve.

mod answer;
mod config;
#[cfg(all(test, feature = "train"))]
mod faults;
mod first_run;
mod flusher;
mod forget;
mod home;
mod intake;
mod journal_io;
#[cfg(feature = "train")]
mod prepare;
#[cfg(feature = "train")]
mod resume;
mod serving;
mod session;
mod slot;
#[cfg(feature = "train")]
mod training;
mod verify;
#[cfg(feature = "train")]
mod watch;

#[cfg(feature = "train")]
pub use crate::choice::{Chosen, ChosenSite};
pub use answer::{Answer, Scored};
pub use config::{Config, Encryption, Means, NewClasses, TextPadding};
pub use home::{Home, InitOptions, Summary};
#[cfg(feature = "train")]
pub use resume::Checkpoints;
pub use session::{Feedback, FeedbackReceipt, Session, Status};
#[cfg(feature = "train")]
pub use training::{TrainOptions, TrainReport};
pub use verify::{Health, repair, verify};

/// What `slot` is made of.
mod sync {
    pub(super) use std::sync::{Arc, PoisonError, RwLock};
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
