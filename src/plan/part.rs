//! Part of a graph as a graph of its own.

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ops::source::TypedSource;

use crate::ops::copy_constant;

/// The graph of `nodes`, in evaluation order, that reads `inputs` and gives `outputs`. Constants that it reads are
/// copied into it.
///
/// # Errors
/// When a node reads what neither another of them nor an input gives.
pub(super) fn part(
    model: &TypedModel,
    nodes: &[usize],
    inputs: &[OutletId],
    outputs: &[OutletId],
) -> TractResult<TypedModel> {
    let mut out = TypedModel { symbols: model.symbols.clone(), ..TypedModel::default() };
    let mut at: HashMap<OutletId, OutletId> = HashMap::new();
    for outlet in inputs {
        let (fact, node) = (model.outlet_fact(*outlet)?, model.node(outlet.node));
        let name = match node.op_is::<TypedSource>() {
            true => node.name.clone(),
            false => format!("{}.{}.passed", node.name, outlet.slot),
        };
        at.insert(*outlet, out.add_source(name, fact.datum_type.fact(fact.shape.clone()))?);
    }
    for &id in nodes {
        let node = model.node(id);
        let mut wires = tvec!();
        for input in &node.inputs {
            if !at.contains_key(input) {
                let name = format!("{}.{}", model.node(input.node).name, input.slot);
                at.extend(copy_constant(model, *input, &mut out, &name)?.map(|copy| (*input, copy)));
            }
            wires.push(*at.get(input).with_context(|| format!("{node} reads what is on neither side of a cut"))?);
        }
        let made = out.wire_node(&node.name, node.op.clone(), &wires)?;
        at.extend(made.iter().enumerate().map(|(slot, o)| (OutletId::new(id, slot), *o)));
    }
    let given: Vec<OutletId> = outputs.iter().filter_map(|o| at.get(o).copied()).collect();
    ensure!(given.len() == outputs.len(), "an output is on neither side of a cut");
    out.select_output_outlets(&given)?;
    Ok(out)
}
