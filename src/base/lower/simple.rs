//! Operators that become a few others.

use super::{Given, Lowering};

/// The runtime leaves out the factor of `max(0, x) + min(0, α·(exp(x/α) - 1))`.
pub(super) fn celu(to: &mut Lowering, given: &Given) -> Option<()> {
    let alpha = given.node.attribute.iter().find(|a| a.name == "alpha").map_or(1.0, |a| a.f);
    let alpha = to.floats(&[alpha], &[]);
    let scaled = to.emit("Div", &[given.input(0)?, &alpha]);
    let y = to.emit("Elu", &[&scaled]);
    to.emit_to("Mul", &[&y, &alpha], given.output()?);
    Some(())
}

/// Before opset 10 the count is an attribute.
pub(super) fn top_k(to: &mut Lowering, given: &Given) -> Option<()> {
    let k = given.node.attribute.iter().find(|a| a.name == "k")?.i;
    let count = to.integer(k);
    let mut counted = given.node.clone();
    counted.attribute.retain(|a| a.name != "k");
    counted.input = vec![given.input(0)?.to_string(), count];
    counted.name.clone_from(&to.at);
    to.nodes.push(counted);
    Some(())
}
