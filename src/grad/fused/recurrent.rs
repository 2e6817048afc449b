//! Back through time.

use std::sync::Arc;

use tract_core::internal::*;
use tract_core::ops::scan::{InputMapping, OutputMapping, ScanInfo};

/// `(the loop's inputs, cotangents of its outputs) → gradients of the inputs in wanted`.
///
/// The loop is run once more, keeping at every step what the body's gradient reads; then the body's gradient is run from the
/// last step to the first. A state's gradient is carried from step to step, that of an input common to all steps is summed.
#[derive(Debug, Clone)]
pub(crate) struct ScanBackward {
    /// The body, with the values that its gradient reads after its own outputs.
    pub forward: Arc<TypedSimplePlan>,
    /// The body's gradient: cotangents of `ends`, then the kept values, to gradients of the body's inputs `wrt`.
    pub backward: Arc<TypedSimplePlan>,
    pub inputs: Vec<InputMapping>,
    pub outputs: Vec<OutputMapping<TDim>>,
    /// Outputs of the body that have a cotangent.
    pub ends: Vec<usize>,
    pub wrt: Vec<usize>,
    /// The inputs among `wrt` whose gradients leave the loop.
    pub wanted: Vec<usize>,
    /// Outputs of the loop that a cotangent is given for.
    pub cotangents: Vec<usize>,
}

/// Two plans are never known to be equal: the runtime then keeps both.
impl PartialEq for ScanBackward {
    fn eq(&self, _: &ScanBackward) -> bool {
        false
    }
}
impl Eq for ScanBackward {}

impl Op for ScanBackward {
    fn name(&self) -> StaticName {
        "ScanBackward".into()
    }
    op_as_typed_op!();
}

impl TypedOp for ScanBackward {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.wanted.iter().map(|&slot| f32::fact(inputs[slot].shape.clone())).collect())
    }
    as_op!();
}

/// Where step `i` lies along the axis of a sequence of length `len`.
fn span(info: &ScanInfo, i: usize, len: usize) -> std::ops::Range<usize> {
    let chunk = info.chunk.unsigned_abs();
    if info.chunk < 0 { len - (i + 1) * chunk..len - i * chunk } else { i * chunk..(i + 1) * chunk }
}

fn step(sequence: &Tensor, info: &ScanInfo, i: usize) -> TractResult<Tensor> {
    let span = span(info, i, sequence.shape()[info.axis]);
    sequence.slice(info.axis, span.start, span.end)
}

fn add(total: &mut Option<Tensor>, more: Tensor) -> TractResult<()> {
    let Some(sum) = total else {
        *total = Some(more);
        return Ok(());
    };
    let mut plain = sum.try_as_plain_ram_mut()?;
    let values = plain.as_slice_mut::<f32>()?;
    values.iter_mut().zip(crate::ops::floats(&more)?).for_each(|(a, b)| *a += b);
    Ok(())
}

/// Bytes of what the gradient of a loop keeps of all its steps; 0 for another operator.
pub(crate) fn tape_bytes(node: &TypedNode, inputs: &[&TypedFact]) -> u64 {
    let Some(op) = node.op_as::<ScanBackward>() else { return 0 };
    let steps = op.inputs.iter().zip(inputs).find_map(|(mapping, fact)| {
        let InputMapping::Scan(info) = mapping else { return None };
        fact.shape.as_concrete().map(|shape| shape[info.axis] / info.chunk.unsigned_abs().max(1))
    });
    let body = op.forward.model();
    let kept = body.outputs.iter().skip(op.outputs.len()).filter_map(|o| body.outlet_fact(*o).ok());
    let values: usize = kept.filter_map(|f| f.shape.as_concrete().map(|s| s.iter().product::<usize>())).sum();
    4 * (steps.unwrap_or(0) * values) as u64
}

impl ScanBackward {
    fn steps(&self, inputs: &[TValue]) -> TractResult<usize> {
        let sequence = self.inputs.iter().zip(inputs).find_map(|(m, x)| Some((m.as_scan()?, x)));
        let (info, x) = sequence.context("a loop over nothing")?;
        Ok(x.shape()[info.axis] / info.chunk.unsigned_abs())
    }

