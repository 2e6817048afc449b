//! See `tests/swap.rs`.
