//! LSTM layers whose weights are quantised, as ONNX Runtime's dynamic quantisation writes them.

use tract_onnx::pb::{NodeProto, TensorProto};

use super::super::integers::{float_tensor, numbers};
use super::{DYNAMIC, Given, Lowering, backwards};

/// The operator.
pub(super) const DYNAMIC_LSTM: &str = "DynamicQuantizeLSTM";

/// An LSTM of floats over the input as it is quantised by its range. The state is quantised anew at every step by ONNX
/// Runtime, and not at all here: answers differ by that rounding.
pub(super) fn dynamic_lstm(to: &mut Lowering, given: &Given) -> Option<()> {
    let input = |slot: usize| given.input(slot);
    let w = to.transposed(input(1)?, input(8)?, input(9)?)?;
    let r = to.transposed(input(2)?, input(10)?, input(11)?)?;
    let x = to.fresh();
    to.push(x.clone(), DYNAMIC, &[input(0)?], &x, vec![]);
    let rest = (3..8).map(|slot| given.node.input.get(slot).cloned().unwrap_or_default());
    let lstm = NodeProto {
        name: to.at.clone(),
        op_type: "LSTM".into(),
        domain: String::new(),
        input: [x, w, r].into_iter().chain(rest).collect(),
        ..given.node.clone()
    };
    match backwards::is(&lstm) {
        true => to.backwards(&lstm),
        false => {
            to.nodes.push(lstm);
            Some(())
        }
    }
}

impl Lowering<'_> {
    /// A stored weight `[directions, inputs, gates]` with one scale for each direction, or for each of its gates, as floats
    /// `[directions, gates, inputs]`.
    fn transposed(&mut self, weight: &str, scale: &str, zero: &str) -> Option<String> {
        let stored = |name: &str| self.constants.get(name).copied();
        let (values, dims) = gates_first(stored(weight)?, stored(scale)?, stored(zero)?)?;
        let name = self.fresh();
        self.initializers.push(float_tensor(name.clone(), &values, &dims));
        Some(name)
    }
}

fn gates_first(weight: &TensorProto, scale: &TensorProto, zero: &TensorProto) -> Option<(Vec<f32>, [i64; 3])> {
    let [directions, inputs, gates] = weight.dims[..] else { return None };
    let (q, scales, zeros) = (numbers(weight)?, numbers(scale)?, numbers(zero)?);
    let [d, i, g] = [directions, inputs, gates].map(|n| usize::try_from(n).ok());
    let (d, i, g) = (d?, i?, g?);
    let fits = |n: usize| n == d || n == d.saturating_mul(g);
    if q.len() != d.checked_mul(i)?.checked_mul(g)? || !fits(scales.len()) || !fits(zeros.len()) {
        return None;
    }
    let of = |all: &[f32], direction: usize, gate: usize| {
        if all.len() == d { all[direction] } else { all[direction * g + gate] }
    };
    let mut values = Vec::with_capacity(q.len());
    for direction in 0..d {
        for gate in 0..g {
            let (scale, zero) = (of(&scales, direction, gate), of(&zeros, direction, gate));
            values.extend((0..i).map(|at| (q[(direction * i + at) * g + gate] - zero) * scale));
        }
    }
    Some((values, [directions, gates, inputs]))
}
