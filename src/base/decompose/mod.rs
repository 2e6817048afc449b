//! Operators that the runtime lacks, or gets wrong, wired out of those it has. That happens where the runtime types its graph: shapes
//! and stored values are known then, as far as the file tells them. What is not covered is refused with the reason.

mod attention;
mod deconv;
mod einsum;
mod fourier;
mod image;
mod index;
mod overrides;
mod pad;
mod pool;
mod product;
mod resize;
mod rotary;
mod sequence;
mod simple;

use std::sync::Arc;

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode, Slice};
use tract_core::ops::cast::cast;
use tract_core::ops::logic::Iff;
use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::check::MAX_MADE_BYTES;

/// Wires a node; the answer is one outlet for each output that the node names.
type Wire = fn(&Form, &mut Wiring) -> TractResult<TVec<OutletId>>;

/// An operator, and the inputs whose values its shape depends on.
const OPERATORS: &[(&str, Wire, &[usize])] = &[
    ("AffineGrid", image::affine_grid, &[1]),
    ("Attention", attention::attention, &[]),
    ("CenterCropPad", image::center_crop_pad, &[1]),
    ("Col2Im", image::col2im, &[1, 2]),
    ("Compress", index::compress, &[1]),
    ("CumSum", sequence::cumsum, &[1]),
    ("DFT", fourier::dft, &[1, 2]),
    ("Einsum", einsum::einsum, &[]),
    ("Elu", simple::elu, &[]),
    (FUSED_MAT_MUL, product::fused_mat_mul, &[]),
    ("GatherND", index::gather_nd, &[]),
    ("GlobalLpPool", pool::global_lp_pool, &[]),
    ("IsInf", simple::is_inf, &[]),
    ("IsNaN", simple::is_nan, &[]),
    ("LpPool", pool::lp_pool, &[]),
    ("Mish", simple::mish, &[]),
    ("Pad", pad::pad, &[1, 2, 3]),
    ("ReverseSequence", sequence::reverse_sequence, &[]),
    ("ScatterND", index::scatter_nd, &[]),
    ("Selu", simple::selu, &[]),
    ("Softplus", simple::softplus, &[]),
    ("SpaceToDepth", image::space_to_depth, &[]),
    ("Squeeze", index::squeeze, &[1]),
    ("SwiGLU", simple::swiglu, &[]),
    ("Swish", simple::swish, &[]),
    (TURN, sequence::turn, &[]),
    ("TensorScatter", sequence::tensor_scatter, &[]),
    ("Upsample", resize::upsample, &[1]),
];

/// Of ONNX Runtime's own domain.
const FUSED_MAT_MUL: &str = "FusedMatMul";
/// Reads its attribute `axis` from the end: an operator of our own.
pub(super) const TURN: &str = "AcclimateTurn";

/// Puts the operators of this module into the runtime's reader.
pub(super) fn register(framework: &mut Onnx) {
    for (name, _, _) in OPERATORS {
        framework.op_register.insert(name, load);
    }
    overrides::register(framework);
}

fn load(context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let found = OPERATORS.iter().find(|(name, ..)| *name == node.op_type);
    // Other domains have operators of these names, too.
    ensure!(
        ["", "ai.onnx"].contains(&&*node.domain) || node.op_type == FUSED_MAT_MUL,
        "{} of {:?} is not known",
        node.op_type,
        node.domain
    );
    let (_, wire, values) = found.with_context(|| format!("{} is not known", node.op_type))?;
    let form = Form::of(context, node);
    Ok((expand(Wired { form, wire: *wire, values }), vec![]))
}

/// What a node says.
#[derive(Debug, Clone)]
pub(super) struct Form {
    op: String,
    opset: i64,
    attributes: Arc<Vec<AttributeProto>>,
    /// Which inputs and outputs are named.
    inputs: Vec<bool>,
    outputs: Vec<bool>,
}

