//! acclimate: a frozen ONNX model that learns from the person in front of it, on the device it runs on.
//!
//! In pipeline order: [`base`] loads the model, [`sites`] finds where low-rank deltas fit, `grad` differentiates the graph,
//! `plan` compiles it; [`journal`] records what people say, `train` learns from it, `gate` decides whether the result may
//! serve, [`store`] keeps generations, and [`runtime`] swaps them while it answers. `adapt` is the loop over all of it.
//!
//! [`Home`] and [`Session`] are the way in:
//!
//! ```
//! # #[cfg(feature = "train")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use acclimate::input::LabelledSet;
//! use acclimate::runtime::TrainOptions;
//! use acclimate::{Feedback, Home, InitOptions};
//!
//! let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
//! let folder = tempfile::tempdir()?;
//! let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx")))?;
//! let session = home.session("ada")?;
//!
//! // Person 23 wears the phone; every fifth window is shown, and she says what she was doing.
//! let windows = LabelledSet::read(&models.join("hapt_users_23_26.npz"))?.filter_user(23)?;
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

#[cfg(feature = "train")]
pub mod adapt;
pub mod adapter;
pub mod base;
#[cfg(feature = "bundles")]
pub mod bundle;
pub mod cipher;
pub mod disk;
pub mod error;
pub mod export;
#[cfg(feature = "train")]
pub mod gate;
#[cfg(feature = "train")]
pub mod grad;
pub mod head;
pub mod input;
pub mod journal;
pub mod linalg;
mod ops;
#[cfg_attr(not(feature = "train"), allow(dead_code, unused_imports))] // training's share of it
mod plan;
#[cfg(test)]
mod powerloss;
pub mod process;
#[cfg_attr(not(feature = "train"), allow(dead_code, unused_imports))] // training's share of it
pub mod runtime;
#[cfg_attr(not(feature = "train"), allow(dead_code, unused_imports))] // training's share of it
pub mod sites;
pub mod stats;
pub mod store;
mod sync;
pub mod tools;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, ErrorKind, Result};
pub use runtime::{Answer, Feedback, Home, InitOptions, Session};
#[cfg(feature = "train")]
pub use runtime::{TrainOptions, TrainReport};
