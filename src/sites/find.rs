//! Finds where low-rank deltas fit: every node that multiplies data by a constant weight, each other candidate with a reason.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_core::ops::array::Gather;
use tract_core::ops::cnn::{Conv, Deconv, PoolSpec};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::konst::Const;

use super::lowrank::Geometry;
use super::{Site, SiteTable, Skipped};
use crate::adapter::SiteKind;
use crate::base::{Module, OnnxGraph, OnnxNode};
use crate::ops::im2col::ConvShape;
use crate::ops::{Lookup, is_constant};

/// A site in a concrete typed graph.
pub(crate) struct Found {
    pub site: Site,
    /// Node whose output gets the delta.
    pub node: usize,
    /// Input slot of what the weight multiplies. A slot, not an outlet: the sites before this one are rewired in between.
    pub x_slot: usize,
    /// Input slot of the weight.
    pub weight_slot: usize,
    /// Axes of the contracted and of the new dimension in a linear weight as the graph keeps it.
    pub weight_axes: (usize, usize),
    geometry: Geometry,
}

impl Found {
    /// Multiply-accumulates of the frozen product.
    pub fn macs(&self) -> u64 {
        let positions = match &self.geometry {
            Geometry::Deconv { shape, .. } => shape.batch * shape.out_plane(),
            other => other.y_len() / self.site.outputs.max(1),
        };
        (positions * self.site.outputs * self.site.fan_in()) as u64
    }

    /// Shapes of the low-rank product at `rank`.
    pub fn geometry(&self, rank: usize) -> Geometry {
        match self.geometry.clone() {
            Geometry::Linear { outer, input, output, inner, .. } => {
                Geometry::Linear { outer, input, output, inner, rank }
            }
            Geometry::Conv { shape, .. } => Geometry::Conv { shape, rank },
            Geometry::Deconv { shape, .. } => Geometry::Deconv { shape, rank },
        }
    }
}

/// ONNX operators that hold a weight in the general sense, so that a user would look for them in the list.
const CANDIDATES: &[&str] = &[
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "Einsum",
    "FusedMatMul",
    "MatMulInteger",
    "MatMulNBits",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "LSTM",
    "GRU",
    "RNN",
    "DynamicQuantizeLSTM",
    "Gather",
    "Attention",
];

const RECURRENT: &[&str] = &["LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"];

/// All sites of a concrete typed graph in evaluation order, and what was passed over.
pub(crate) fn find(model: &TypedModel, onnx: &OnnxGraph) -> TractResult<(Vec<Found>, SiteTable)> {
    let positions: HashMap<&str, usize> = onnx.nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let mut found: Vec<Found> = vec![];
    let mut reasons: HashMap<usize, String> = HashMap::new();
    // ONNX nodes of which something is left to be evaluated.
    let mut evaluated: HashSet<usize> = HashSet::new();
    for id in model.eval_order()? {
        let node = model.node(id);
        if !node.op_is::<Const>() {
            evaluated.extend(owner(&positions, &node.name));
        }
        let candidate = if node.op_is::<Conv>() {
            conv(model, id)
        } else if node.op_is::<Deconv>() {
            deconv(model, id)
        } else if node.op_is::<EinSum>() {
            linear(model, id)
        } else {
            continue;
        };
        let Some(position) = owner(&positions, &node.name) else { continue };
        match candidate {
            Ok(mut site) => {
                site.site.name = site_name(&onnx.nodes[position], &node.name);
                site.site.modules = modules(onnx, &site.site);
                if reasons.contains_key(&position) || found.iter().any(|f| f.site.name == site.site.name) {
                    found.retain(|f| f.site.name != site.site.name);
                    reasons.insert(position, several_weights());
                } else {
                    found.push(site);
                }
            }
            Err(reason) => {
                reasons.insert(position, reason);
            }
        }
    }
    name_directions(&mut found);
    let mut table = SiteTable { sites: found.iter().map(|f| f.site.clone()).collect(), skipped: vec![] };
    for (position, node) in onnx.nodes.iter().enumerate() {
        let is_site = |s: &Site| direction(&s.name).0 == node.name || s.name == node.name;
        if !CANDIDATES.contains(&node.op.as_str()) || table.sites.iter().any(is_site) {
            continue;
        }
        let constant = |i: usize| node.inputs.get(i).is_some_and(|n| onnx.constants.contains(n));
        let reason = match node.op.as_str() {
            "Gather" if !constant(0) || node.inputs.is_empty() => continue,
            "Gather" => match onnx.initializers.get(&node.inputs[0]) {
                Some(shape) if shape.len() == 2 => "an embedding table is looked up, never trained".to_string(),
                _ => continue,
            },
            op if RECURRENT.contains(&op) => reasons
                .remove(&position)
                .unwrap_or_else(|| "a recurrent layer whose input weights are inside its loop".into()),
            "MatMul" | "Gemm" | "Einsum" if !constant(0) && !constant(1) => {
                "both operands are computed (for example attention scores): there is no weight".into()
            }
            _ if node.inputs.iter().all(|i| onnx.constants.contains(i)) => "computed once from constants".into(),
            _ => match reasons.remove(&position) {
                Some(reason) => reason,
                // The runtime worked it out while it read the graph.
                None if !evaluated.contains(&position) => "computed once from constants and sizes".into(),
                None => "this form of the operator has no low-rank product yet".into(),
            },
        };
        table.skipped.push(Skipped { name: node.name.clone(), op: node.op.clone(), reason });
    }
    Ok((found, table))
}

