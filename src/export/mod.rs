//! What leaves the runtime: a merged ONNX model, and gradient dumps for other frameworks.

mod appended;
mod graph;
mod merged;
mod tensors;
mod verify;

pub use merged::{Written, merged};
