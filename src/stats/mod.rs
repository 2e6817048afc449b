//! Statistics and random numbers, of numbers alone.

#[cfg(feature = "train")]
pub(crate) mod binomial;
#[cfg(feature = "train")]
pub mod calibration;
#[cfg(feature = "train")]
pub mod paired;
pub(crate) mod random;
#[cfg(feature = "train")]
pub mod ratio;
pub(crate) mod rows;