/// The modules of the trained model that share `site`, where they are all of it.
fn modules(onnx: &OnnxGraph, site: &Site) -> Vec<Module> {
    let packed = onnx.modules.get(&site.name).filter(|m| m.last().is_some_and(|last| last.outputs.end == site.outputs));
    packed.cloned().unwrap_or_default()
}

/// A recurrent layer of both directions has a site for each, named `NODE:forward` and `NODE:backward` (the runtime calls what runs
/// backwards `NODE.back`); any other site is named by its node.
fn site_name(node: &OnnxNode, typed: &str) -> String {
    let back = typed.strip_prefix(&node.name).is_some_and(|rest| rest.split('.').nth(1) == Some("back"));
    if back && RECURRENT.contains(&node.op.as_str()) { format!("{}:backward", node.name) } else { node.name.clone() }
}

/// Names the forward direction of layers that have both.
fn name_directions(found: &mut [Found]) {
    let both: Vec<String> =
        found.iter().filter_map(|f| f.site.name.strip_suffix(":backward").map(str::to_string)).collect();
    for f in found.iter_mut().filter(|f| both.contains(&f.site.name)) {
        f.site.name.push_str(":forward");
    }
}

/// The node of a site, and the direction of a recurrent layer that it is, 0 or 1, if it says.
pub(crate) fn direction(site: &str) -> (&str, Option<usize>) {
    for (ending, direction) in [(":forward", 0), (":backward", 1)] {
        if let Some(node) = site.strip_suffix(ending) {
            return (node, Some(direction));
        }
    }
    (site, None)
}

/// Why a node with several products is no site: one pair of factors would not say which of them it belongs to.
fn several_weights() -> String {
    "it multiplies by more than one weight".into()
}

/// The ONNX node that a typed node comes from: the same name, or the name before a dotted suffix.
fn owner(positions: &HashMap<&str, usize>, typed: &str) -> Option<usize> {
    let mut name = typed;
    loop {
        if let Some(&position) = positions.get(name) {
            return Some(position);
        }
        name = &name[..name.rfind('.')?];
    }
}

type Candidate = Result<Found, String>;

fn concrete(fact: &TypedFact) -> Result<TVec<usize>, String> {
    fact.shape.as_concrete().map(TVec::from_slice).ok_or_else(|| "its shape depends on the data".to_string())
}

