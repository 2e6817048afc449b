//! What leaves the runtime: a merged ONNX model, and gradient dumps for other frameworks.

#[cfg(feature = "train")]
pub(crate) mod dump;
mod merged;
mod tensors;

pub use merged::{Written, merged};
