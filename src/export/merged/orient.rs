//! Which way round a node takes its weight. The runtime reads a weight as it is stored, behind a Transpose or not;
//! the node of the file reads what the Transpose gives.

use tract_onnx::pb::{GraphProto, NodeProto};

use super::position;
use crate::plan::MergedWeight;

/// Turns the matrices among `weights` as their nodes take them.
pub(super) fn as_nodes_take_them<'a>(graph: &GraphProto, weights: impl Iterator<Item = &'a mut MergedWeight>) {
    for weight in weights {
        let node = position(graph, &weight.site).map(|at| &graph.node[at]);
        let (k, n) = weight.axes;
        if let Some(first) = node.and_then(|n| contracts_first(n, weight.slot))
            && let [rows, columns] = weight.shape[..]
            && first != (k < n)
        {
            let turned = (0..rows * columns).map(|at| weight.values[at % rows * columns + at / rows]).collect();
            (weight.values, weight.shape, weight.axes) = (turned, vec![columns, rows], (n, k));
        }
    }
}

/// Whether the first axis of a matrix in input `slot` is the one that `node` sums over; none if it is no product.
fn contracts_first(node: &NodeProto, slot: usize) -> Option<bool> {
    let is_set = |name: &str| node.attribute.iter().any(|a| a.name == name && a.i != 0);
    match node.op_type.as_str() {
        "MatMul" => Some(slot == 1),
        "Gemm" => Some(if slot == 1 { !is_set("transB") } else { is_set("transA") }),
        "Einsum" => {
            let equation = &node.attribute.iter().find(|a| a.name == "equation")?.s;
            let equation: String = String::from_utf8_lossy(equation).chars().filter(|c| !c.is_whitespace()).collect();
            let (inputs, output) = equation.split_once("->").map_or((&equation[..], None), |(i, o)| (i, Some(o)));
            let own: Vec<char> = inputs.split(',').nth(slot)?.chars().filter(|c| c.is_alphabetic()).collect();
            // Without an output, it has the labels that occur once.
            let stays = |c: char| output.map_or(inputs.matches(c).count() == 1, |o| o.contains(c));
            match own[..] {
                [first, second] if stays(first) != stays(second) => Some(!stays(first)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::AttributeProto;

    use super::*;

    #[test]
    fn the_summed_axis_of_each_operator() {
        let node = |op: &str, name: &str, i: i64, s: &str| NodeProto {
            op_type: op.into(),
            attribute: vec![AttributeProto { name: name.into(), i, s: s.into(), ..AttributeProto::default() }],
            ..NodeProto::default()
        };
        let einsum = |equation: &str| node("Einsum", "equation", 0, equation);
        let cases = [
            (node("MatMul", "", 0, ""), 1, Some(true)),
            (node("MatMul", "", 0, ""), 0, Some(false)),
            (node("Gemm", "transB", 1, ""), 1, Some(false)),
            (node("Gemm", "transB", 0, ""), 1, Some(true)),
            (node("Gemm", "transA", 1, ""), 0, Some(true)),
            (einsum("bi, io -> bo"), 1, Some(true)),
            (einsum("...i,oi->...o"), 1, Some(false)),
            (einsum("oi,bi"), 0, Some(false)),
            (einsum("bi,ioh->boh"), 1, None),
            (node("Conv", "", 0, ""), 1, None),
        ];
        for (node, slot, first) in cases {
            assert_eq!(contracts_first(&node, slot), first, "{node:?}");
        }
    }
}