impl Form {
    fn of(context: &ParsingContext, node: &NodeProto) -> Form {
        let named = |names: &[String]| names.iter().map(|n| !n.is_empty()).collect();
        Form {
            op: node.op_type.clone(),
            opset: context.onnx_operator_set_version,
            attributes: Arc::new(node.attribute.clone()),
            inputs: named(&node.input),
            outputs: named(&node.output),
        }
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attributes.iter().find(|a| a.name == name)
    }
    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }
    /// A number; early opsets have some as floats that later ones have as integers.
    fn number(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|a| if a.r#type == AttributeType::Int as i32 { a.i as f32 } else { a.f })
    }
    fn text(&self, name: &str) -> Option<&str> {
        self.attribute(name).and_then(|a| std::str::from_utf8(&a.s).ok())
    }
    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice()).filter(|ints| !ints.is_empty())
    }
    /// Sizes, each at least 1; `count` ones if the node has no such attribute.
    fn sizes(&self, name: &str, count: usize) -> TractResult<TVec<usize>> {
        let Some(ints) = self.ints(name) else { return Ok(tvec!(1; count)) };
        ensure!(ints.len() == count && ints.iter().all(|v| *v > 0), "its {name} are {ints:?}");
        ints.iter().map(|v| Ok(usize::try_from(*v)?)).collect()
    }
    fn has_output(&self, slot: usize) -> bool {
        self.outputs.get(slot).copied().unwrap_or(false)
    }
}

/// A node being wired.
pub(super) struct Wiring<'a> {
    model: &'a mut TypedModel,
    prefix: &'a str,
    serial: usize,
    inputs: Vec<Option<OutletId>>,
}

impl<'a> Wiring<'a> {
    fn new(form: &Form, model: &'a mut TypedModel, prefix: &'a str, given: &[OutletId]) -> Wiring<'a> {
        let mut given = given.iter().copied();
        let inputs = form.inputs.iter().map(|named| if *named { given.next() } else { None }).collect();
        Wiring { model, prefix, serial: 0, inputs }
    }

    fn optional(&self, slot: usize) -> Option<OutletId> {
        self.inputs.get(slot).copied().flatten()
    }
    fn input(&self, slot: usize) -> TractResult<OutletId> {
        self.optional(slot).with_context(|| format!("its input {slot} is missing"))
    }
    fn fact(&self, of: OutletId) -> TractResult<&TypedFact> {
        self.model.outlet_fact(of)
    }
    fn rank(&self, of: OutletId) -> TractResult<usize> {
        Ok(self.fact(of)?.rank())
    }
    fn shape(&self, of: OutletId) -> TractResult<TVec<TDim>> {
        Ok(self.fact(of)?.shape.to_tvec())
    }
    /// Integers that are stored, or made of what is.
    fn integers(&self, of: OutletId) -> TractResult<Vec<i64>> {
        let stored = self.fact(of)?.konst.clone().context("its sizes are computed from the data")?;
        let stored = stored.cast_to::<i64>()?;
        Ok(stored.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
    }

    fn wire(&mut self, op: impl Into<Box<dyn TypedOp>>, inputs: &[OutletId]) -> TractResult<OutletId> {
        self.serial += 1;
        Ok(self.model.wire_node(format!("{}.{}", self.prefix, self.serial), op, inputs)?[0])
    }
    /// `x` as `kind`, if it is of another type.
    fn cast(&mut self, x: OutletId, kind: DatumType) -> TractResult<OutletId> {
        if self.fact(x)?.datum_type == kind { Ok(x) } else { self.wire(cast(kind), &[x]) }
    }
    fn constant(&mut self, value: Tensor) -> TractResult<OutletId> {
        self.serial += 1;
        self.model.add_const(format!("{}.{}", self.prefix, self.serial), value)
    }
    /// A number of the type and the rank of `like`.
    fn scalar(&mut self, like: OutletId, value: f32) -> TractResult<OutletId> {
        let fact = self.fact(like)?;
        let value = tensor0(value).cast_to_dt(fact.datum_type)?.into_owned().broadcast_into_rank(fact.rank())?;
        self.constant(value)
    }
    /// An operator of `x` and a number.
    fn with(&mut self, op: impl Into<Box<dyn TypedOp>>, x: OutletId, value: f32) -> TractResult<OutletId> {
        let value = self.scalar(x, value)?;
        self.wire(op, &[x, value])
    }
    fn select(&mut self, condition: OutletId, then: OutletId, otherwise: OutletId) -> TractResult<OutletId> {
        self.wire(Iff, &[condition, then, otherwise])
    }
    /// `x` with axes of length 1 before its own, up to `rank` of them.
    fn lead(&mut self, mut x: OutletId, rank: usize) -> TractResult<OutletId> {
        for _ in self.rank(x)?..rank {
            x = self.wire(AxisOp::Add(0), &[x])?;
        }
        Ok(x)
    }
    /// `x` with `before` zeros put before its places along `axis` (or as many cut off, if that is negative), and its end cut or
    /// filled so that there are `length`.
    fn fit(&mut self, mut x: OutletId, axis: usize, before: i64, length: usize) -> TractResult<OutletId> {
        let have = self.shape(x)?[axis].to_usize().with_context(|| format!("the length of axis {axis} is open"))?;
        let (cut, first) = (usize::try_from((-before).max(0))?.min(have), usize::try_from(before.max(0))?.min(length));
        let kept = (have - cut).min(length - first);
        if (cut, kept) != (0, have) {
            x = self.wire(Slice::new(axis, cut, cut + kept), &[x])?;
        }
        let last = length - first - kept;
        if (first, last) != (0, 0) {
            let mut known: TVec<usize> = self.shape(x)?.iter().filter_map(|d| d.to_usize().ok()).collect();
            known.push(length);
            bounded(&known)?;
            let mut pads = vec![(0, 0); self.rank(x)?];
            pads[axis] = (first, last);
            let zero = Tensor::zero_scalar_dt(self.fact(x)?.datum_type)?.into_arc_tensor();
            x = self.wire(Pad::new(pads, PadMode::Constant(zero)), &[x])?;
        }
        Ok(x)
    }
}

