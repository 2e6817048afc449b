//! Reverse mode at build time: a decluttered forward graph in, a backward graph out.
//!
//! The walk visits the nodes between the low-rank sites and the outputs once, in reverse, and asks the node's rule for the
//! gradients of its inputs. A rule answers *gradient*, *no gradient exists*, or *refused, because*; a node without a rule and
//! a refused one are *blocked*: nothing flows through them, and they are reported by name, so that sites above still train.
//! Unbroadcasting and accumulation happen here and never in rules.

mod cx;
mod fused;
mod rules;
mod verify;

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;

use crate::ops::{spread_rule, sweep};

pub(crate) use cx::Cx;
pub(crate) use fused::tape_bytes;
pub(crate) use rules::Answer;
pub use rules::{RuleInfo, supported_ops};

/// A node between a site and the loss through which no gradient can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Name of the node.
    pub node: String,
    /// Its operator in the runtime's graph.
    pub op: String,
    /// Why.
    pub reason: String,
}

/// A backward graph. Inputs: the cotangents, then the values in `saved`; outputs: the gradients, in the order asked.
pub(crate) struct Backward {
    pub model: TypedModel,
    /// Outlets of the forward graph whose values the backward graph reads.
    pub saved: Vec<OutletId>,
    /// Nodes that stop the gradient.
    pub blocked: Vec<Blocked>,
    /// For each asked input: whether a blocked node lies between it and an output.
    pub obstructed: Vec<bool>,
    /// For each asked input: whether any gradient arrives at it. None does where every path ends in an operator without
    /// one (a sign, a rounding).
    pub reached: Vec<bool>,
}

impl Backward {
    /// Whether the gradient of the asked input of this index is none, or not all of it.
    pub fn is_incomplete(&self, ix: usize) -> bool {
        self.obstructed[ix] || !self.reached[ix]
    }
}

/// Differentiates `forward` from `outputs` to the inputs `wrt`; `fused` picks fused backward operators over composed ones.
pub(crate) fn differentiate(
    forward: &TypedModel,
    outputs: &[OutletId],
    wrt: &[OutletId],
    fused: bool,
) -> TractResult<Backward> {
    let order = forward.eval_order()?;
    let active = downstream(forward, &order, wrt);
    let mut cx = Cx::new(forward, fused);
    let mut gradients: HashMap<OutletId, OutletId> = HashMap::new();
    for (ix, &output) in outputs.iter().enumerate() {
        let fact = forward.outlet_fact(output)?;
        let source = cx.source(format!("cotangent.{ix}"), fact)?;
        accumulate(&mut cx, &mut gradients, output, source)?;
    }
    let mut blocked: Vec<(usize, Blocked)> = vec![];
    for &id in order.iter().rev() {
        let node = forward.node(id);
        let dys: TVec<Option<OutletId>> =
            (0..node.outputs.len()).map(|slot| gradients.get(&OutletId::new(id, slot)).copied()).collect();
        if dys.iter().all(Option::is_none) || !node.inputs.iter().any(|i| active.contains(i)) {
            continue;
        }
        let name = node.op.name();
        let mut stop = |reason: String| {
            let stopped = Blocked { node: node.name.clone(), op: name.to_string(), reason };
            blocked.push((id, stopped));
        };
        let Some(rule) = rules::lookup(&name) else {
            stop("there is no gradient rule for this operator".into());
            continue;
        };
        let first = dys[0];
        cx.enter(node, node.inputs.iter().map(|i| active.contains(i)).collect(), dys);
        let dy = match first {
            Some(dy) => dy,
            None => cx.zeros(&node.outputs[0].fact.shape)?,
        };
        let dy = if rule.lazy && !spread_by_op(forward, node, cx.shape(dy)?)? { dy } else { cx.full(dy)? };
        match (rule.apply)(&mut cx, node, dy)? {
            Answer::NoGradient => {}
            Answer::Refused(reason) => stop(reason),
            Answer::Gradient(parts) => {
                for (slot, gradient) in parts {
                    let input = node.inputs[slot];
                    if active.contains(&input) {
                        let gradient = unbroadcast(&mut cx, gradient, &forward.outlet_fact(input)?.shape)?;
                        accumulate(&mut cx, &mut gradients, input, gradient)?;
                    }
                }
            }
        }
    }
    let obstructed = obstructed(forward, &order, wrt, &blocked);
    let reached = wrt.iter().map(|w| gradients.contains_key(w)).collect();
    let mut results = tvec!();
    for w in wrt {
        let fact = forward.outlet_fact(*w)?;
        let gradient = match gradients.get(w) {
            Some(&g) => cx.full_to(g, &fact.shape)?,
            None => cx.zeros(&fact.shape)?,
        };
        results.push(gradient);
    }
    let (mut model, saved) = cx.finish();
    model.select_output_outlets(&results)?;
    verify::only_known_ops(&model)?;
    sweep(&mut model, spread_rule)?;
    Ok(Backward { model, saved, blocked: blocked.into_iter().map(|(_, b)| b).collect(), obstructed, reached })
}

