//! acclimate: a frozen ONNX model that learns from the person in front of it, on the device it runs on.
//!
//! A [`Home`] is a folder that holds a model and what it learns; a [`Session`] is one profile of it in use. It predicts, takes
//! [`Feedback`], trains, and swaps generations while it answers:
//!
//! ```
//! # #[cfg(feature = "train")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use acclimate::{Feedback, Home, InitOptions, LabelledSet, TrainOptions};
//!
//! let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
//! let folder = tempfile::tempdir()?;
//! let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx")))?;
//! let session = home.session("ada")?;
//!
//! // Person 23 wears the phone; every fifth window is shown, and she says what she was doing.
//! let windows = LabelledSet::read(models.join("hapt_users_23_26.npz"))?.filter_user(23)?;
//! let known = |i: &usize| windows.labels()[*i].parse::<u8>().is_ok_and(|class| class < 6);
//! let (mut shown, mut right) = (0, 0);
//! for i in (0..windows.len()).step_by(5).filter(known) {
//!     let answer = session.predict(&windows.input(i)?)?;
//!     let truth = &windows.labels()[i];
//!     (shown, right) = (shown + 1, right + usize::from(answer.label() == Some(truth)));
//!     if let Some(id) = answer.id {
//!         session.feedback(id, Feedback::Label(truth.clone()))?;
//!     }
//! }
//! println!("before: {right} of {shown} right");
//!
//! let report = session.train(&TrainOptions::default())?;
//! println!("training: {} ({:.1} s)", report.verdict.reason, report.seconds);
//!
//! let (mut asked, mut right) = (0, 0);
//! for i in (2..windows.len()).step_by(5).filter(known) {
//!     let answer = session.predict(&windows.input(i)?)?;
//!     (asked, right) = (asked + 1, right + usize::from(answer.label() == Some(&windows.labels()[i])));
//! }
//! println!("after:  {right} of {asked} others right, answered by generation {}", report.generation);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "train"))]
//! # fn main() {}
//! ```
//!
//! Every failure is an [`Error`] with a kind, a place, a cause and a hint. Option and report structs are `#[non_exhaustive]`:
//! options are made by builder methods, reports are read field by field.
//!
//! # What is public
//!
//! The names at the root of this crate (`tests/public-api.txt`), and nothing else. No type of another crate is part of a documented
//! signature. Three things are left to the program `acclimate` until an application asks for them: moving a profile as an encrypted
//! file, exporting a merged model, and the tools (`inspect`, `gradcheck`, `simulate`, `bench`, `pin`).
//!
//! The feature `internals` makes the modules and their types visible. It is for this package's program, tests, benches and fuzz
//! targets; nothing behind it is stable. The variants of [`Input`] are hidden rather than private, since what
//! they hold is no part of the public names: use the constructors.
#![cfg_attr(not(all(feature = "internals", feature = "train")), allow(dead_code, unused_imports))] // others' share of it

/// Modules that the feature `internals` makes visible. rustfmt looks for modules in a macro of this name.
macro_rules! cfg_if {
    (if #[cfg($on:meta)] { $($visible:item)* } else { $($private:item)* }) => {
        $(#[cfg($on)] #[doc(hidden)] $visible)*
        $(#[cfg(not($on))] $private)*
    };
}

/// An item of an `impl` that the feature `internals` makes visible.
macro_rules! internal {
    ($(#[$attribute:meta])* pub $($item:tt)*) => {
        #[cfg(feature = "internals")]
        #[doc(hidden)]
        $(#[$attribute])*
        pub $($item)*
        #[cfg(not(feature = "internals"))]
        $(#[$attribute])*
        pub(crate) $($item)*
    };
}

cfg_if! {
    if #[cfg(feature = "internals")] {
        #[cfg(feature = "train")]
        pub mod adapt;
        pub mod adapter;
        pub mod base;
        #[cfg(feature = "bundles")]
        pub mod bundle;
        pub mod chat;
        pub mod cipher;
        pub mod device;
        pub mod disk;
        pub mod error;
        pub mod export;
        #[cfg(feature = "train")]
        pub mod gate;
        pub mod generate;
        #[cfg(feature = "train")]
        pub mod grad;
        pub mod guest;
        pub mod head;
        pub mod input;
        pub mod journal;
        pub mod linalg;
        pub mod process;
        pub mod runtime;
        pub mod sites;
        pub mod stats;
        pub mod store;
        pub mod tools;
        #[cfg(feature = "train")]
        pub mod train;
    } else {
        #[cfg(feature = "train")]
        mod adapt;
        mod adapter;
        mod base;
        #[cfg(feature = "bundles")]
        mod bundle;
        mod chat;
        mod cipher;
        mod device;
        mod disk;
        mod error;
        mod export;
        #[cfg(feature = "train")]
        mod gate;
        mod generate;
        #[cfg(feature = "train")]
        mod grad;
        mod guest;
        mod head;
        mod input;
        mod journal;
        mod linalg;
        mod process;
        mod runtime;
        mod sites;
        mod stats;
        mod store;
        mod tools;
        #[cfg(feature = "train")]
        mod train;
    }
}

mod ops;
mod plan;
#[cfg(test)]
mod powerloss;
mod profile;
mod sync;

#[cfg(feature = "train")]
pub use adapt::Progress;
pub use adapter::{Depth, Verdict};
pub use base::Task;
pub use cipher::Key;
pub use disk::KeySource;
pub use error::{Error, ErrorKind, Result};
pub use input::image::{Layout, Resize};
pub use input::{LabelledSet, Preprocessing, RawInput as Input, Skipped};
pub use journal::{InteractionId, SyncPolicy, TrainingEntry};
pub use process::TrainLimits;
pub use runtime::{Answer, Feedback, FeedbackReceipt, Health, Home, InitOptions, NewClasses, Scored, Session, Status};
#[cfg(feature = "train")]
pub use runtime::{Checkpoints, TrainOptions, TrainReport};
pub use store::{
    Cause as RollbackCause, Finding, Forgotten, GenerationInfo, Repair, RolledBack, Selection, State as FileState,
};

/// The Rust examples of the README and of the guide for applications.
#[cfg(all(doctest, feature = "train"))]
mod examples {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guides/application.md")]
    struct Application;
}
