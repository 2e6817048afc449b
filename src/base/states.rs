//! States that are carried from call to call: an input that a recurrent layer starts from, and an output that gives the next one.

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, Slice};
use tract_core::ops::cast::Cast;
use tract_core::ops::gru_seq::GruSeq;
use tract_core::ops::scan::{InputMapping, Scan};

use super::{Base, Port, hints, roles};

/// Words by which exporters name a state.
const NAMES: &[&str] = &["state", "states", "hidden", "cell", "h", "c", "h0", "c0", "hx", "cx", "cache", "memory"];

impl Base {
    /// Positions of the inputs that are such a state: an output beside the one that answers has their type and shape, and a recurrent
    /// layer starts from their values or their name says it. A vector that nothing gives back is an input like any other.
    pub(crate) fn carried_states(&self) -> Vec<usize> {
        let answers = self.output_name().unwrap_or_default();
        let given_back = |port: &Port| {
            let same = |o: &Port| (o.element, &o.dims) == (port.element, &port.dims);
            self.outputs.iter().any(|o| o.name != answers && same(o))
        };
        let is_state = |ix: &usize| {
            let port = &self.inputs[*ix];
            let named = || roles::words(&port.name).iter().any(|w| NAMES.contains(&w.as_str()));
            port.element.is_float() && given_back(port) && (named() || starts_a_loop(&self.typed, *ix))
        };
        let states: Vec<usize> = (0..self.inputs.len()).filter(is_state).collect();
        // One input at least is fed.
        if states.len() < self.inputs.len() { states } else { vec![] }
    }

    /// The options of the `pin` that makes each of `inputs` a constant of zeros, where the model was tried with it and loads.
    pub(crate) fn zeroed(&self, inputs: &[&str]) -> Option<String> {
        hints::zeroed(&self.path, inputs)
    }
}

