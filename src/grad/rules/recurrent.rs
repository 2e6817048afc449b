//! Loops over time and the cells inside them. A loop's gradient runs the gradient of its body backwards through time.

use tract_core::internal::*;
use tract_core::ops::array::{Slice, TypedConcat};
use tract_core::ops::gru_cell::GruEpilogue;
use tract_core::ops::lstm_cell::LstmEpilogue;
use tract_core::ops::math;
use tract_core::ops::scan::{InputMapping, Scan};

use super::activation::{sigma, through as back_through};
use super::{Answer, Rule, rule};
use crate::grad::fused::{Activation, ScanBackward};
use crate::grad::{Cx, differentiate};

pub(super) const RULES: &[Rule] = &[
    rule("Scan", "the body's gradient, step by step from the last to the first", scan),
    rule(
        "LstmEpilogue",
        "dc' = dc + dh·o·tanh'(c); dp = [dc'·g·σ'(pᵢ), dh·tanh c·σ'(pₒ), dc'·c₀·σ'(p_f), dc'·i·tanh'(p_g)]",
        lstm,
    ),
    rule("GruEpilogue", "with da = dh·(1-z)·tanh'(a): dx = [dz, dr, da], du = [dz, dr, da·r], dh₀ = dh·z", gru),
];

fn scan(cx: &mut Cx, node: &TypedNode, _: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<Scan>().context("not a loop")?;
    let whole = |chunk: isize, len: usize| chunk == -1 || chunk > 0 && len.is_multiple_of(chunk.unsigned_abs());
    for (slot, mapping) in op.input_mapping.iter().enumerate() {
        if let InputMapping::Scan(info) = mapping
            && !whole(info.chunk, cx.dims(node.inputs[slot])?[info.axis])
        {
            return Answer::refused("its steps do not divide the sequence");
        }
    }
    if op.skip != 0 || op.output_mapping.iter().any(|o| o.scan.is_some_and(|(_, info)| !whole(info.chunk, 0))) {
        return Answer::refused("it skips steps, or runs backwards by more than one");
    }
    let mut body = op.body.clone();
    let float = |o: &OutletId| body.outlet_fact(*o).is_ok_and(|f| f.datum_type.is_float());
    let wrt: Vec<usize> = (0..body.inputs.len())
        .filter(|&slot| float(&body.inputs[slot]) && (op.input_mapping[slot].is_state() || cx.needs(slot)))
        .collect();
    let ends: Vec<usize> = (0..body.outputs.len()).filter(|&ix| float(&body.outputs[ix])).collect();
    let outlets = |which: &[usize], of: &[OutletId]| which.iter().map(|&ix| of[ix]).collect::<Vec<_>>();
    let back = differentiate(&body, &outlets(&ends, &body.outputs), &outlets(&wrt, &body.inputs), cx.fused)?;
    if let Some(b) = back.blocked.first() {
        return Answer::refused(format!("inside the loop, {} ({}): {}", b.node, b.op, b.reason));
    }
    body.outputs.extend(&back.saved);
    let cotangents: Vec<(usize, OutletId)> = (0..node.outputs.len())
        .filter_map(|slot| cx.cotangent(slot).map(|dy| Ok((slot, cx.full_to(dy, &node.outputs[slot].fact.shape)?))))
        .collect::<TractResult<_>>()?;
    let wanted: Vec<usize> = wrt.iter().copied().filter(|&slot| cx.needs(slot)).collect();
    let backward = ScanBackward {
        forward: body.into_optimized()?.into_runnable()?,
        backward: back.model.into_optimized()?.into_runnable()?,
        inputs: op.input_mapping.clone(),
        outputs: op.output_mapping.clone(),
        ends,
        wrt,
        wanted: wanted.clone(),
        cotangents: cotangents.iter().map(|(slot, _)| *slot).collect(),
    };
    let mut args = node.inputs.iter().map(|i| cx.value(*i)).collect::<TractResult<TVec<_>>>()?;
    args.extend(cotangents.iter().map(|(_, dy)| *dy));
    let gradients = cx.wire_all(backward, &args)?;
    Ok(Answer::Gradient(wanted.into_iter().zip(gradients).collect()))
}

