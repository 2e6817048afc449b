//! Reading and writing at places of several axes. The runtime takes places that are counted from the end for such as lie outside, and does not
//! check those that do.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, GatherNd, ScatterNd, ScatterReduction};

use super::{Form, Wiring, axis_of};
use crate::ops::Places;

/// What a stored list of truths keeps, of the places along an axis or of all.
pub(super) fn compress(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (mut x, kept) = (w.input(0)?, w.input(1)?);
    let kept = w.integers(kept).context("which places it keeps is computed from the data")?;
    let shape = w.shape(x)?;
    let axis = match form.attribute("axis") {
        Some(axis) => axis_of(axis.i, shape.len())?,
        None => {
            let all: TDim = shape.iter().product();
            x = w.wire(AxisOp::Reshape(0, shape.clone(), tvec!(all)), &[x])?;
            0
        }
    };
    let places: Vec<i64> = (0i64..).zip(&kept).filter(|(_, kept)| **kept != 0).map(|(at, _)| at).collect();
    if let (Some(last), Ok(length)) = (places.last(), w.shape(x)?[axis].to_i64()) {
        ensure!(*last < length, "it keeps place {last} of an axis of length {length}");
    }
    let places = w.constant(tensor1(&places))?;
    Ok(tvec!(w.wire(Gather::new(axis), &[x, places])?))
}

/// Without these axes, in any order and counted from either end; without all of length 1 where none is named. The runtime wants them
/// in order.
pub(super) fn squeeze(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let mut x = w.input(0)?;
    let shape = w.shape(x)?;
    let named = match (form.ints("axes"), w.optional(1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(axes)) => w.integers(axes)?,
        (None, None) => (0i64..).zip(&shape).filter(|(_, d)| d.is_one()).map(|(axis, _)| axis).collect(),
    };
    let mut axes = named.iter().map(|axis| axis_of(*axis, shape.len())).collect::<TractResult<Vec<usize>>>()?;
    axes.sort_unstable();
    axes.dedup();
    for axis in axes.into_iter().rev() {
        ensure!(!shape[axis].to_i64().is_ok_and(|d| d != 1), "axis {axis} of {shape:?} is not of length 1");
        x = w.wire(AxisOp::Rm(axis), &[x])?;
    }
    Ok(tvec!(x))
}

pub(super) fn gather_nd(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, index) = (w.input(0)?, w.input(1)?);
    let batch_dims = usize::try_from(form.int("batch_dims", 0)).ok().context("its batch_dims are negative")?;
    let (shape, places) = (w.shape(x)?, w.shape(index)?);
    ensure!(batch_dims < places.len(), "{batch_dims} axes of a batch of {places:?}");
    let (behind, index) = counted(w, index, shape.get(batch_dims..).context("more axes of a batch than there are")?)?;
    let alike = |(a, b): (&TDim, &TDim)| a == b || a.to_usize().is_err() || b.to_usize().is_err();
    let batch = shape.iter().zip(&places).take(batch_dims);
    ensure!(behind > 0 && batch.clone().all(alike), "places {places:?} in {shape:?}");
    Ok(tvec!(w.wire(GatherNd { batch_dims }, &[x, index])?))
}

pub(super) fn scatter_nd(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, index, updates) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let reduction = ScatterReduction::parse(form.text("reduction").unwrap_or("none"))?;
    let kinds = [w.fact(x)?.datum_type, w.fact(updates)?.datum_type];
    let kind =
        DatumType::super_type_for(kinds).with_context(|| format!("updates of {:?} of {:?}", kinds[1], kinds[0]))?;
    // Sizes are no numbers.
    let plain = if kind == TDim::datum_type() { i64::datum_type() } else { kind };
    let shape = w.shape(x)?;
    let (_, index) = counted(w, index, &shape)?;
    let (x, updates) = (w.cast(x, plain)?, w.cast(updates, plain)?);
    let y = w.wire(ScatterNd { reduction }, &[x, index, updates])?;
    Ok(tvec!(w.cast(y, kind)?))
}

/// `index` with the numbers of its last axis counted from the start of as many of the axes `dims`, and how many these are.
fn counted(w: &mut Wiring, index: OutletId, dims: &[TDim]) -> TractResult<(usize, OutletId)> {
    let places = w.shape(index)?;
    let depth =
        places.last().context("its places have no axes")?.to_usize().context("the number of places' axes is open")?;
    let dims = dims.get(..depth).with_context(|| format!("places of {depth} axes in {}", dims.len()))?;
    let known: Option<Vec<i64>> = dims.iter().map(|d| d.to_i64().ok()).collect();
    let stored = w.fact(index)?.konst.as_ref().and_then(|k| Some(k.cast_to::<i64>().ok()?.into_owned()));
    if let (Some(known), Some(mut stored)) = (&known, stored) {
        let mut plain = stored.try_as_plain_ram_mut()?;
        for (place, long) in plain.as_slice_mut::<i64>()?.iter_mut().zip(known.iter().cycle()) {
            ensure!((-long..*long).contains(place), "place {place} of an axis of length {long}");
            *place += if *place < 0 { *long } else { 0 };
        }
        return Ok((depth, w.constant(stored)?));
    }
    let places = Places { reader: w.prefix.to_string(), lengths: dims.into() };
    Ok((depth, w.wire(places, &[index])?))
}
