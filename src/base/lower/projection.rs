//! The product that makes the queries, keys or values of an attention.

use tract_onnx::pb::NodeProto;

use super::super::integers::whole_values;
use super::{BLOCKS, Constants, int};

/// Operators between a projection and its attention that leave its width as it is.
const SAME_WIDTH: [&str; 7] =
    ["Add", "Cast", "Identity", "Reshape", "RotaryEmbedding", "SimplifiedLayerNormalization", "LayerNormalization"];
/// Longest chain from a projection to its attention.
const FARTHEST: usize = 12;

/// Where a value comes from.
pub(super) struct Projection<'g> {
    /// The product with a stored weight, its position, and its output features; none where something else makes it.
    pub product: Option<(usize, &'g NodeProto, i64)>,
    /// The part of it that was split off, and the widths of all parts.
    pub part: Option<(usize, Vec<i64>)>,
}

impl Projection<'_> {
    /// Features of the value.
    pub fn width(&self) -> Option<i64> {
        match &self.part {
            Some((part, widths)) => widths.get(*part).copied(),
            None => self.product.map(|(.., width)| width),
        }
    }
}

/// The product that `value` is made by, or the part of a split that it is; none where neither is found.
pub(super) fn projection<'g>(value: &str, nodes: &'g [NodeProto], constants: &Constants) -> Option<Projection<'g>> {
    let (mut at, mut part, mut product) = (value, None, None);
    for _ in 0..FARTHEST {
        let Some((position, made)) = nodes.iter().enumerate().find(|(_, n)| n.output.iter().any(|o| o == at)) else {
            break;
        };
        let stored = |slot: usize| made.input.get(slot).and_then(|name| constants.get(name.as_str()));
        match made.op_type.as_str() {
            "MatMul" => product = stored(1).and_then(|t| Some((position, made, *t.dims.last()?))),
            BLOCKS => product = Some((position, made, int(made, "N"))),
            "Split" if part.is_none() => {
                let which = made.output.iter().position(|o| o == at)?;
                part = Some((which, whole_values(stored(1)?)?));
                at = made.input.first()?;
                continue;
            }
            op if SAME_WIDTH.contains(&op) => {
                at = made.input.first()?;
                continue;
            }
            _ => {}
        }
        break;
    }
    (part.is_some() || product.is_some()).then_some(Projection { product, part })
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::TensorProto;
    use tract_onnx::pb::tensor_proto::DataType;

    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect();
        NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
    }

    #[test]
    fn a_split_tells_widths_whatever_makes_the_product() {
        let sizes = TensorProto {
            dims: vec![3],
            data_type: DataType::Int64 as i32,
            int64_data: vec![64, 32, 32],
            ..TensorProto::default()
        };
        let weight = TensorProto { dims: vec![16, 128], ..TensorProto::default() };
        let constants: Constants = [("sizes", &sizes), ("stored", &weight)].into_iter().collect();
        let through = |weight: &str| {
            let nodes = [
                node("DequantizeLinear", &["codes", "scale"], &["computed"]),
                node("MatMul", &["x", weight], &["p"]),
                node("Split", &["p", "sizes"], &["q", "k", "v"]),
                node("Reshape", &["k", "shape"], &["heads"]),
            ];
            let found = projection("heads", &nodes, &constants).unwrap();
            (found.width(), found.part.map(|(part, _)| part), found.product.map(|(at, _, width)| (at, width)))
        };
        assert_eq!(through("stored"), (Some(32), Some(1), Some((1, 128))));
        assert_eq!(through("computed"), (Some(32), Some(1), None));
        assert!(projection("x", &[], &constants).is_none());
    }
}
