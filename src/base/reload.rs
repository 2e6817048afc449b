//! Models whose shapes the runtime cannot work out with symbols are read anew for every bucket, with the sizes filled in.

use tract_core::internal::*;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{ModelProto, TensorShapeProto, ValueInfoProto, type_proto};

use super::shape::role;
use super::{Bucket, Dim, Element, Port, Symbols};
use crate::error::Result;

/// Sizes of the trial read. No dimension of a model is likely to have them, so they are recognised in its outputs.
const TRIAL: Bucket = Bucket { batch: 3, sequence: 13, past: 0 };

/// The file's graph, kept for as long as the model.
pub(super) struct Reload {
    proto: ModelProto,
    symbols: Symbols,
}

impl Reload {
    /// Takes the roles of the dimensions from the file; the second result is the graph at the trial's sizes.
    pub fn new(proto: ModelProto) -> Result<(Reload, TypedModel)> {
        let mut reload = Reload { proto, symbols: Symbols::default() };
        let mut inputs = reload.inputs();
        // As `Symbols::of` has it.
        inputs.sort_by_key(|port| port.element.is_float());
        for port in &inputs {
            for dim in &port.dims {
                if let Dim::Open(name) = dim {
                    let axis = port.dims.iter().position(|d| d == dim).unwrap_or(0);
                    let role = role(axis, port.element.is_float(), port.dims.len(), name);
                    reload.symbols.roles.entry(name.clone()).or_insert(role);
                }
            }
        }
        let typed = reload.at(&TRIAL)?;
        Ok((reload, typed))
    }

    /// The same with other roles for some names.
    pub fn with(&self, roles: impl Iterator<Item = (String, Dim)>) -> Reload {
        Reload { proto: self.proto.clone(), symbols: self.symbols.with(roles) }
    }

    pub fn symbols(&self) -> Symbols {
        self.symbols.clone()
    }

    /// The inputs, every named dimension still open.
    fn inputs(&self) -> Vec<Port> {
        let Some(graph) = &self.proto.graph else { return vec![] };
        let stored = |i: &&ValueInfoProto| !graph.initializer.iter().any(|t| t.name == i.name);
        graph.input.iter().filter(stored).filter_map(port).collect()
    }

    /// The inputs with the roles of their dimensions.
    pub fn input_ports(&self) -> Vec<Port> {
        let mut ports = self.inputs();
        for dim in ports.iter_mut().flat_map(|p| &mut p.dims) {
            if let Dim::Open(name) = dim {
                *dim = self.symbols.roles.get(name).cloned().unwrap_or_else(|| Dim::Open(name.clone()));
            }
        }
        ports
    }

    /// Recognises the trial's sizes in the dimensions of an output.
    pub fn output_dims(&self, dims: &[Dim]) -> Vec<Dim> {
        let one = |d: &Dim| match d {
            Dim::Fixed(n) if *n == TRIAL.batch => Dim::Batch,
            Dim::Fixed(n) if *n == TRIAL.sequence => Dim::Sequence,
            other => other.clone(),
        };
        dims.iter().map(one).collect()
    }

    /// The typed graph at the sizes of `bucket`.
    pub fn at(&self, bucket: &Bucket) -> Result<TypedModel> {
        let mut proto = self.proto.clone();
        for input in proto.graph.iter_mut().flat_map(|g| &mut g.input) {
            for dim in shape_mut(input).into_iter().flat_map(|s| &mut s.dim) {
                if let Some(Value::DimParam(name)) = &dim.value
                    && let Some(role) = self.symbols.roles.get(name)
                {
                    dim.value = Some(Value::DimValue(role.size(bucket, name)? as i64));
                }
            }
        }
        super::typed(&proto)
    }
}

/// Names of exporters for a dimension that they know nothing about: two of that name have nothing in common.
const NO_NAMES: &[&str] = &["", "?", "*", "-1", "None", "none", "unk", "unknown"];

/// What the dimension at `axis` of the input `input` of these dimensions is called; none if its size is fixed. A dimension without a name is the
/// batch where it leads, and otherwise called by input and axis; so is one that has the batch's name within the same input.
pub(super) fn open_name(input: &str, dims: &[Dimension], axis: usize) -> Option<String> {
    let own = |dim: &Dimension| match &dim.value {
        Some(Value::DimParam(name)) if !NO_NAMES.contains(&name.as_str()) => Some(name.clone()),
        _ => None,
    };
    let dim = &dims[axis];
    if matches!(&dim.value, Some(Value::DimValue(n)) if *n > 0) {
        return None;
    }
    match own(dim) {
        None if axis == 0 => Some("batch".into()),
        Some(name) if axis == 0 || own(&dims[0]).as_ref() != Some(&name) => Some(name),
        _ => Some(format!("{input}.{axis}")),
    }
}

