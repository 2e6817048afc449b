//! acclimate: a frozen ONNX model that learns from the person in front of it, on the device it runs on.

#[cfg(feature = "train")]
pub mod adapt;
pub mod adapter;
pub mod base;
#[cfg(feature = "train")]
pub mod bench;
#[cfg(feature = "train")]
mod choice;
pub mod disk;
pub mod error;
pub mod export;
#[cfg(feature = "train")]
pub mod gate;
#[cfg(feature = "train")]
pub mod grad;
#[cfg(feature = "train")]
pub mod gradcheck;
pub mod head;
pub mod input;
pub mod inspect;
pub mod journal;
pub mod linalg;
mod plan;
pub mod runtime;
pub mod score;
#[cfg(feature = "train")]
pub mod simulate;
pub mod sites;
pub mod store;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, ErrorKind, Result};
pub use runtime::{Answer, Feedback, Home, InitOptions, Session};