/// `einsum(x, W)` with one contracted and one new axis, the latter where the former was.
fn linear(model: &TypedModel, id: usize) -> Candidate {
    let node = model.node(id);
    let words = |e: TractError| format!("{e:#}");
    let facts = model.node_input_facts(id).map_err(words)?;
    let op = node.op_as::<EinSum>().ok_or("not a product")?;
    if node.inputs.iter().any(|outlet| is_looked_up(model, *outlet)) {
        return Err("its weight is the embedding table, too, and that is never trained".into());
    }
    if op.q_params.is_some() {
        return Err("a quantised product".into());
    }
    match facts.len() {
        2 => {}
        1 => return Err("it has one operand: there is no product".into()),
        n => return Err(format!("a product of {n} operands: a weight stands beside one other")),
    }
    let slot = match (is_constant(model, node.inputs[0]), is_constant(model, node.inputs[1])) {
        (false, true) => 1,
        (true, false) => 0,
        (false, false) => return Err("both operands are computed: there is no weight".into()),
        (true, true) => return Err("computed once from constants".into()),
    };
    if facts.iter().any(|f| f.datum_type != DatumType::F32) {
        return Err(format!("its operands are {:?}, not f32", facts[slot].datum_type));
    }
    let (ins, outs) = op.axes.to_strs();
    let (xs, ws, ys): (Vec<char>, Vec<char>, Vec<char>) =
        (ins[1 - slot].chars().collect(), ins[slot].chars().collect(), outs[0].chars().collect());
    let (x_shape, w_shape) = (concrete(facts[1 - slot])?, concrete(facts[slot])?);
    let (mut contracted, mut fresh) = (vec![], vec![]);
    for (axis, c) in ws.iter().enumerate() {
        match (xs.contains(c), ys.contains(c)) {
            (true, false) => contracted.push((*c, w_shape[axis])),
            (false, true) => fresh.push((*c, w_shape[axis])),
            _ if w_shape[axis] == 1 => {}
            _ => return Err("its weight differs along a batch axis".into()),
        }
    }
    let ([(k, input)], [(n, output)]) = (&contracted[..], &fresh[..]) else {
        return Err("its weight is not a plain matrix".into());
    };
    let at = |labels: &[char], c: char| labels.iter().position(|l| *l == c).ok_or("an axis is missing");
    let (kx, ny) = (at(&xs, *k)?, at(&ys, *n)?);
    if xs[..kx] != ys[..ny] || xs[kx + 1..] != ys[ny + 1..] {
        return Err("the output's axes are ordered otherwise than the input's".into());
    }
    let geometry = Geometry::Linear {
        outer: x_shape[..kx].iter().product(),
        input: *input,
        output: *output,
        inner: x_shape[kx + 1..].iter().product(),
        rank: 1,
    };
    let site = Site {
        name: String::new(),
        kind: SiteKind::Linear,
        inputs: *input,
        outputs: *output,
        kernel: vec![],
        groups: 1,
        modules: vec![],
    };
    let axis = |c: char| ws.iter().position(|l| *l == c).ok_or("an axis is missing");
    let weight_axes = (axis(*k)?, axis(*n)?);
    Ok(Found { site, node: id, x_slot: 1 - slot, weight_slot: slot, weight_axes, geometry })
}

/// Whether rows of a constant are looked up somewhere in the graph.
fn is_looked_up(model: &TypedModel, outlet: OutletId) -> bool {
    let looks_up = |n: &TypedNode| n.inputs[0] == outlet && (n.op_is::<Gather>() || n.op_is::<Lookup>());
    let mut readers = model.node(outlet.node).outputs[outlet.slot].successors.iter();
    is_constant(model, outlet) && readers.any(|r| looks_up(model.node(r.node)))
}

fn deconv(model: &TypedModel, id: usize) -> Candidate {
    let node = model.node(id);
    let words = |e: TractError| format!("{e:#}");
    let facts = model.node_input_facts(id).map_err(words)?;
    let op = node.op_as::<Deconv>().ok_or("not a transposed convolution")?;
    if !is_constant(model, node.inputs[1]) {
        return Err("its kernel is computed: there is no weight".into());
    }
    let c = ConvShape::of_deconv(op, &concrete(facts[0])?, &concrete(&node.outputs[0].fact)?)?;
    let widths = (c.output, c.input);
    Ok(kernel_site(
        id,
        SiteKind::ConvTranspose,
        widths,
        &op.pool_spec,
        Geometry::Deconv { shape: c, rank: 1 },
        op.group,
    ))
}

fn conv(model: &TypedModel, id: usize) -> Candidate {
    let node = model.node(id);
    let facts = model.node_input_facts(id).map_err(|e| format!("{e:#}"))?;
    let op = node.op_as::<Conv>().ok_or("not a convolution")?;
    if op.q_params.is_some() || facts[0].datum_type != DatumType::F32 {
        return Err("a quantised convolution".into());
    }
    if !is_constant(model, node.inputs[1]) {
        return Err("its kernel is computed: there is no weight".into());
    }
    let c = ConvShape::of_conv(op, &concrete(facts[0])?)?;
    let widths = (c.input, c.output);
    Ok(kernel_site(id, SiteKind::Conv, widths, &op.pool_spec, Geometry::Conv { shape: c, rank: 1 }, op.group))
}

/// The site of a convolution, from its first width to its second.
fn kernel_site(
    node: usize,
    kind: SiteKind,
    (inputs, outputs): (usize, usize),
    spec: &PoolSpec,
    geometry: Geometry,
    groups: usize,
) -> Found {
    let site = Site {
        name: String::new(),
        kind,
        inputs,
        outputs,
        kernel: spec.kernel_shape.to_vec(),
        groups,
        modules: vec![],
    };
    Found { site, node, x_slot: 0, weight_slot: 1, weight_axes: (0, 0), geometry }
}
