//! Quantised weights that an exporter wrote out as arithmetic: `(Cast(q) - zero)·scale` over stored tensors becomes one weight that stays
//! narrow. The runtime would fold it into floats.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::branches::reads;
use super::narrow::quantised_weight;

/// Rewrites every such chain of `graph`, each of whose values but the last is read once.
pub(super) fn fold(graph: &mut GraphProto) {
    let stored: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        node.input.iter().for_each(|i| readers.entry(i).or_default().push(position));
    }
    let listed: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let next = |name: &str| match readers.get(name).map(Vec::as_slice) {
        Some(&[position]) if !listed.contains(name) => Some(position),
        _ => None,
    };
    let (mut gone, mut weights) = (HashSet::new(), vec![]);
    for (position, cast) in graph.node.iter().enumerate().filter(|(_, n)| n.op_type == "Cast") {
        let chain = || {
            let q = *stored.get(cast.input.first()?.as_str())?;
            let (mut path, mut value) = (vec![position], cast.output.first()?);
            let mut at = next(value)?;
            let mut zero = None;
            if graph.node[at].op_type == "Sub" && graph.node[at].input.first() == Some(value) {
                zero = Some(*stored.get(graph.node[at].input.get(1)?.as_str())?);
                path.push(at);
                value = graph.node[at].output.first()?;
                at = next(value)?;
            }
            let mul = Some(&graph.node[at]).filter(|n| n.op_type == "Mul")?;
            let scale = *stored.get(mul.input.iter().find(|i| *i != value)?.as_str())?;
            let axis = axis(q, scale)?;
            if zero.is_some_and(|z| z.dims != scale.dims) {
                return None;
            }
            let weight = quantised_weight(mul.output.first()?, q, scale, zero, axis, 0)?;
            Some((path, at, weight))
        };
        if let Some((path, at, weight)) = chain() {
            gone.extend(path);
            weights.push((at, weight));
        }
    }
    for (at, weight) in weights {
        graph.node[at] = weight;
    }
    let mut position = 0..;
    graph.node.retain(|_: &NodeProto| position.next().is_none_or(|p| !gone.contains(&p)));
    let mut wanted: HashSet<String> = graph.node.iter().flat_map(reads).collect();
    wanted.extend(graph.input.iter().chain(&graph.output).map(|v| v.name.clone()));
    graph.initializer.retain(|t| wanted.contains(&t.name));
}

/// The axis of `q` along which `scale`, broadcast against it, differs; the first for a single scale.
fn axis(q: &TensorProto, scale: &TensorProto) -> Option<i64> {
    let lead = q.dims.len().checked_sub(scale.dims.len())?;
    let mut long = scale.dims.iter().enumerate().filter(|(_, d)| **d != 1);
    match (long.next(), long.next()) {
        (None, _) => Some(0),
        (Some((at, d)), None) if q.dims[lead + at] == *d => i64::try_from(lead + at).ok(),
        _ => None,
    }
}
