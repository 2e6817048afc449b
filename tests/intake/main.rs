//! What goes into a model: padding, the roles and types of inputs, indices, and what `init` refuses. Expected answers are
//! computed here, from the formulas that the models spell.
#![cfg(all(feature = "cli", feature = "train"))]

mod indices;
mod inputs;
mod models;
mod padding;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