/// Fails for a tensor that is larger than what a model may make; else the number of its values.
fn bounded(dims: &[usize]) -> TractResult<usize> {
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let most = MAX_MADE_BYTES / 4;
    let count = count.filter(|n| *n as u64 <= most);
    count.with_context(|| format!("a tensor of shape {dims:?}; one that is not stored may have up to {most} values"))
}

/// The axis that an attribute names, of `rank`.
fn axis_of(axis: i64, rank: usize) -> TractResult<usize> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    let at = usize::try_from(at).ok().filter(|at| *at < rank);
    at.with_context(|| format!("axis {axis} of a tensor of {rank} axes"))
}

#[derive(Clone)]
struct Wired {
    form: Form,
    wire: Wire,
    values: &'static [usize],
}

impl std::fmt::Debug for Wired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.form)
    }
}

impl Wired {
    /// The facts of the outputs for inputs of these types, shapes and values.
    fn facts(
        &self,
        types: &[DatumType],
        shapes: &[TVec<TDim>],
        values: &[(usize, Arc<Tensor>)],
    ) -> TractResult<Vec<TypedFact>> {
        let mut model = TypedModel::default();
        let inputs: TVec<OutletId> = (0..shapes.len())
            .map(|at| match values.iter().find(|(slot, _)| *slot == at) {
                Some((_, value)) => model.add_const(format!("in.{at}"), value.clone()),
                None => model.add_source(format!("in.{at}"), types[at].fact(&shapes[at])),
            })
            .collect::<TractResult<_>>()?;
        let outputs = self.wire("out", &mut model, &inputs)?;
        outputs.iter().map(|o| Ok(model.outlet_fact(*o)?.clone())).collect()
    }
}

impl Expansion for Wired {
    fn name(&self) -> StaticName {
        self.form.op.clone().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.form.outputs.iter().filter(|named| **named).count())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        // Positions of the named inputs among those that are given.
        let mut given = 0..;
        let places: Vec<Option<usize>> =
            self.form.inputs.iter().map(|named| if *named { given.next() } else { None }).collect();
        let slots: Vec<usize> = self.values.iter().filter_map(|slot| places.get(*slot).copied().flatten()).collect();
        let tell = move |s: &mut Solver<'r>, types: &[DatumType], shapes: &[TVec<TDim>], values: &[_]| {
            // What cannot be told yet fails, if it must, where the node is wired.
            for (output, fact) in outputs.iter().zip(self.facts(types, shapes, values).unwrap_or_default()) {
                s.equals(&output.datum_type, fact.datum_type)?;
                s.equals(&output.shape, fact.shape.to_tvec())?;
            }
            Ok(())
        };
        s.given_all(inputs.iter().map(|i| &i.datum_type), move |s, types| {
            let slots = slots.clone();
            s.given_all(inputs.iter().map(|i| &i.shape), move |s, shapes| {
                if slots.is_empty() {
                    return tell(s, &types, &shapes, &[]);
                }
                let (types, slots) = (types.clone(), slots.clone());
                s.given_all(slots.clone().into_iter().map(|at| &inputs[at].value), move |s, values| {
                    let values: Vec<(usize, Arc<Tensor>)> = slots.iter().copied().zip(values).collect();
                    tell(s, &types, &shapes, &values)
                })
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        (self.wire)(&self.form, &mut Wiring::new(&self.form, model, prefix, inputs))
    }
}

#[cfg(test)]
pub(super) mod tests;
