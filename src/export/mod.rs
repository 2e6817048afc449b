//! What leaves the runtime: a merged ONNX model.

mod merged;
mod tensors;

pub use merged::{Written, merged};
