//! Projections that an exporter packed into one product: the modules of the trained model that they are.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto};

use super::super::onnx::{Module, node_name};
use super::projection::projection;
use super::{Constants, GROUP_QUERY, constants, fused, int};

/// Names of queries, keys and values where a packed product has none to derive them from.
const ROLES: [&str; 3] = ["query", "key", "value"];
/// The same in names of exporters, which call the packed product [`PACKED`].
const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
const PACKED: &str = "qkv_proj";
/// The modules of every node that holds several, by the name of the node.
pub(in super::super) fn packed_modules(graph: &GraphProto) -> HashMap<String, Vec<Module>> {
    let attends = |node: &&NodeProto| node.op_type == GROUP_QUERY || fused::is(node);
    if !graph.node.iter().any(|node| attends(&node)) {
        return HashMap::new();
    }
    let constants = constants(graph, &graph.node);
    let places = graph.node.iter().enumerate().filter(|(_, node)| attends(node));
    let found = places.filter_map(|(position, node)| match node.op_type.as_str() {
        GROUP_QUERY => of_group_query(node, &graph.node, &constants),
        _ => of_attention(position, node, &constants),
    });
    found.filter_map(|(name, widths)| Some((name.clone(), modules(&name, &widths)?))).collect()
}

fn of_group_query(node: &NodeProto, nodes: &[NodeProto], constants: &Constants) -> Option<(String, [i64; 3])> {
    let of = |slot: usize| projection(node.input.get(slot)?, nodes, constants);
    let first = of(0)?;
    let (position, product, width) = first.product?;
    let widths = match node.input.get(1).is_none_or(String::is_empty) {
        true => {
            let (heads, shared) = (int(node, "num_heads"), int(node, "kv_num_heads"));
            let all = heads.checked_add(shared.checked_mul(2)?)?;
            let size = (all > 0 && first.part.is_none() && width % all == 0).then(|| width / all)?;
            [heads * size, shared * size, shared * size]
        }
        false => {
            let [second, third] = [of(1)?, of(2)?];
            let same = [&second, &third].iter().all(|p| p.product.is_some_and(|(at, ..)| at == position));
            match [first.part?, second.part?, third.part?] {
                [(0, widths), (1, _), (2, _)] if same => <[i64; 3]>::try_from(widths).ok()?,
                _ => return None,
            }
        }
    };
    (widths.iter().sum::<i64>() == width).then(|| (node_name(position, product), widths))
}

/// `Attention` of `com.microsoft`: the packed weight is the node's own.
fn of_attention(position: usize, node: &NodeProto, constants: &Constants) -> Option<(String, [i64; 3])> {
    let wide = constants.get(node.input.get(1)?.as_str()).filter(|t| t.dims.len() == 2)?.dims[1];
    let widths = fused::packed_widths(node, wide)?;
    Some((node_name(position, node), widths))
}

fn modules(node: &str, widths: &[i64; 3]) -> Option<Vec<Module>> {
    let mut end = 0;
    let mut one = |(role, width): (usize, &i64)| {
        let start = end;
        end += usize::try_from(*width).ok().filter(|width| *width > 0)?;
        let name = match node.contains(PACKED) {
            true => node.replace(PACKED, PROJECTIONS[role]),
            false => format!("{node}/{}", ROLES[role]),
        };
        Some(Module { name, outputs: start..end })
    };
    widths.iter().enumerate().map(&mut one).collect()
}
