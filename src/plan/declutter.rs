//! tract's declutter and optimize, for graphs of many inputs and weights.
//!
//! **Inputs.** The runtime looks for every node among a graph's inputs, each time that it orders the nodes: after
//! every change of axes, among others. A training graph has hundreds of inputs. So they are no inputs meanwhile, but
//! operators that nothing changes.
//!
//! **Equal operators.** The runtime merges operators of equal inputs, and may replace two by each other where they
//! share two inputs. A pass of our own takes the place of that one.
//!
//! **Weights.** The runtime folds a change of axes into a constant by copying it, and looks for such changes through
//! all layers at once: with SmolLM2-135M it holds up to a fifth of the weights a second time. So weights that are
//! used from a file are no constants meanwhile, but operators that change their shape alone; and where a pass makes a
//! constant of one nevertheless, that goes as soon as it exists.

use std::collections::HashMap;
use std::sync::OnceLock;

use tract_core::internal::*;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;
use tract_core::optim::{Optimizer, OptimizerSession, TypedPass};

use crate::base::{in_shape, is_mapped, release_unused};

/// Weights of fewer values are copied.
const LARGE: usize = 1 << 14;

/// [`TypedModel::declutter`].
pub(super) fn declutter(model: &mut TypedModel) -> TractResult<()> {
    let done = with_fixed_inputs(model, sharing_weights);
    release_unused();
    done
}

/// [`TypedModel::optimize`].
pub(super) fn optimize(model: &mut TypedModel) -> TractResult<()> {
    with_fixed_inputs(model, |model| {
        let mut optimizer = Optimizer::codegen();
        optimizer.passes = optimizer.passes.into_iter().map(merging).collect();
        optimizer.optimize(model)
    })
}

/// `pass`, or [`Merge`] in its place.
fn merging(pass: Box<dyn TypedPass>) -> Box<dyn TypedPass> {
    if format!("{pass:?}") == "PushSplitDown" { Box::new(Merge) } else { pass }
}

/// Merges operators of equal inputs.
#[derive(Debug, Clone)]
struct Merge;

impl TypedPass for Merge {
    fn reset(&mut self) -> TractResult<()> {
        Ok(())
    }
    fn next(&mut self, _: &mut OptimizerSession, model: &TypedModel) -> TractResult<Option<TypedModelPatch>> {
        let mut patch = TypedModelPatch::new("equal operators");
        for id in model.eval_order()? {
            for output in &model.node(id).outputs {
                let readers: Vec<&TypedNode> = output.successors.iter().map(|s| model.node(s.node)).collect();
                for (at, kept) in readers.iter().enumerate() {
                    for merged in &readers[at + 1..] {
                        let gone = |node: &TypedNode| patch.obliterate.contains(&node.id);
                        let outputs = [kept, merged].iter().all(|node| model.outputs.contains(&node.id.into()));
                        if kept.id == merged.id || gone(kept) || gone(merged) || outputs || !kept.same_as(merged) {
                            continue;
                        }
                        for slot in 0..merged.outputs.len() {
                            let tap = patch.tap_model(model, OutletId::new(kept.id, slot))?;
                            patch.shunt_outside(model, OutletId::new(merged.id, slot), tap)?;
                        }
                        patch.obliterate(merged.id)?;
                    }
                }
            }
        }
        Ok(Some(patch).filter(|patch| !patch.is_empty()))
    }
}

fn with_fixed_inputs(model: &mut TypedModel, work: impl FnOnce(&mut TypedModel) -> TractResult<()>) -> TractResult<()> {
    let inputs = std::mem::take(&mut model.inputs);
    let mut names = vec![];
    for (index, input) in inputs.iter().enumerate() {
        let fact = model.outlet_fact(*input)?.clone();
        names.push((model.node(input.node).name.clone(), fact.clone()));
        model.node_mut(input.node).op = Box::new(FixedInput { index, fact });
    }
    work(model)?;
    let mut found: HashMap<usize, usize> = HashMap::new();
    for id in 0..model.nodes().len() {
        if let Some(FixedInput { index, fact }) = model.node(id).op_as::<FixedInput>() {
            found.insert(*index, id);
            model.node_mut(id).op = Box::new(TypedSource::new(fact.clone()));
        }
    }
    // An input that nothing reads any more may have gone.
    for (index, (name, fact)) in names.into_iter().enumerate() {
        match found.get(&index) {
            Some(id) => model.inputs.push((*id).into()),
            None => drop(model.add_source(name, fact)?),
        }
    }
    Ok(())
}

/// An input of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FixedInput {
    index: usize,
    fact: TypedFact,
}

impl Op for FixedInput {
    fn name(&self) -> StaticName {
        "FixedInput".into()
    }
    op_as_typed_op!();
}

impl EvalOp for FixedInput {
    not_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("an input has no value of its own")
    }
}

impl TypedOp for FixedInput {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
    fn change_axes(
        &self,
        _model: &TypedModel,
        _node: &TypedNode,
        _io: InOut,
        _change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        Ok(None)
    }
    as_op!();
}

