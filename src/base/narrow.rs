//! Weights that stay as narrow as their file stores them: a node without inputs in the ONNX graph, `Widen` in the runtime's.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::integers::{INT4, UINT4, float_tensor, numbers};
use super::stored;
use crate::ops::{Kind, Packed, Scales, Widen};

/// The operator: `values` is the stored tensor, `scale` and `zero` its parameters along `axis`, in blocks of `block`.
pub(super) const WEIGHT: &str = stored::NARROW;

/// Smaller weights become floats: what would be saved is less than what is lost.
const SMALLEST: usize = 4096;

fn kind(data_type: i32) -> Option<Kind> {
    match data_type {
        k if k == DataType::Int8 as i32 => Some(Kind::I8),
        k if k == DataType::Uint8 as i32 => Some(Kind::U8),
        k if k == DataType::Float16 as i32 => Some(Kind::F16),
        k if k == DataType::Bfloat16 as i32 => Some(Kind::BF16),
        INT4 => Some(Kind::I4),
        UINT4 => Some(Kind::U4),
        _ => None,
    }
}

/// Whether `t` is large enough, and no kernel of a depthwise convolution, which is read as floats.
fn worth(t: &TensorProto) -> bool {
    let sizes: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let matrices = |s: &[usize]| {
        let depthwise = s.len() > 2 && s[1] == 1 && s[2..].iter().any(|d| *d > 1);
        s.len() >= 2 && !depthwise && s.iter().fold(1usize, |n, d| n.saturating_mul(*d)) >= SMALLEST
    };
    kind(t.data_type).is_some() && sizes.is_some_and(|s| matrices(&s))
}

fn attribute(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Tensor as i32, t: Some(t), ..AttributeProto::default() }
}

pub(super) fn integer(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

fn node(output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let (name, op_type, output) = (output.to_string(), WEIGHT.to_string(), vec![output.to_string()]);
    NodeProto { name, op_type, output, attribute, ..NodeProto::default() }
}

/// The node that stands for a weight of 16-bit floats; none if it had better be converted.
pub(super) fn half_weight(t: &TensorProto) -> Option<NodeProto> {
    let half = matches!(kind(t.data_type)?, Kind::F16 | Kind::BF16);
    (half && worth(t)).then(|| node(&t.name, vec![attribute("values", t.clone())]))
}

/// The node that stands for a quantised weight, writing `output`; none if it had better be dequantised.
pub(super) fn quantised_weight(
    output: &str,
    t: &TensorProto,
    scale: &TensorProto,
    zero: Option<&TensorProto>,
    axis: i64,
    block: i64,
) -> Option<NodeProto> {
    if !worth(t) {
        return None;
    }
    let scales = numbers(scale)?;
    let mut zeros = zero.map_or_else(|| Some(vec![0.0]), numbers)?;
    // One for all is kept once: with blocks of 32, zero points take as much as half of the numbers of four bits.
    if zeros.len() == scales.len() && zeros.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()) {
        zeros.truncate(1);
    }
    let floats =
        |name: &str, values: &[f32]| attribute(name, float_tensor(name.into(), values, &[values.len() as i64]));
    let attributes = vec![
        attribute("values", t.clone()),
        floats("scale", &scales),
        floats("zero", &zeros),
        integer("axis", axis),
        integer("block", block),
    ];
    let node = node(output, attributes);
    read(&node).is_some().then_some(node)
}

/// The weight that a node stands for.
fn read(node: &NodeProto) -> Option<Widen> {
    let tensor = |name: &str| node.attribute.iter().find(|a| a.name == name).and_then(|a| a.t.as_ref());
    let int = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(0, |a| a.i);
    let t = tensor("values")?;
    let shape: TVec<usize> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let len = shape.iter().product();
    let kind = kind(t.data_type)?;
    let bytes = match (stored::raw_len(t) == 0, kind) {
        (false, _) => stored::shared(t)?,
        (true, Kind::F16 | Kind::BF16) => {
            t.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect::<Vec<u8>>().into()
        }
        (true, _) => t.int32_data.iter().map(|v| *v as u8).collect::<Vec<u8>>().into(),
    };
    let scales = match tensor("scale") {
        Some(scale) => {
            let (scales, zeros) = (numbers(scale)?, numbers(tensor("zero")?)?);
            match (&scales[..], &zeros[..]) {
                (&[scale], &[zero]) => Some(Scales::uniform(scale, zero)),
                _ => {
                    let axis = int("axis");
                    let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
                    let (length, inner) = (*shape.get(axis)?, shape[axis + 1..].iter().product());
                    let block = usize::try_from(int("block")).ok()?;
                    let (each, by_block) = (block.max(1), block > 0);
                    Some(Scales { scales, zeros, length, inner, each, by_block })
                }
            }
        }
        None => None,
    };
    Some(Widen { shape, weight: Arc::new(Packed::new(kind, len, bytes, scales)?) })
}

/// Makes floats of the weights that recurrent layers read at every step, those of their state and their peepholes: they would be widened, and
/// packed for the product, once a step.
pub(super) fn widen_states(graph: &mut GraphProto) {
    let writers: HashMap<&str, usize> =
        graph.node.iter().enumerate().flat_map(|(at, n)| n.output.iter().map(move |o| (o.as_str(), at))).collect();
    let behind = |name: &String| {
        let mut at = *writers.get(name.as_str())?;
        while ["Identity", "Cast"].contains(&graph.node[at].op_type.as_str()) {
            at = *writers.get(graph.node[at].input.first()?.as_str()).filter(|next| **next < at)?;
        }
        (graph.node[at].op_type == WEIGHT).then_some(at)
    };
    let recurrent = |n: &&NodeProto| ["LSTM", "GRU", "RNN"].contains(&n.op_type.as_str());
    let states = |n: &NodeProto| [2, 7].into_iter().filter_map(|slot| behind(n.input.get(slot)?)).collect::<Vec<_>>();
    let found: HashSet<usize> = graph.node.iter().filter(recurrent).flat_map(states).collect();
    for at in found {
        let node = &graph.node[at];
        let Some(floats) = read(node).and_then(|w| w.tensor().ok()) else { continue };
        let (Ok(values), Some(output)) = (crate::ops::floats(&floats), node.output.first().cloned()) else {
            continue;
        };
        let dims: Vec<i64> = floats.shape().iter().map(|d| *d as i64).collect();
        let value = attribute("value", float_tensor(String::new(), values, &dims));
        let (name, op_type) = (node.name.clone(), "Constant".to_string());
        graph.node[at] =
            NodeProto { name, op_type, output: vec![output], attribute: vec![value], ..NodeProto::default() };
    }
}

/// The operator's reader.
pub(super) fn load(
    _: &tract_onnx::model::ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let weight = read(node).with_context(|| format!("the weight {} is damaged", node.name))?;
    Ok((expand(Stored(weight)), vec![]))
}

/// A weight in a graph whose types are not known yet.
#[derive(Debug, Clone)]
struct Stored(Widen);

impl Expansion for Stored {
    fn name(&self) -> StaticName {
        WEIGHT.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        _inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let shape: TVec<TDim> = self.0.shape.iter().map(|d| d.to_dim()).collect();
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].shape, shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, _inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.0.clone(), &[])
    }
}
