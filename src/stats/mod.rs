//! Statistics and random numbers, of numbers alone.

pub(crate) mod binomial;
pub mod paired;
pub(crate) mod random;
