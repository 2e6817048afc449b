//! Holds a value back until another one is there.

use tract_core::internal::*;

/// `(value, beside) → value`, and not before `beside` is there. The runtime runs an operator as early as it can, and
/// its result is held until it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct After;

impl Op for After {
    fn name(&self) -> StaticName {
        "After".into()
    }
    op_as_typed_op!();
}

impl EvalOp for After {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        inputs.truncate(1);
        Ok(inputs)
    }
}

impl TypedOp for After {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.clone())))
    }
    as_op!();
}