/// Gives every open dimension of the inputs its [`open_name`].
pub(super) fn name_open(proto: &mut ModelProto) {
    for input in proto.graph.iter_mut().flat_map(|g| &mut g.input) {
        let name = input.name.clone();
        let Some(shape) = shape_mut(input) else { continue };
        let names: Vec<Option<String>> = (0..shape.dim.len()).map(|axis| open_name(&name, &shape.dim, axis)).collect();
        for (dim, name) in shape.dim.iter_mut().zip(names) {
            if let Some(name) = name {
                dim.value = Some(Value::DimParam(name));
            }
        }
    }
}

/// What the inputs of a model leave open.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LeftOpen {
    /// Names of dimensions, but for the batch.
    pub sizes: Vec<String>,
    /// Names of the batch.
    pub batch: Vec<String>,
    /// Inputs that have no row for each example: settings of one number, and states that do not lead with the batch.
    pub settings: Vec<String>,
}

/// See [`LeftOpen`].
pub(super) fn left_open(proto: &ModelProto) -> LeftOpen {
    let Some(graph) = &proto.graph else { return LeftOpen::default() };
    let stored = |i: &ValueInfoProto| graph.initializer.iter().any(|t| t.name == i.name);
    let inputs: Vec<(&str, Vec<Option<String>>)> = graph
        .input
        .iter()
        .filter(|i| !stored(i))
        .filter_map(|i| {
            let dims = &shape(i)?.dim;
            Some((i.name.as_str(), (0..dims.len()).map(|axis| open_name(&i.name, dims, axis)).collect()))
        })
        .collect();
    let leading = |(_, dims): &(&str, Vec<Option<String>>)| dims.first().cloned().flatten();
    let batch: Vec<String> = inputs.iter().filter_map(leading).collect();
    let mut left = LeftOpen::default();
    for (name, dims) in &inputs {
        let state = dims.first().is_none_or(|lead| lead.is_none() && !batch.is_empty());
        if state {
            left.settings.push(name.to_string());
        }
        left.sizes.extend(dims.iter().flatten().filter(|d| !batch.contains(d)).cloned());
    }
    left.batch = batch;
    for names in [&mut left.sizes, &mut left.batch] {
        names.sort_unstable();
        names.dedup();
    }
    // One input at least is fed.
    if left.settings.len() == inputs.len() {
        left.settings.pop();
    }
    left
}

/// The shape that an input declares.
pub(super) fn shape(input: &ValueInfoProto) -> Option<&TensorShapeProto> {
    match input.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => t.shape.as_ref(),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// As [`shape`], to be changed.
pub(crate) fn shape_mut(input: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    match input.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(t) => t.shape.as_mut(),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

fn port(input: &ValueInfoProto) -> Option<Port> {
    let type_proto::Value::TensorType(t) = input.r#type.as_ref()?.value.as_ref()?;
    let kinds = [
        (DataType::Float, Element::F32),
        (DataType::Double, Element::F64),
        (DataType::Int64, Element::I64),
        (DataType::Int32, Element::I32),
        (DataType::Int16, Element::I16),
        (DataType::Int8, Element::I8),
        (DataType::Uint64, Element::U64),
        (DataType::Uint32, Element::U32),
        (DataType::Uint16, Element::U16),
        (DataType::Uint8, Element::U8),
        (DataType::Bool, Element::Bool),
    ];
    let element = kinds.iter().find(|(kind, _)| *kind as i32 == t.elem_type).map_or(Element::Other, |(_, e)| *e);
    let dim = |d: &Dimension| match &d.value {
        Some(Value::DimValue(n)) => Dim::Fixed(usize::try_from(*n).unwrap_or(0)),
        Some(Value::DimParam(name)) => Dim::Open(name.clone()),
        None => Dim::Open(String::new()),
    };
    Some(Port { name: input.name.clone(), element, dims: t.shape.as_ref()?.dim.iter().map(dim).collect() })
}
