//! Elementwise operators of quantised models, as the graph of floats that they become (see `lower`).

#![allow(missing_docs, unused_qualifications)] // what the macro declares

use tract_core::element_wise;
use tract_core::internal::*;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use crate::ops::{DynamicQuantise, Quantise};

element_wise!(round_straight, RoundStraight, [f32] => |_, xs| {
    xs.iter_mut().for_each(|x| *x = x.round_ties_even());
    Ok(())
});

element_wise!(detach, Detach, [f32] => |_, _| Ok(()));

/// A quantisation as the graph that is not typed yet knows it: of its outputs, only the numbers.
#[derive(Debug, Clone)]
struct Quantised(Box<dyn TypedOp>);

impl Expansion for Quantised {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&inputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        Ok(tvec!(model.wire_node(prefix, self.0.clone(), inputs)?[0]))
    }
}

/// Reads the node that `lower` writes for a quantisation by stored numbers.
pub(super) fn load_quantise(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let float = |name: &str| {
        let found = node.attribute.iter().find(|a| a.name == name).map(|a| a.f);
        found.with_context(|| format!("{} has no {name}", node.name))
    };
    let op = Quantise {
        scale: float("scale")?,
        unit: float("unit")?,
        zero: float("zero")?,
        low: float("low")?,
        high: float("high")?,
        codes: false,
    };
    ensure!(op.scale.is_finite() && op.scale != 0.0 && op.low <= op.high, "{} has no scale", node.name);
    Ok((expand(Quantised(Box::new(op))), vec![]))
}

/// Reads the node that `lower` writes for a quantisation by the range of the data.
pub(super) fn load_dynamic(_: &ParsingContext, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Quantised(Box::new(DynamicQuantise { codes: false }))), vec![]))
}
