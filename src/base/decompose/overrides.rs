//! Operators that the runtime wires itself but for one form.

use std::sync::LazyLock;

use tract_core::internal::*;
use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::{
    Expansion, InferenceModel, InferenceNode, InferenceOp, InferenceResult, Solver, TensorProxy, expand,
};

use super::super::wrapped::described_by;
use super::{Form, Wire, Wired, Wiring, deconv, rotary, simple};

/// Whether inputs are of the form in which a node is wired here.
type When = fn(&[&TypedFact]) -> bool;

const FORMS: &[(&str, Wire, When)] = &[
    ("BatchNormalization", simple::computed_statistics, simple::has_computed_statistics),
    ("Equal", simple::same_truth, simple::are_truths),
    ("MatMul", simple::dot, simple::is_dot),
    ("Pow", simple::whole_power, simple::is_whole_power),
];

/// Whether a node is of the form in which it is wired here, as its attributes tell.
type Says = fn(&NodeProto) -> bool;

const BY_NODE: &[(&str, Wire, Says)] = &[
    ("ConvTranspose", deconv::to_size, |n| n.attribute.iter().any(|a| a.name == "output_shape")),
    ("RotaryEmbedding", rotary::rotary_embedding, |n| n.domain == "com.microsoft"),
];

pub(super) fn register(framework: &mut Onnx) {
    for (name, _, _) in FORMS {
        framework.op_register.insert(name, load);
    }
    for (name, _, _) in BY_NODE {
        framework.op_register.insert(name, load_by_node);
    }
}

/// The runtime's own readers.
static USUAL: LazyLock<Onnx> = LazyLock::new(tract_onnx::onnx);

fn load_by_node(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let found = BY_NODE.iter().find(|(name, ..)| *name == node.op_type);
    let (_, wire, says) = found.with_context(|| format!("{} is not known", node.op_type))?;
    if says(node) {
        return Ok((expand(Wired { form: Form::of(context, node), wire: *wire, values: &[] }), vec![]));
    }
    let read = USUAL.op_register.0.get(&node.op_type).with_context(|| format!("{} is not known", node.op_type))?;
    read(context, node)
}

fn load(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let found = FORMS.iter().find(|(name, ..)| *name == node.op_type);
    let read = USUAL.op_register.0.get(&node.op_type);
    let ((_, wire, when), read) = found.zip(read).with_context(|| format!("{} is not known", node.op_type))?;
    let (op, closures) = read(context, node)?;
    let usual = op.as_op().downcast_ref::<Box<dyn Expansion>>().cloned();
    let usual = usual.with_context(|| format!("{} is read in another way", node.op_type))?;
    Ok((expand(Instead { usual, form: Form::of(context, node), wire: *wire, when: *when }), closures))
}

/// The runtime's own operator, but for the form in which another wiring takes its place.
#[derive(Clone)]
struct Instead {
    usual: Box<dyn Expansion>,
    form: Form,
    wire: Wire,
    when: When,
}

impl std::fmt::Debug for Instead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.usual.fmt(f)
    }
}

impl Instead {
    fn applies(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<bool> {
        let facts = inputs.iter().map(|i| model.outlet_fact(*i)).collect::<TractResult<TVec<_>>>()?;
        Ok((self.when)(&facts))
    }
}

impl Expansion for Instead {
    described_by!(usual);

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.usual.rules(s, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        if self.applies(model, inputs)? {
            return (self.wire)(&self.form, &mut Wiring::new(&self.form, model, prefix, inputs));
        }
        self.usual.wire(prefix, model, inputs)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        model: &InferenceModel,
        node: &InferenceNode,
        typed: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        if self.applies(typed, inputs)? {
            return self.wire(prefix, typed, inputs);
        }
        self.usual.wire_with_inference_model_and_node(prefix, model, node, typed, inputs)
    }
}
