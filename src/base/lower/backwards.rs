//! Recurrent layers that run backwards only: the runtime would run them forwards. The sequence is turned round before the layer, and what it
//! makes of it after.

use tract_onnx::pb::NodeProto;

use super::super::decompose::TURN;
use super::super::narrow::integer;
use super::{Given, Lowering, int};

/// Whether `node` is one.
pub(super) fn is(node: &NodeProto) -> bool {
    let backwards = |n: &NodeProto| n.attribute.iter().any(|a| a.name == "direction" && a.s == b"reverse");
    ["LSTM", "GRU", "RNN"].contains(&node.op_type.as_str()) && backwards(node)
}

pub(super) fn backwards(to: &mut Lowering, given: &Given) -> Option<()> {
    to.backwards(given.node)
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
        let name = self.fresh();
        self.push(name, TURN, &[x], to, vec![integer("axis", axis)]);
    }
}
