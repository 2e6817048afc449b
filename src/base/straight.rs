//! Elementwise operators of quantised models, as the graph of floats that they become (see `lower`).

#![allow(missing_docs, unused_qualifications)] // what the macro declares

use tract_core::element_wise;
use tract_core::internal::*;

element_wise!(round_straight, RoundStraight, [f32] => |_, xs| {
    xs.iter_mut().for_each(|x| *x = x.round_ties_even());
    Ok(())
});

element_wise!(detach, Detach, [f32] => |_, _| Ok(()));
