//! Gradient checkpointing: where a forward graph is cut into segments. Between the passes only the values that enter
//! segments are kept. The backward pass runs each segment forward once more, from the last one to the first, and then
//! backward.
//!
//! Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.

use std::collections::{HashMap, HashSet};

use tract_core::internal::*;
use tract_core::ops::source::TypedSource;

use super::at_once::bytes;
use super::graph::dependents;
use crate::ops::is_constant;

/// Places for cuts that are looked at: the time grows with their square.
const MOST_PLACES: usize = 500;
/// Halvings of the largest segment's size that are tried, and steps of each.
const HALVINGS: i32 = 9;
const STEPS: i32 = 6;

/// The nodes of each segment, in evaluation order. The values of a segment, and the trained values that cross the
/// cuts, are as few as can be together. Values that do not depend on `factors` cost nothing at a cut: they are kept
/// once for all segments.
pub(super) fn segments(model: &TypedModel, factors: &[OutletId]) -> TractResult<Vec<Vec<usize>>> {
    let order = model.eval_order()?;
    // A second run would draw other numbers.
    let draws = |node: &TypedNode| node.op.name().starts_with("Random") || node.op.name() == "Multinomial";
    if model.nodes().iter().any(draws) {
        return Ok(vec![nodes_of(model, &order)]);
    }
    let trained = dependents(model, &order, factors);
    let nodes = nodes_of(model, &order);
    if nodes.is_empty() {
        return Ok(vec![nodes]);
    }
    let (sizes, crossing) = costs(model, &nodes, &trained);
    let places = narrow(&crossing);
    let whole: u64 = sizes.iter().sum();
    let limits = (0..HALVINGS * STEPS).map(|at| (whole as f64 / 2f64.powf(f64::from(at) / f64::from(STEPS))) as u64);
    let best = limits.filter_map(|limit| cuts(&sizes, &crossing, &places, limit)).min_by_key(|(cost, _)| *cost);
    let mut rest = &nodes[..];
    let mut segments = vec![];
    let mut start = 0;
    for cut in best.map_or(vec![], |(_, cuts)| cuts) {
        let (segment, after) = rest.split_at(cut + 1 - start);
        segments.push(segment.to_vec());
        (rest, start) = (after, cut + 1);
    }
    segments.push(rest.to_vec());
    Ok(segments)
}

/// The nodes that compute something.
fn nodes_of(model: &TypedModel, order: &[usize]) -> Vec<usize> {
    let computed = |id: &usize| !model.node(*id).op_is::<TypedSource>() && !is_constant(model, (*id).into());
    order.iter().copied().filter(computed).collect()
}

/// Bytes that each node makes, and bytes of trained values that cross a cut behind it.
fn costs(model: &TypedModel, nodes: &[usize], trained: &HashSet<usize>) -> (Vec<u64>, Vec<u64>) {
    let mut sizes = vec![0u64; nodes.len()];
    let mut steps = vec![0i64; nodes.len() + 1];
    let places: HashMap<usize, usize> = nodes.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    for (at, &id) in nodes.iter().enumerate() {
        for (slot, outlet) in model.node(id).outputs.iter().enumerate() {
            let size = bytes(&outlet.fact);
            sizes[at] += size;
            let readers = outlet.successors.iter().filter_map(|s| places.get(&s.node)).max();
            let last = match model.outputs.contains(&OutletId::new(id, slot)) {
                true => Some(nodes.len()),
                false => readers.copied(),
            };
            if let Some(last) = last.filter(|_| trained.contains(&id)) {
                steps[at] += size as i64;
                steps[last] -= size as i64;
            }
        }
    }
    let mut live = 0;
    let crossing = steps[..nodes.len()].iter().map(|step| {
        live += step;
        live.unsigned_abs()
    });
    (sizes, crossing.collect())
}

/// The places that no more bytes cross than their neighbours, or so many of them spread over all.
fn narrow(crossing: &[u64]) -> Vec<usize> {
    let inner = 1..crossing.len().saturating_sub(1);
    let low = |at: &usize| crossing[*at] <= crossing[at - 1] && crossing[*at] <= crossing[at + 1];
    let all: Vec<usize> = inner.filter(low).collect();
    let step = all.len().div_ceil(MOST_PLACES).max(1);
    all.into_iter().rev().step_by(step).rev().collect()
}

