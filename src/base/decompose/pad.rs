//! Borders: of a number, of what lies at the edge, mirrored, or of the other end; negative ones are cut off.

use tract_core::internal::*;
use tract_core::ops::array::{Pad, PadMode, Slice, TypedConcat};

use super::{Form, Wiring, axis_of, bounded};

pub(super) fn pad(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let mut x = w.input(0)?;
    let (rank, kind) = (w.rank(x)?, w.fact(x)?.datum_type);
    let pads = match w.optional(1) {
        Some(pads) => w.integers(pads)?,
        None => form.ints("pads").context("its pads are missing")?.to_vec(),
    };
    let axes: TVec<usize> = match w.optional(3) {
        Some(axes) => w.integers(axes)?.into_iter().map(|a| axis_of(a, rank)).collect::<TractResult<_>>()?,
        None => (0..rank).collect(),
    };
    ensure!(pads.len() == 2 * axes.len(), "{} pads of {} axes", pads.len(), axes.len());
    // Neither sizes nor truth values are padded as they are.
    let plain = match kind {
        k if k == TDim::datum_type() => i64::datum_type(),
        k if k == bool::datum_type() => u8::datum_type(),
        k => k,
    };
    x = w.cast(x, plain)?;
    let (mut borders, mut made) = (vec![(0, 0); rank], tvec!());
    for (at, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[at], pads[axes.len() + at]);
        x = cut(w, x, axis, before.min(0).unsigned_abs(), after.min(0).unsigned_abs())?;
        borders[axis] = (usize::try_from(before.max(0))?, usize::try_from(after.max(0))?);
    }
    let shape = w.shape(x)?;
    for (dim, (before, after)) in shape.iter().zip(&borders) {
        made.push(dim.to_usize().unwrap_or(1).saturating_add(*before).saturating_add(*after));
    }
    bounded(&made)?;
    let mode = form.text("mode").unwrap_or("constant");
    for (axis, (before, after)) in borders.iter().enumerate().filter(|(_, b)| **b != (0, 0)) {
        let most = match (mode, shape[axis].to_usize()) {
            ("reflect", Ok(long)) => long.saturating_sub(1),
            ("wrap", Ok(long)) => long,
            ("edge", Ok(0)) => 0,
            _ => continue,
        };
        let fits = (*before).max(*after) <= most;
        ensure!(fits, "a border of {before} and {after} places, {mode:?}, of axis {axis} of length {}", shape[axis]);
    }
    if borders.iter().any(|b| *b != (0, 0)) {
        let mode = match mode {
            "constant" => PadMode::Constant(value(form, w)?),
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            "wrap" => {
                x = wrap(w, x, &borders)?;
                return Ok(tvec!(w.cast(x, kind)?));
            }
            mode => bail!("its mode is {mode:?}"),
        };
        x = w.wire(Pad::new(borders, mode), &[x])?;
    }
    Ok(tvec!(w.cast(x, kind)?))
}

/// `x` without so many places at both ends of an axis.
fn cut(w: &mut Wiring, x: OutletId, axis: usize, before: u64, after: u64) -> TractResult<OutletId> {
    if (before, after) == (0, 0) {
        return Ok(x);
    }
    let long = w.shape(x)?[axis].clone();
    let (before, after) = (i64::try_from(before)?, i64::try_from(after)?);
    let have = long.to_i64().unwrap_or(i64::MAX);
    let left = have.checked_sub(before).and_then(|n| n.checked_sub(after)).filter(|n| *n > 0);
    ensure!(left.is_some(), "{before} and {after} places are cut off axis {axis} of length {long}");
    w.wire(Slice::new(axis, before, long - after), &[x])
}

/// `x` with its ends repeated at the other ones.
fn wrap(w: &mut Wiring, mut x: OutletId, borders: &[(usize, usize)]) -> TractResult<OutletId> {
    for (axis, &(before, after)) in borders.iter().enumerate() {
        let (long, mut parts) = (w.shape(x)?[axis].clone(), tvec!(x));
        if before > 0 {
            parts.insert(0, w.wire(Slice::new(axis, long.clone() - before, long), &[x])?);
        }
        if after > 0 {
            parts.push(w.wire(Slice::new(axis, 0, after), &[x])?);
        }
        if parts.len() > 1 {
            x = w.wire(TypedConcat { axis }, &parts)?;
        }
    }
    Ok(x)
}

/// The number of a constant border.
fn value(form: &Form, w: &Wiring) -> TractResult<Arc<Tensor>> {
    let Some(value) = w.optional(2) else { return Ok(tensor0(form.number("value").unwrap_or(0.0)).into_arc_tensor()) };
    let value = w.fact(value)?.konst.clone().context("the number of its border is computed from the data")?;
    ensure!(value.len() == 1, "{} numbers of a border", value.len());
    let value = value.nth(0)?;
    let sizes = value.datum_type() == TDim::datum_type();
    let value = if sizes { value.cast_to::<i64>()?.into_owned() } else { value };
    let truth = value.datum_type() == bool::datum_type();
    Ok(if truth { value.cast_to::<u8>()?.into_owned() } else { value }.into_arc_tensor())
}
