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
    /// The product, and its position.
    pub node: (usize, &'g NodeProto),
    /// Output features.
    pub width: i64,
    /// The part of them that was split off, and the widths of all parts.
    pub part: Option<(usize, Vec<i64>)>,
}

/// The product that `value` is made by.
pub(super) fn projection<'g>(value: &str, nodes: &'g [NodeProto], constants: &Constants) -> Option<Projection<'g>> {
    let (mut at, mut part) = (value, None);
    for _ in 0..FARTHEST {
        let (position, made) = nodes.iter().enumerate().find(|(_, n)| n.output.iter().any(|o| o == at))?;
        let width = match made.op_type.as_str() {
            "MatMul" => *constants.get(made.input.get(1)?.as_str())?.dims.last()?,
            BLOCKS => int(made, "N"),
            "Split" if part.is_none() => {
                let which = made.output.iter().position(|o| o == at)?;
                part = Some((which, whole_values(constants.get(made.input.get(1)?.as_str())?)?));
                at = made.input.first()?;
                continue;
            }
            op if SAME_WIDTH.contains(&op) => {
                at = made.input.first()?;
                continue;
            }
            _ => return None,
        };
        return Some(Projection { node: (position, made), width, part });
    }
    None
}
