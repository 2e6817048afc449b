//! Recurrent layers that run backwards only: the runtime would run them forwards. The sequence is turned round before the layer, and what it
//! makes of it after.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};

use super::{Lowering, int};

/// Whether `node` is one.
pub(super) fn is(node: &NodeProto) -> bool {
    let backwards = |n: &NodeProto| n.attribute.iter().any(|a| a.name == "direction" && a.s == b"reverse");
    ["LSTM", "GRU", "RNN"].contains(&node.op_type.as_str()) && backwards(node)
}

impl Lowering<'_> {
    pub(super) fn backwards(&mut self, node: &NodeProto) -> Option<()> {
        let over_time = if int(node, "layout") == 0 { 0 } else { 1 };
        let x = node.input.first()?;
        let mut forwards = NodeProto { name: self.at.clone(), ..node.clone() };
        forwards.attribute.retain(|a| a.name != "direction");
        let turned = self.fresh();
        self.turn(x, &turned, over_time);
        forwards.input[0] = turned;
        let y = node.output.first().filter(|name| !name.is_empty());
        let made = self.fresh();
        if y.is_some() {
            forwards.output[0].clone_from(&made);
        }
        self.nodes.push(forwards);
        if let Some(y) = y {
            self.turn(&made, y, over_time);
        }
        Some(())
    }

    /// Reads `axis` from its end.
    fn turn(&mut self, x: &str, to: &str, axis: i64) {
        let settings = [-1, i64::MIN + 1, axis, -1].map(|value| self.integer(value));
        let [start, end, axis, step] = &settings;
        self.emit_to("Slice", &[x, start, end, axis, step], to);
    }

    fn integer(&mut self, value: i64) -> String {
        let name = self.fresh();
        self.initializers.push(TensorProto {
            name: name.clone(),
            dims: vec![1],
            data_type: DataType::Int64 as i32,
            int64_data: vec![value],
            ..TensorProto::default()
        });
        name
    }
}
