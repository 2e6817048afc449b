//! Training mathematics on plain arrays: losses, the optimiser, the sampler, the head. Knows no model, no file and no
//! clock.

pub mod averaging;
mod lbfgs;
pub mod loss;
pub mod optim;
pub mod preference;
pub mod sampler;
pub mod solve;
pub(crate) mod spd;
pub(crate) mod svd;