/// `x` cut into `n` gates along its last axis.
fn gates(cx: &mut Cx, x: OutletId, n: usize, hidden: usize) -> TractResult<Vec<OutletId>> {
    let axis = cx.shape(x)?.rank() - 1;
    (0..n).map(|k| cx.wire(Slice::new(axis, k * hidden, (k + 1) * hidden), &[x])).collect()
}

/// `(p, c₀) → (h, c)`: `[i, o, f] = σ(p)`, `g = tanh p`, `c = f·c₀ + i·g`, `h = o·tanh c`.
fn lstm(cx: &mut Cx, node: &TypedNode, dh: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<LstmEpilogue>().context("not an LSTM cell")?;
    let (p, c0) = (cx.value(node.inputs[0])?, cx.value(node.inputs[1])?);
    let parts = gates(cx, p, 4, op.hidden)?;
    let (i, o, f) = (sigma(cx, parts[0])?, sigma(cx, parts[1])?, sigma(cx, parts[2])?);
    let g = cx.wire(math::tanh(), &parts[3..])?;
    // Not the loop's own c, whose gates end at 5e-7.
    let (kept, new) = (cx.mul(f, c0)?, cx.mul(i, g)?);
    let c = cx.add(kept, new)?;
    let t = cx.wire(math::tanh(), &[c])?;
    let through = cx.mul(dh, o)?;
    let mut dc = back_through(cx, Activation::Tanh, c, through)?;
    if let Some(direct) = cx.cotangent(1) {
        dc = cx.add(dc, direct)?;
    }
    let (di, do_, df, dg) = (cx.mul(dc, g)?, cx.mul(dh, t)?, cx.mul(dc, c0)?, cx.mul(dc, i)?);
    let dp = [
        back_through(cx, Activation::Sigmoid, parts[0], di)?,
        back_through(cx, Activation::Sigmoid, parts[1], do_)?,
        back_through(cx, Activation::Sigmoid, parts[2], df)?,
        back_through(cx, Activation::Tanh, parts[3], dg)?,
    ];
    let axis = node.outputs[0].fact.rank() - 1;
    Ok(Answer::Gradient(tvec!((0, cx.wire(TypedConcat { axis }, &dp)?), (1, cx.mul(dc, f)?))))
}

/// `(x, u, h₀) → h`: `z = σ(x_z + u_z)`, `r = σ(x_r + u_r)`, `n = tanh(x_n + r·u_n)`, `h = n + z·(h₀ - n)`.
fn gru(cx: &mut Cx, node: &TypedNode, dh: OutletId) -> TractResult<Answer> {
    let op = node.op_as::<GruEpilogue>().context("not a GRU cell")?;
    let (x, u, h0) = (cx.value(node.inputs[0])?, cx.value(node.inputs[1])?, cx.value(node.inputs[2])?);
    let (xs, us) = (gates(cx, x, 3, op.hidden)?, gates(cx, u, 3, op.hidden)?);
    let (at_z, at_r) = (cx.add(xs[0], us[0])?, cx.add(xs[1], us[1])?);
    let minus_z = cx.neg(at_z)?;
    let (z, keep, r) = (sigma(cx, at_z)?, sigma(cx, minus_z)?, sigma(cx, at_r)?);
    let reset = cx.mul(r, us[2])?;
    let at_n = cx.add(xs[2], reset)?;
    let n = cx.wire(math::tanh(), &[at_n])?;
    let (dn, gap) = (cx.mul(dh, keep)?, cx.sub(h0, n)?);
    let da = back_through(cx, Activation::Tanh, at_n, dn)?;
    let (dz, dr, du) = (cx.mul(dh, gap)?, cx.mul(da, us[2])?, cx.mul(da, r)?);
    let dz = back_through(cx, Activation::Sigmoid, at_z, dz)?;
    let dr = back_through(cx, Activation::Sigmoid, at_r, dr)?;
    let axis = node.outputs[0].fact.rank() - 1;
    let dx = cx.wire(TypedConcat { axis }, &[dz, dr, da])?;
    let du = cx.wire(TypedConcat { axis }, &[dz, dr, du])?;
    Ok(Answer::Gradient(tvec!((0, dx), (1, du), (2, cx.mul(dh, z)?))))
}
