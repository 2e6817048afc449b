//! What leaves the runtime: a merged ONNX model.

mod appended;
mod beside;
mod graph;
mod merged;
mod tensors;
mod verify;

pub use merged::{Written, merged};
