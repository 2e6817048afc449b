//! What leaves the runtime: a merged ONNX model, and gradient dumps for other frameworks.

mod merged;
mod tensors;

pub use merged::{Written, merged};
