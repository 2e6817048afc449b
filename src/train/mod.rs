//! Training mathematics on plain arrays: losses, the optimiser, the sampler, the head. Knows no model, no file and no clock.

pub mod fit;
pub use crate::head;
mod kept;
mod lbfgs;
mod lesson;
pub mod loss;
pub mod optim;
pub mod sampler;
pub mod solve;
