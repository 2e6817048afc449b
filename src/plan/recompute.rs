//! Selective recomputation: the backward pass runs cheap operators a second time, in place of keeping their results.
//!
//! Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, Slice, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::source::TypedSource;

use super::at_once::bytes;
use super::graph::dependents;
use crate::ops::{After, copy_constant, is_constant};

/// Operators in a row that are run again for one value.
const LONGEST: usize = 8;
/// Names of cheap operators that the types below do not tell.
const CHEAP: [&str; 3] = ["Silu", "RmsNorm", "Clip"];

/// What of a forward graph is kept for the backward one, and what is computed again.
struct Choice<'a> {
    forward: &'a TypedModel,
    kept: Vec<OutletId>,
    again: HashSet<OutletId>,
}

/// What one value takes to be computed again: values to keep for it, and values to compute again beside it.
#[derive(Default)]
struct Needs {
    kept: HashSet<OutletId>,
    again: HashSet<OutletId>,
}

impl Choice<'_> {
    fn size(&self, outlet: OutletId) -> u64 {
        match self.forward.inputs.contains(&outlet) {
            // It is there anyway.
            true => 0,
            false => self.forward.outlet_fact(outlet).map_or(0, bytes),
        }
    }

    fn is_cheap(&self, outlet: OutletId) -> bool {
        let node = self.forward.node(outlet.node);
        node.outputs.len() == 1
            && !node.inputs.is_empty()
            && (node.op_is::<ElementWiseOp>()
                || node.op_is::<TypedBinOp>()
                || node.op_is::<AxisOp>()
                || node.op_is::<Slice>()
                || node.op_is::<TypedConcat>()
                || node.op_is::<MultiBroadcastTo>()
                || CHEAP.contains(&node.op.name().as_ref()))
    }

    /// Adds what `outlet` takes; its bytes beyond those that are kept already.
    fn cost(&self, outlet: OutletId, deep: usize, needs: &mut Needs) -> u64 {
        let mut cost = 0;
        for &input in &self.forward.node(outlet.node).inputs {
            let known = self.kept.contains(&input) || self.again.contains(&input);
            if known || is_constant(self.forward, input) || needs.kept.contains(&input) || needs.again.contains(&input)
            {
                continue;
            }
            let mut deeper = Needs { kept: needs.kept.clone(), again: needs.again.clone() };
            let again = match self.is_cheap(input) && deep < LONGEST {
                true => self.cost(input, deep + 1, &mut deeper),
                false => u64::MAX,
            };
            if again < self.size(input) {
                *needs = deeper;
                needs.again.insert(input);
                cost += again;
            } else {
                needs.kept.insert(input);
                cost += self.size(input);
            }
        }
        cost
    }

    /// Decides for `outlet`, which is kept so far.
    fn decide(&mut self, outlet: OutletId) {
        let Some(at) = self.kept.iter().position(|kept| *kept == outlet) else { return };
        let mut needs = Needs::default();
        if self.is_cheap(outlet) && self.cost(outlet, 0, &mut needs) < self.size(outlet) {
            self.kept.remove(at);
            self.again.insert(outlet);
            self.again.extend(needs.again);
            let mut kept: Vec<OutletId> = needs.kept.into_iter().collect();
            kept.sort();
            self.kept.extend(kept);
        }
    }
}

/// Rewrites `backward`, whose last inputs are the values of `saved` in order, and `saved` itself.
pub(super) fn recompute(forward: &TypedModel, backward: &mut TypedModel, saved: &mut Vec<OutletId>) -> TractResult<()> {
    let first = backward.inputs.len() - saved.len();
    let mut sources: HashMap<OutletId, OutletId> =
        saved.iter().copied().zip(backward.inputs[first..].iter().copied()).collect();
    let order = forward.eval_order()?;
    let mut choice = Choice { forward, kept: saved.clone(), again: HashSet::new() };
    for &id in order.iter().rev() {
        // A gradient that is a kept value stays one.
        let is_result = sources.get(&id.into()).is_some_and(|source| backward.outputs.contains(source));
        if !is_result {
            choice.decide(id.into());
        }
    }
    let Choice { kept, again, .. } = choice;
    if again.is_empty() {
        return Ok(());
    }
    // When each is read first, in the backward graph as it is, and what is read beside it then.
    let places: HashMap<usize, usize> =
        backward.eval_order()?.into_iter().enumerate().map(|(at, id)| (id, at)).collect();
    let late = dependents(backward, &backward.eval_order()?, &backward.inputs[..first]);
    let mut due: HashMap<OutletId, (usize, Option<OutletId>)> = HashMap::new();
    for &id in order.iter().rev() {
        let outlet = OutletId::from(id);
        if !again.contains(&outlet) {
            continue;
        }
        let read = sources.get(&outlet).into_iter().flat_map(|source| {
            let readers = &backward.node(source.node).outputs[source.slot].successors;
            readers.iter().filter_map(|reader| {
                let beside = backward.node(reader.node).inputs.iter().copied().rfind(|i| late.contains(&i.node));
                Some((*places.get(&reader.node)?, beside))
            })
        });
        let readers = &forward.node(id).outputs[0].successors;
        let in_turn = readers.iter().filter_map(|reader| due.get(&OutletId::from(reader.node)).copied());
        if let Some(earliest) = read.chain(in_turn).min_by_key(|(at, _)| *at) {
            due.insert(outlet, earliest);
        }
    }
    for &outlet in &kept {
        if let Entry::Vacant(place) = sources.entry(outlet) {
            let (node, fact) = (forward.node(outlet.node), forward.outlet_fact(outlet)?);
            let name = format!("kept.{}.{}", node.name, outlet.slot);
            place.insert(backward.add_source(name, fact.datum_type.fact(fact.shape.clone()))?);
        }
    }
    let mut made: HashMap<OutletId, OutletId> = HashMap::new();
    for &id in &order {
        let (outlet, node) = (OutletId::from(id), forward.node(id));
        let Some(&(_, beside)) = due.get(&outlet).filter(|_| again.contains(&outlet)) else { continue };
        let (mut inputs, mut waits) = (tvec!(), beside);
        for (slot, input) in node.inputs.iter().enumerate() {
            let name = format!("{}.again.{slot}", node.name);
            let mut wire = match (made.get(input), copy_constant(forward, *input, backward, &name)?) {
                (Some(made), _) => *made,
                (None, Some(constant)) => {
                    inputs.push(constant);
                    continue;
                }
                (None, None) => *sources.get(input).with_context(|| format!("{node} reads what is not kept"))?,
            };
            if let Some(beside) = waits.take() {
                wire = backward.wire_node(format!("{name}.after"), After, &[wire, beside])?[0];
            }
            inputs.push(wire);
        }
        let again = backward.wire_node(format!("{}.again", node.name), node.op.clone(), &inputs)?[0];
        made.insert(outlet, again);
    }
    for (outlet, made) in made {
        let Some(source) = sources.get(&outlet) else { continue };
        for reader in backward.node(source.node).outputs[source.slot].successors.clone() {
            backward.add_edge(made, reader)?;
        }
    }
    backward.inputs.truncate(first);
    backward.inputs.extend(kept.iter().map(|outlet| sources[outlet]));
    ensure!(backward.inputs.iter().all(|i| backward.node(i.node).op_is::<TypedSource>()), "an input is no source");
    *saved = kept;
    Ok(())
}