/// Whether a loop of `model` starts from the values of input `ix`, whole or in parts.
fn starts_a_loop(model: &TypedModel, ix: usize) -> bool {
    let mut reached: Vec<OutletId> = model.inputs.get(ix).copied().into_iter().collect();
    let mut next = 0;
    while let Some(&outlet) = reached.get(next) {
        next += 1;
        for successor in &model.node(outlet.node).outputs[outlet.slot].successors {
            let node = model.node(successor.node);
            let state = |scan: &Scan| matches!(scan.input_mapping.get(successor.slot), Some(InputMapping::State));
            let last = successor.slot + 1 == node.inputs.len();
            if node.op_as::<Scan>().is_some_and(state) || node.op_is::<GruSeq>() && last {
                return true;
            }
            let moves = node.op_is::<AxisOp>() || node.op_is::<Cast>() || node.op_is::<Slice>();
            let passes = moves || node.op_is::<MultiBroadcastTo>() || node.op.name() == "Identity";
            let outlet = OutletId::new(node.id, 0);
            if passes && !reached.contains(&outlet) {
                reached.push(outlet);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message;
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

    use super::super::decompose::tests::{input, int, ints, model, node, stored};
    use super::*;
    use crate::error::ErrorKind;
    use crate::runtime::{Home, InitOptions};

    fn weight(name: &str, dims: &[i64]) -> TensorProto {
        let count = dims.iter().product::<i64>();
        let float_data = (0..count).map(|i| (1.7 * i as f32).sin() / 4.0).collect();
        TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            float_data,
            ..Default::default()
        }
    }

    fn of_batch(name: &str, sizes: &[i64]) -> ValueInfoProto {
        let sizes = sizes.iter().map(|n| Value::DimValue(*n));
        let dims: Vec<Value> = std::iter::once(Value::DimParam("batch".into())).chain(sizes).collect();
        input(name, DataType::Float, &dims)
    }

    /// Scores of three classes of `x`, `[batch, 5, 4]`, by a layer of `gates` gates that starts from `[batch, 6]`, and what it
    /// ends with as the output `next`, where `gives_back`.
    fn recurrent(op: &str, gates: i64, first: &str, gives_back: bool) -> ModelProto {
        let hidden: AttributeProto = int("hidden_size", 6);
        let layer = NodeProto {
            output: ["", "end"].map(String::from).to_vec(),
            ..node(op, &["steps", "w", "r", "", "", "start"], "end", vec![hidden])
        };
        let nodes = vec![
            node("Transpose", &["x"], "steps", vec![ints("perm", &[1, 0, 2])]),
            node("Unsqueeze", &[first, "zero"], "start", vec![]),
            layer,
            node("Squeeze", &["end", "zero"], "next", vec![]),
            node("MatMul", &["next", "classes"], "y", vec![]),
        ];
        let weights = vec![
            weight("w", &[1, gates * 6, 4]),
            weight("r", &[1, gates * 6, 6]),
            weight("classes", &[6, 3]),
            stored("zero", &[1], &[0]),
        ];
        let mut proto = model(17, vec![of_batch("x", &[5, 4]), of_batch(first, &[6])], weights, nodes);
        let outputs = &mut proto.graph.as_mut().unwrap().output;
        outputs[0] = of_batch("y", &[3]);
        outputs.extend(gives_back.then(|| of_batch("next", &[6])));
        proto
    }

    /// A cell of plain operators: `next = tanh(x·w + state·r)`.
    fn cell(state: &str) -> ModelProto {
        let nodes = vec![
            node("MatMul", &["x", "w"], "in", vec![]),
            node("MatMul", &[state, "r"], "carried", vec![]),
            node("Add", &["in", "carried"], "sum", vec![]),
            node("Tanh", &["sum"], "next", vec![]),
            node("MatMul", &["next", "classes"], "y", vec![]),
        ];
        let weights = vec![weight("w", &[4, 6]), weight("r", &[6, 6]), weight("classes", &[6, 3])];
        let mut proto = model(17, vec![of_batch("x", &[4]), of_batch(state, &[6])], weights, nodes);
        proto.graph.as_mut().unwrap().output = vec![of_batch("y", &[3]), of_batch("next", &[6])];
        proto
    }

    #[test]
    fn a_state_of_one_row_an_example_is_refused_with_the_pin_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let states = [
            ("rnn", recurrent("RNN", 1, "first", true), "first"),
            ("gru", recurrent("GRU", 3, "first", true), "first"),
            ("lstm", recurrent("LSTM", 4, "first", true), "first"),
            ("cell", cell("hx"), "hx"),
        ];
        for (name, proto, state) in states {
            let path = folder.path().join(format!("{name}.onnx"));
            std::fs::write(&path, proto.encode_to_vec()).unwrap();
            let base = Base::open(&path).unwrap();
            assert_eq!(base.carried_states(), [1], "{name}");
            let e = Home::init(folder.path().join(name), &InitOptions::new(&path)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::UnsupportedModel, "{name}: {e}");
            let hint = e.next_step().unwrap();
            assert!(e.to_string().contains(&format!("the model's input {state:?}")), "{name}: {e}");
            assert!(hint.contains(&format!("pin MODEL --input {state}=0 --output F.onnx`, which was tried")), "{hint}");
            let mut pinned = proto;
            let pins = super::super::Pins { inputs: vec![(state.into(), 0.0)], ..Default::default() };
            super::super::apply_pins(pinned.graph.as_mut().unwrap(), &pins).unwrap();
            let path = folder.path().join(format!("{name}.pinned.onnx"));
            std::fs::write(&path, pinned.encode_to_vec()).unwrap();
            Home::init(folder.path().join(name), &InitOptions::new(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn a_vector_beside_another_input_is_no_state() {
        let open = |proto: &ModelProto| Base::from_bytes(&proto.encode_to_vec(), Path::new("two.onnx")).unwrap();
        // What a layer starts from and nothing gives back; what something of its shape is given back for, and nothing names a state.
        for proto in [recurrent("GRU", 3, "picture", false), recurrent("LSTM", 4, "state", false), cell("person")] {
            assert_eq!(open(&proto).carried_states(), Vec::<usize>::new());
        }
    }
}