fn sharing_weights(model: &mut TypedModel) -> TractResult<()> {
    let mut weights = vec![];
    for id in 0..model.nodes().len() {
        let Some(weight) = model.node(id).op_as::<Const>().map(Const::val).filter(|w| w.len() >= LARGE) else {
            continue;
        };
        if is_mapped(weight) {
            weights.push(weight.clone());
            model.node_mut(id).op = Box::new(Weight::new(weight.clone(), weight.shape().into()));
        }
    }
    let weights = Arc::new(weights);
    let sharing = |pass| Box::new(Sharing { pass: merging(pass), weights: weights.clone() }) as Box<dyn TypedPass>;
    let mut optimizer = Optimizer::declutter();
    optimizer.passes = optimizer.passes.into_iter().map(sharing).collect();
    optimizer.optimize(model)?;
    for id in 0..model.nodes().len() {
        if let Some(weight) = model.node(id).op_as::<Weight>() {
            model.node_mut(id).op = Box::new(Const::new(weight.value())?);
        }
    }
    Ok(())
}

/// A weight that is used from a file, in some shape.
#[derive(Debug, Clone)]
struct Weight {
    original: Arc<Tensor>,
    shape: TVec<usize>,
    value: OnceLock<Arc<Tensor>>,
}

impl PartialEq for Weight {
    fn eq(&self, other: &Weight) -> bool {
        Arc::ptr_eq(&self.original, &other.original) && self.shape == other.shape
    }
}

impl Eq for Weight {}

impl Weight {
    fn new(original: Arc<Tensor>, shape: TVec<usize>) -> Weight {
        Weight { original, shape, value: OnceLock::new() }
    }

    /// The weight in its shape.
    fn value(&self) -> Arc<Tensor> {
        let same = || (self.original.shape() == &*self.shape).then(|| self.original.clone());
        let copy = || {
            let copy = (*self.original).clone();
            copy.into_shape(&self.shape).map_or_else(|_| self.original.clone(), IntoArcTensor::into_arc_tensor)
        };
        let made = || same().or_else(|| in_shape(&self.original, &self.shape)).unwrap_or_else(copy);
        self.value.get_or_init(made).clone()
    }
}

impl Op for Weight {
    fn name(&self) -> StaticName {
        "Weight".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Weight {
    // Folding it would make a constant of it.
    not_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.value().into_tvalue()))
    }
}

impl TypedOp for Weight {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(TypedFact::try_from(&self.value())?))
    }

    fn change_axes(
        &self,
        _model: &TypedModel,
        _node: &TypedNode,
        io: InOut,
        change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        ensure!(io == InOut::Out(0));
        let mut shape = self.shape.clone();
        let volume = |shape: &[usize]| shape.iter().product::<usize>();
        if change.change_shape_array(&mut shape, false).is_err() || volume(&shape) != volume(&self.shape) {
            return Ok(None);
        }
        let changed: Box<dyn TypedOp> = if keeps_order(change, &self.shape) {
            Box::new(Weight::new(self.original.clone(), shape))
        } else {
            let mut copy = (*self.value()).clone();
            if change.change_tensor(&mut copy, false).is_err() {
                return Ok(None);
            }
            Box::new(Const::new(copy.into_arc_tensor())?)
        };
        Ok(Some(AxisChangeConsequence { substitute_op: Some(changed), wire_changes: tvec!((io, change.clone())) }))
    }

    as_op!();
}

/// Whether the values of a tensor of `shape` stay in order.
fn keeps_order(change: &AxisOp, shape: &[usize]) -> bool {
    match *change {
        AxisOp::Move(from, to) => {
            let passed = if from < to { from + 1..to + 1 } else { to..from };
            shape[from] == 1 || shape[passed].iter().all(|d| *d == 1)
        }
        _ => true,
    }
}

/// A pass whose patches hold no copies of weights.
#[derive(Clone)]
struct Sharing {
    pass: Box<dyn TypedPass>,
    weights: Arc<Vec<Arc<Tensor>>>,
}

/// The runtime writes the name of a pass before each of its rounds: not all weights with it.
impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pass.fmt(f)
    }
}

impl Sharing {
    /// The weight that `constant` is, or has the values of.
    fn original(&self, constant: &Arc<Tensor>) -> Option<Arc<Tensor>> {
        if is_mapped(constant) {
            return Some(constant.clone());
        }
        let same = |w: &&Arc<Tensor>| w.datum_type() == constant.datum_type() && w.as_bytes() == constant.as_bytes();
        self.weights.iter().find(same).cloned()
    }
}

impl TypedPass for Sharing {
    fn reset(&mut self) -> TractResult<()> {
        self.pass.reset()
    }

    fn next(&mut self, session: &mut OptimizerSession, model: &TypedModel) -> TractResult<Option<TypedModelPatch>> {
        let Some(mut patch) = self.pass.next(session, model)? else { return Ok(None) };
        for id in 0..patch.model.nodes().len() {
            let constant = patch.model.node(id).op_as::<Const>().map(Const::val).filter(|c| c.len() >= LARGE);
            if let Some((original, shape)) = constant.and_then(|c| Some((self.original(c)?, c.shape().into()))) {
                let weight = Weight::new(original, shape);
                patch.model.set_outlet_fact(id.into(), TypedFact::try_from(&weight.value())?)?;
                patch.model.node_mut(id).op = Box::new(weight);
            }
        }
        Ok(Some(patch))
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        self.pass.run_direct(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_past_axes_of_one_keep_the_order() {
        for (from, to, keeps) in [(0, 1, true), (1, 3, false), (2, 0, false), (1, 0, true), (0, 3, true), (3, 3, true)]
        {
            assert_eq!(keeps_order(&AxisOp::Move(from, to), &[1, 5, 6, 7]), keeps, "{from} to {to}");
        }
        assert!(keeps_order(&AxisOp::Move(3, 1), &[2, 1, 1, 7]));
        assert!(keeps_order(&AxisOp::Add(0), &[2, 3]));
    }
}
