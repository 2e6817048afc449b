//! Masks of ReLU and clips.

use std::convert::Infallible;

use tract_core::internal::*;

use super::{backward_op, in_place};
use crate::linalg::simd::wide;
use crate::sync::{each_chunk, parts};

/// Values that a core takes at once: some 10 µs. Tests share fewer, too.
const PART: usize = if cfg!(test) { 1 << 6 } else { 1 << 16 };

/// `(y, dy) → dy` where `low < y < high`, else 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClipBackward {
    low: u32,
    high: u32,
}

impl ClipBackward {
    pub fn new(low: f32, high: f32) -> ClipBackward {
        ClipBackward { low: low.to_bits(), high: high.to_bits() }
    }
}

backward_op!(ClipBackward, 1);

impl EvalOp for ClipBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (y, dy) = args_2!(inputs);
        let (low, high) = (f32::from_bits(self.low), f32::from_bits(self.high));
        in_place(y, dy, |y, dy| {
            let each = dy.len().div_ceil(parts(dy.len(), PART)).max(1);
            let Ok(()) = each_chunk(dy, each, |at, dy| {
                let y = &y[at * each..][..dy.len()];
                wide!((y: &[f32], dy: &mut [f32], low: f32, high: f32) {
                    let pairs = dy.iter_mut().zip(y);
                    pairs.for_each(|(d, y)| *d = if (*y > low) & (*y < high) { *d } else { 0.0 });
                });
                Ok::<(), Infallible>(())
            });
        })
    }
}
