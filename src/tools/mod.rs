//! What people do with a model besides living with it: look at it, check its gradients, measure it, pin its sizes, play a life through.

#[cfg(feature = "train")]
pub mod bench;
pub mod doctor;
#[cfg(feature = "train")]
pub mod gradcheck;
pub mod inspect;
#[cfg(feature = "train")]
pub mod machine;
pub mod pin;
pub mod score;
#[cfg(feature = "train")]
pub mod simulate;