/// The cuts at some of `places` that fewest bytes cross while no segment makes more than `limit` bytes, with those
/// bytes and the largest segment's.
fn cuts(sizes: &[u64], crossing: &[u64], places: &[usize], limit: u64) -> Option<(u64, Vec<usize>)> {
    let mut made = vec![0u64];
    for size in sizes {
        made.push(made[made.len() - 1] + size);
    }
    // `best[i]`: the fewest bytes that cross cuts up to the one at `ends[i]`, and the cut before it.
    let ends: Vec<usize> = places.iter().copied().chain([sizes.len() - 1]).collect();
    let mut best: Vec<Option<(u64, Option<usize>)>> = vec![None; ends.len()];
    for (i, &end) in ends.iter().enumerate() {
        let fits = |start: usize| made[end + 1] - made[start] <= limit;
        let crosses = if i + 1 < ends.len() { crossing[end] } else { 0 };
        let mut least = fits(0).then_some((crosses, None));
        for before in (0..i).rev().take_while(|&before| fits(ends[before] + 1)) {
            if let Some((so_far, _)) = best[before]
                && least.is_none_or(|(l, _)| so_far + crosses < l)
            {
                least = Some((so_far + crosses, Some(before)));
            }
        }
        best[i] = least;
    }
    let mut chosen = vec![];
    let (cost, mut at) = best[ends.len() - 1]?;
    while let Some(before) = at {
        chosen.push(ends[before]);
        at = best[before]?.1;
    }
    chosen.reverse();
    let bounds = [&[0][..], &chosen.iter().map(|c| c + 1).collect::<Vec<_>>(), &[sizes.len()]].concat();
    let largest = bounds.windows(2).map(|w| made[w[1]] - made[w[0]]).max().unwrap_or(0);
    Some((cost + largest, chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_where_little_crosses_and_segments_are_even() {
        // Six blocks of four nodes; one value crosses behind each block, three inside of it.
        let sizes = [10u64; 24];
        let crossing: Vec<u64> = (0..24).map(|i| if i % 4 == 3 { 10 } else { 30 }).collect();
        let places = narrow(&crossing);
        assert!([3, 7, 11, 15, 19].iter().all(|place| places.contains(place)), "{places:?}");
        assert_eq!(cuts(&sizes, &crossing, &places, 240), Some((240, vec![])));
        assert_eq!(cuts(&sizes, &crossing, &places, 120), Some((10 + 120, vec![11])));
        assert_eq!(cuts(&sizes, &crossing, &places, 40), Some((50 + 40, vec![3, 7, 11, 15, 19])));
        assert_eq!(cuts(&sizes, &crossing, &places, 19), None, "two nodes between neighbouring places");
    }

    #[test]
    fn what_no_factor_changes_does_not_count_at_a_cut() {
        let mut model = TypedModel::default();
        let mut source = |name: &str, n: usize| model.add_source(name, f32::fact([n])).unwrap();
        let (x, a) = (source("x", 10), source("a", 10));
        let mask = model.wire_node("mask", tract_core::ops::math::exp(), &[x]).unwrap()[0];
        let mut y = x;
        for layer in 0..8 {
            y = model.wire_node(format!("scaled.{layer}"), tract_core::ops::math::mul(), &[y, a]).unwrap()[0];
            for inner in 0..4 {
                y = model.wire_node(format!("{layer}.{inner}"), tract_core::ops::math::exp(), &[y]).unwrap()[0];
            }
            y = model.wire_node(format!("masked.{layer}"), tract_core::ops::math::add(), &[y, mask]).unwrap()[0];
        }
        model.select_output_outlets(&[y]).unwrap();
        let order = model.eval_order().unwrap();
        let nodes: Vec<usize> = order.into_iter().filter(|id| !model.node(*id).op_is::<TypedSource>()).collect();
        let (sizes, crossing) = costs(&model, &nodes, &dependents(&model, &nodes, &[a]));
        assert!(sizes.iter().all(|size| *size == 40));
        assert!(crossing.iter().all(|bytes| *bytes <= 40), "{crossing:?}");
        let found = segments(&model, &[a]).unwrap();
        assert_eq!(found.concat(), nodes);
        assert!(found.len() > 2, "{found:?}");
    }
}
