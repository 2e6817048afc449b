//! Operators of one or two lines.

use tract_core::internal::*;
use tract_core::ops::cast::cast;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::{math, nn};

use super::{Form, Wiring};

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