    /// Runs the loop; what the body's gradient reads at each step.
    fn tape(&self, inputs: &[TValue], steps: usize) -> TractResult<Vec<TVec<TValue>>> {
        let mut body = self.forward.spawn()?;
        let is_state = |(m, x): (&InputMapping, &TValue)| m.is_state().then(|| x.clone());
        let mut states: TVec<TValue> = self.inputs.iter().zip(inputs).filter_map(is_state).collect();
        let mut tape = Vec::with_capacity(steps);
        for i in 0..steps {
            let mut state = states.drain(..);
            let mut args: TVec<TValue> = tvec!();
            for (mapping, x) in self.inputs.iter().zip(inputs) {
                args.push(match mapping {
                    InputMapping::Full => x.clone(),
                    InputMapping::State => state.next().context("a state without a value")?,
                    InputMapping::Scan(info) => step(x, info, i)?.into_tvalue(),
                });
            }
            drop(state);
            let mut values = body.run(args)?;
            let kept = values.drain(self.outputs.len()..).collect();
            states = self.outputs.iter().zip(values).filter_map(|(m, v)| m.state.then_some(v)).collect();
            tape.push(kept);
        }
        Ok(tape)
    }

    /// Cotangent of the body's output `end` at step `i`: from the sequence of its values, from its last value, from its state.
    fn cotangent(
        &self,
        end: usize,
        (i, steps): (usize, usize),
        given: &[TValue],
        carried: &[Option<Tensor>],
    ) -> TractResult<TValue> {
        let mapping = &self.outputs[end];
        let of = |slot: usize| self.cotangents.iter().position(|c| *c == slot).map(|ix| &given[ix]);
        let mut total = None;
        if let Some((slot, info)) = &mapping.scan
            && let Some(dy) = of(*slot)
        {
            add(&mut total, step(dy, info, i)?)?;
        }
        if i + 1 == steps
            && let Some(dy) = mapping.last_value_slot.and_then(of)
        {
            add(&mut total, dy.clone().into_tensor())?;
        }
        if mapping.state {
            let nth = self.outputs[..end].iter().filter(|m| m.state).count();
            if let Some(Some(dy)) = carried.get(nth) {
                add(&mut total, dy.clone())?;
            }
        }
        let total = match total {
            Some(t) => t,
            None => {
                let fact = self.forward.model().output_fact(end)?;
                Tensor::zero::<f32>(fact.shape.as_concrete().context("open shape")?)?
            }
        };
        Ok(total.into_tvalue())
    }
}

impl EvalOp for ScanBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (inputs, given) = inputs.split_at(self.inputs.len());
        let steps = self.steps(inputs)?;
        let mut tape = self.tape(inputs, steps)?;
        let mut body = self.backward.spawn()?;
        let mut gradients: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        let mut carried: Vec<Option<Tensor>> = vec![];
        for i in (0..steps).rev() {
            let mut args = self
                .ends
                .iter()
                .map(|&end| self.cotangent(end, (i, steps), given, &carried))
                .collect::<TractResult<TVec<_>>>()?;
            args.extend(tape.pop().context("a step without a tape")?);
            carried.clear();
            for (&slot, gradient) in self.wrt.iter().zip(body.run(args)?) {
                let gradient = gradient.into_tensor();
                match &self.inputs[slot] {
                    InputMapping::State => carried.push(Some(gradient)),
                    InputMapping::Full => add(&mut gradients[slot], gradient)?,
                    InputMapping::Scan(info) => {
                        let shape = inputs[slot].shape();
                        let whole = match &mut gradients[slot] {
                            Some(whole) => whole,
                            empty => empty.insert(Tensor::zero::<f32>(shape)?),
                        };
                        whole.assign_slice(span(info, i, shape[info.axis]), &gradient, .., info.axis)?;
                    }
                }
            }
        }
        // What is left of the states' gradients belongs to their first values.
        let states = self.wrt.iter().filter(|&&slot| self.inputs[slot].is_state());
        for (&slot, gradient) in states.zip(carried) {
            gradients[slot] = gradient;
        }
        let zero = |slot: usize| Tensor::zero::<f32>(inputs[slot].shape());
        let gradient = |&slot: &usize| Ok(gradients[slot].take().map_or_else(|| zero(slot), Ok)?.into_tvalue());
        self.wanted.iter().map(gradient).collect()
    }
}
