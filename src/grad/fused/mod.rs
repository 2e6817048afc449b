//! Backward operators of one pass over memory, each checked against its composed form or a finite difference.

mod activation;
mod elementwise;
mod pool;
mod recurrent;
mod reduce;
mod rowwise;
mod sample;
mod scatter;

pub(crate) use activation::{Activation, ActivationBackward, DENSITY, ROOT_2_PI, Sigma, TAIL, TAIL_SCALE};
pub(crate) use elementwise::ClipBackward;
pub(crate) use pool::{MaxPoolBackward, SumPoolBackward, Windows};
pub(crate) use recurrent::{ScanBackward, tape_bytes};
pub(crate) use reduce::ProdBackward;
pub(crate) use rowwise::{LogSoftmaxBackward, RmsNormBackward, SoftmaxBackward};
pub(crate) use sample::GridSampleBackward;
pub(crate) use scatter::{GatherBackward, GatherNdBackward, UpsampleZeros};

use tract_core::internal::*;

/// Declares an operator whose output has the type and shape of `$like`'s input.
macro_rules! backward_op {
    ($op:ident, $like:expr) => {
        impl Op for $op {
            fn name(&self) -> StaticName {
                stringify!($op).into()
            }
            op_as_typed_op!();
        }
        impl TypedOp for $op {
            fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
                Ok(tvec!(f32::fact(inputs[$like].shape.clone())))
            }
            as_op!();
        }
    };
}
pub(crate) use backward_op;

/// Runs `work` on the values of `reads` and, in place, of `dy`.
pub(crate) fn in_place(reads: TValue, dy: TValue, work: impl FnOnce(&[f32], &mut [f32])) -> TractResult<TVec<TValue>> {
    let mut dy = dy.into_tensor();
    {
        let mut plain = dy.try_as_plain_ram_mut()?;
        let (reads, dy) = (crate::ops::floats(&reads)?, plain.as_slice_mut::<f32>()?);
        ensure!(reads.len() == dy.len(), "a backward operator got {} values for {}", reads.len(), dy.len());
        work(reads, dy);
    }
    Ok(tvec!(dy.into_tvalue()))
}
