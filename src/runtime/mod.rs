//! A home on disk and the sessions that predict, take feedback, train and swap generations while they serve.

mod answer;
mod asking;
#[cfg(feature = "train")]
mod attempts;
mod config;
#[cfg(feature = "train")]
mod corrections;
mod doubts;
mod ends;
#[cfg(all(test, feature = "train"))]
mod faults;
#[cfg(feature = "train")]
mod feedback_dataset;
mod first_run;
mod flusher;
mod forget;
mod home;
mod init;
mod init_options;
#[cfg(test)]
mod init_tests;
mod intake;
mod journal_io;
mod language;
mod listing;
mod opinions;
#[cfg(feature = "train")]
mod prepare;
mod replay;
#[cfg(feature = "train")]
mod resume;
#[cfg(feature = "train")]
mod sampled;
pub mod sandbox;
mod serving;
mod session;
mod slot;
#[cfg(feature = "train")]
mod standing;
#[cfg(feature = "train")]
mod summary;
#[cfg(feature = "train")]
mod swapped;
#[cfg(feature = "train")]
mod train_options;
#[cfg(feature = "train")]
mod training;
#[cfg(not(feature = "train"))]
mod unwatched;
mod verify;
#[cfg(all(test, feature = "train"))]
mod waiting;
#[cfg(feature = "train")]
mod watch;
mod written;

#[cfg(feature = "train")]
pub use crate::adapt::select::{Chosen, ChosenSite, Summary};
pub use crate::process::TrainLimits;
pub use answer::{Answer, Scored};
#[cfg(feature = "train")]
pub use attempts::excuse_training;
pub use config::{Config, Distillation, Encryption, NewClasses, StorageOptions, TextPadding};
#[cfg(feature = "train")]
pub use corrections::{Corrections, NotHeld, WhyNotHeld};
pub use home::Home;
pub use init_options::InitOptions;
pub(crate) use language::beside_model;
pub use language::{Conversation, Demonstrations, Generated};
pub use listing::{Asked, Filter, Flag, Flagged, Listed, Listing};
pub use replay::{Dropped, Replayed, ReplayedProfile};
#[cfg(feature = "train")]
pub use resume::Checkpoints;
pub use session::{Feedback, FeedbackReceipt, Session, Status};
#[cfg(feature = "train")]
pub use standing::{JournalMark, Standing};
#[cfg(feature = "train")]
pub use swapped::Swapped;
#[cfg(feature = "train")]
pub use train_options::{AfterDeaths, TrainOptions};
#[cfg(feature = "train")]
pub use training::TrainReport;
pub use verify::Health;
pub use written::{WrittenDay, WrittenToday, rest_of_today};

/// What `slot` is made of.
mod sync {
    pub(super) use std::sync::{Arc, PoisonError, RwLock};
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
