//! Cells, and loops over them.

use tract_core::ops::array::Slice;
use tract_core::ops::gru_cell::GruEpilogue;
use tract_core::ops::lstm_cell::LstmEpilogue;
use tract_core::ops::scan::{InputMapping, OutputMapping, Scan, ScanInfo};

use super::*;

#[test]
fn cells() {
    check("lstm cell", &[&[3, 8], &[3, 2]], &|m, x| {
        let out = m.wire_node("cell", LstmEpilogue { hidden: 2 }, x)?;
        wire(m, math::mul(), &out)
    });
    for slot in 0..2 {
        check("one output of an lstm cell", &[&[3, 8], &[3, 2]], &|m, x| {
            Ok(m.wire_node("cell", LstmEpilogue { hidden: 2 }, x)?[slot])
        });
    }
    check("gru cell", &[&[3, 6], &[3, 6], &[3, 2]], &|m, x| wire(m, GruEpilogue { hidden: 2 }, x));
}

/// `s ← tanh(xₜ·W + s)`, with the sequence of states and the last state as outputs.
fn walk(m: &mut TypedModel, x: &[OutletId], chunk: isize) -> TractResult<TVec<OutletId>> {
    let mut body = TypedModel::default();
    let step = chunk.unsigned_abs();
    let xt = body.add_source("x", f32::fact([2, step, 3]))?;
    let w = body.add_source("w", f32::fact([3, 3]))?;
    let state = body.add_source("s", f32::fact([2, step, 3]))?;
    let product = body.wire_node("product", EinSum::new("bti,io->bto".parse()?, f32::datum_type()), &[xt, w])?[0];
    let sum = body.wire_node("sum", math::add(), &[product, state])?[0];
    let next = body.wire_node("next", math::tanh(), &[sum])?;
    body.select_output_outlets(&next)?;
    let info = ScanInfo { axis: 1, chunk };
    let inputs = vec![InputMapping::Scan(info), InputMapping::Full, InputMapping::State];
    let output = OutputMapping { scan: Some((0, info)), full_dim_hint: None, last_value_slot: Some(1), state: true };
    let mut scan = Scan::new(body, inputs, vec![output], 0)?;
    scan.reset_every_turn = true;
    m.wire_node("walk", scan, x)
}

#[test]
fn loops_in_both_directions() {
    for (chunk, length) in [(1isize, 4usize), (-1, 4), (2, 6)] {
        let shapes: &[&[usize]] = &[&[2, length, 3], &[3, 3], &[2, chunk.unsigned_abs(), 3]];
        check("all states", shapes, &|m, x| Ok(walk(m, x, chunk)?[0]));
        check("the last state", shapes, &|m, x| Ok(walk(m, x, chunk)?[1]));
        check("both", shapes, &|m, x| {
            let out = walk(m, x, chunk)?;
            let first = m.wire_node("first", Slice::new(1, 0, chunk.unsigned_abs()), &out[..1])?[0];
            wire(m, math::mul(), &[first, out[1]])
        });
    }
}