/// Float outlets that depend on `roots`.
fn downstream(model: &TypedModel, order: &[usize], roots: &[OutletId]) -> HashSet<OutletId> {
    let mut active: HashSet<OutletId> = roots.iter().copied().collect();
    for &id in order {
        let node = model.node(id);
        if node.inputs.iter().any(|i| active.contains(i)) {
            let float = |(_, o): &(usize, &Outlet<TypedFact>)| o.fact.datum_type.is_float();
            active.extend(node.outputs.iter().enumerate().filter(float).map(|(slot, _)| OutletId::new(id, slot)));
        }
    }
    active
}

/// For each root, whether some path from it runs into a blocked node.
fn obstructed(model: &TypedModel, order: &[usize], roots: &[OutletId], blocked: &[(usize, Blocked)]) -> Vec<bool> {
    let mut leads: HashSet<usize> = blocked.iter().map(|(id, _)| *id).collect();
    for &id in order.iter().rev() {
        let outputs = &model.node(id).outputs;
        if outputs.iter().flat_map(|o| &o.successors).any(|s| leads.contains(&s.node)) {
            leads.insert(id);
        }
    }
    roots.iter().map(|r| leads.contains(&r.node)).collect()
}

/// True when the node itself spreads an input along an axis where `dy` is still collapsed: the sum over that axis must then
/// see every copy.
fn spread_by_op(model: &TypedModel, node: &TypedNode, dy: ShapeFact) -> TractResult<bool> {
    let out = &node.outputs[0].fact.shape;
    for input in &node.inputs {
        let shape = &model.outlet_fact(*input)?.shape;
        if shape.rank() == out.rank() {
            let one = 1.to_dim();
            if (0..out.rank()).any(|ax| out[ax] != one && dy[ax] == one && shape[ax] == one) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sums a gradient over the axes along which the forward operator broadcast its input.
fn unbroadcast(cx: &mut Cx, gradient: OutletId, to: &ShapeFact) -> TractResult<OutletId> {
    let from = cx.shape(gradient)?;
    ensure!(
        from.rank() == to.rank(),
        "a rule at {} returned rank {} for rank {}",
        cx.node_name(),
        from.rank(),
        to.rank()
    );
    let one = 1.to_dim();
    let axes: TVec<usize> = (0..to.rank()).filter(|&ax| to[ax] == one && from[ax] != one).collect();
    if axes.is_empty() { Ok(gradient) } else { cx.sum(gradient, &axes) }
}

fn accumulate(
    cx: &mut Cx,
    gradients: &mut HashMap<OutletId, OutletId>,
    at: OutletId,
    gradient: OutletId,
) -> TractResult<()> {
    let total = match gradients.get(&at).copied() {
        Some(so_far) => cx.add(so_far, gradient)?,
        None => gradient,
    };
    gradients.insert(at, total);
    Ok(())
}

#[cfg(test)]
mod tests;
