//! Operators of one or two lines.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::logic::{comp_eq, comp_gt, comp_lt, comp_ne, or};
use tract_core::ops::{math, nn};

use super::{Form, Wiring};
use crate::ops;

/// `x·σ(α·x)`. The runtime's own reader leaves out the factor.
pub(super) fn swish(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    Ok(tvec!(gate(form, w, x)?))
}

/// `swish(a)·b`.
pub(super) fn swiglu(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    ensure!(w.rank(a)? == w.rank(b)?, "its inputs are of different shapes");
    let gate = gate(form, w, a)?;
    Ok(tvec!(w.wire(math::mul(), &[gate, b])?))
}

fn gate(form: &Form, w: &mut Wiring, x: OutletId) -> TractResult<OutletId> {
    let alpha = form.number("alpha").unwrap_or(1.0);
    if alpha == 1.0 {
        return w.wire(nn::silu::silu(), &[x]);
    }
    let scaled = w.with(math::mul(), x, alpha)?;
    let open = w.wire(nn::sigmoid(), &[scaled])?;
    w.wire(math::mul(), &[x, open])
}

/// `x` above 0, else `α·(eˣ - 1)`.
pub(super) fn elu(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    Ok(tvec!(exponential_below(w, x, form.number("alpha").unwrap_or(1.0))?))
}

/// `γ·x` above 0, else `γ·α·(eˣ - 1)`.
pub(super) fn selu(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, gamma) = (w.input(0)?, form.number("gamma").unwrap_or(1.050_701));
    let y = exponential_below(w, x, form.number("alpha").unwrap_or(1.673_263_2))?;
    Ok(tvec!(w.with(math::mul(), y, gamma)?))
}

/// The exponential stays finite where it is not taken, so that it has a gradient there: 0. The bound is not 0, at which a bound has none.
fn exponential_below(w: &mut Wiring, x: OutletId, alpha: f32) -> TractResult<OutletId> {
    let low = w.with(math::min(), x, 1.0)?;
    let e = w.wire(math::exp(), &[low])?;
    let below = w.with(math::sub(), e, 1.0)?;
    let below = w.with(math::mul(), below, alpha)?;
    let positive = w.with(TypedBinOp(comp_gt(), None), x, 0.0)?;
    w.select(positive, x, below)
}

pub(super) fn softplus(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    Ok(tvec!(w.wire(ops::softplus(), &[x])?))
}

pub(super) fn mish(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    Ok(tvec!(w.wire(ops::mish(), &[x])?))
}

pub(super) fn is_dot(inputs: &[&TypedFact]) -> bool {
    inputs.len() == 2 && inputs.iter().all(|f| f.rank() == 1)
}

/// The product of two vectors.
pub(super) fn dot(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let kind = w.fact(a)?.datum_type;
    Ok(tvec!(w.wire(EinSum::new("k,k->".parse()?, kind), &[a, b])?))
}

pub(super) fn is_whole_power(inputs: &[&TypedFact]) -> bool {
    matches!(inputs, [a, b] if a.datum_type == f32::datum_type() && b.datum_type.is_integer())
}

/// A power with integers as exponents. The runtime computes it in double precision, in which it has no gradient.
pub(super) fn whole_power(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(a)?.max(w.rank(b)?);
    let b = w.wire(cast(f32::datum_type()), &[b])?;
    let (a, b) = (w.lead(a, rank)?, w.lead(b, rank)?);
    Ok(tvec!(w.wire(math::pow(), &[a, b])?))
}

/// Whether a number is infinite.
pub(super) fn is_inf(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    let (above, below) = (form.int("detect_positive", 1) != 0, form.int("detect_negative", 1) != 0);
    if w.fact(x)?.datum_type != f64::datum_type() {
        return Ok(tvec!(w.wire(math::is_inf(above, below), &[x])?));
    }
    // The runtime's own knows shorter floats only.
    let beyond = |w: &mut Wiring, op, limit: f64| {
        let limit = tensor0(limit).broadcast_into_rank(w.rank(x)?)?;
        let limit = w.constant(limit)?;
        w.wire(TypedBinOp(op, None), &[x, limit])
    };
    // Nothing is above the largest of all.
    let above = beyond(w, comp_gt(), if above { f64::MAX } else { f64::INFINITY })?;
    let below = beyond(w, comp_lt(), if below { f64::MIN } else { f64::NEG_INFINITY })?;
    Ok(tvec!(w.wire(or(), &[above, below])?))
}

/// Whether a number is none.
pub(super) fn is_nan(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    if w.fact(x)?.datum_type != f64::datum_type() {
        return Ok(tvec!(w.wire(math::is_nan(), &[x])?));
    }
    Ok(tvec!(w.wire(TypedBinOp(comp_ne(), None), &[x, x])?))
}

pub(super) fn are_truths(inputs: &[&TypedFact]) -> bool {
    inputs.len() == 2 && inputs.iter().all(|f| f.datum_type == bool::datum_type())
}

/// Whether truth values are the same.
pub(super) fn same_truth(_: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(a)?.max(w.rank(b)?);
    let (a, b) = (w.cast(a, u8::datum_type())?, w.cast(b, u8::datum_type())?);
    let (a, b) = (w.lead(a, rank)?, w.lead(b, rank)?);
    Ok(tvec!(w.wire(TypedBinOp(comp_eq(), None), &[a, b])?))
}

pub(super) fn has_computed_statistics(inputs: &[&TypedFact]) -> bool {
    inputs.iter().skip(3).any(|f| f.konst.is_none())
}

/// A normalisation as it is while a model is trained: what it makes of an example depends on the others.
pub(super) fn computed_statistics(_: &Form, _: &mut Wiring) -> TractResult<TVec<OutletId>> {
    bail!(
        "its statistics are computed from the data, as in training: switch the model to evaluation before it is exported"
    )
}
