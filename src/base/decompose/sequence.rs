//! Sequences of several lengths, and caches of them.

use tract_core::internal::*;
use tract_core::ops::array::{CumSum, GatherNd, MultiBroadcastTo, ScatterElements, ScatterReduction};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::downsample::Downsample;
use tract_core::ops::logic::comp_lt;
use tract_core::ops::math;

use super::{Form, Wiring, axis_of, bounded};

/// Reads the first places of every sequence from their end, as many as its length says.
pub(super) fn reverse_sequence(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (mut x, lengths) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(x)?;
    let axes = (axis_of(form.int("batch_axis", 1), rank)?, axis_of(form.int("time_axis", 0), rank)?);
    let swap = match axes {
        (0, 1) => false,
        (1, 0) => true,
        _ => bail!("its axes of batch and time are {axes:?}, not the first two"),
    };
    if swap {
        x = w.wire(AxisOp::Move(1, 0), &[x])?;
    }
    let long = w.shape(x)?[1].to_usize().context("the length of its sequences is open")?;
    bounded(&[long])?;
    let places: Vec<i64> = (0..long as i64).collect();
    let places = w.constant(Tensor::from_shape(&[1, long], &places)?)?;
    let last = w.constant(Tensor::from_shape(&[1, 1], &[long as i64])?)?;
    let one = w.constant(Tensor::from_shape(&[1, 1], &[1i64])?)?;
    let lengths = w.wire(cast(i64::datum_type()), &[lengths])?;
    let lengths = w.wire(AxisOp::Add(1), &[lengths])?;
    let lengths = w.wire(math::min(), &[lengths, last])?;
    let within = w.wire(TypedBinOp(comp_lt(), None), &[places, lengths])?;
    let end = w.wire(math::sub(), &[lengths, one])?;
    let mirrored = w.wire(math::sub(), &[end, places])?;
    let index = w.select(within, mirrored, places)?;
    let index = w.wire(AxisOp::Add(2), &[index])?;
    let mut y = w.wire(GatherNd { batch_dims: 1 }, &[x, index])?;
    if swap {
        y = w.wire(AxisOp::Move(1, 0), &[y])?;
    }
    Ok(tvec!(y))
}

/// Writes the update of each row into its cache, from the place on that the row's index names; round its end, if it is circular.
pub(super) fn tensor_scatter(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (cache, update) = (w.input(0)?, w.input(1)?);
    let (rank, shape, written) = (w.rank(cache)?, w.shape(cache)?, w.shape(update)?);
    let axis = axis_of(form.int("axis", -2), rank)?;
    ensure!(axis > 0 && written.len() == rank, "it writes along axis {axis} of {rank}");
    let circular = match form.text("mode").unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        mode => bail!("its mode is {mode:?}"),
    };
    let known = |d: &TDim| d.to_usize().with_context(|| format!("the length of axis {axis} is open"));
    let (long, short) = (known(&shape[axis])?, known(&written[axis])?);
    ensure!(short <= long, "an update of {short} places for {long}");
    bounded(&[long])?;
    let mut along = vec![1; rank];
    along[axis] = short;
    let places: Vec<i64> = (0..short as i64).collect();
    let mut index = w.constant(Tensor::from_shape(&along, &places)?)?;
    if let Some(mut first) = w.optional(2) {
        first = w.wire(cast(i64::datum_type()), &[first])?;
        for at in 1..rank {
            first = w.wire(AxisOp::Add(at), &[first])?;
        }
        index = w.wire(math::add(), &[index, first])?;
    }
    if circular {
        along.fill(1);
        let all = w.constant(Tensor::from_shape(&along, &[long as i64])?)?;
        index = w.wire(math::rem(), &[index, all])?;
    }
    let index = w.wire(MultiBroadcastTo { shape: written.into() }, &[index])?;
    let op = ScatterElements { axis, reduction: ScatterReduction::None };
    Ok(tvec!(w.wire(op, &[cache, index, update])?))
}

/// Sums of what comes up to each place.
pub(super) fn cumsum(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, axis) = (w.input(0)?, w.input(1)?);
    let &[axis] = &w.integers(axis)?[..] else { bail!("its axis is not one number") };
    let axis = axis_of(axis, w.rank(x)?)?;
    let op = CumSum { axis, exclusive: form.int("exclusive", 0) != 0, reverse: form.int("reverse", 0) != 0 };
    let kind = w.fact(x)?.datum_type;
    // The runtime makes sizes of what is cast to integers, and sizes are no numbers.
    let plain = if kind == TDim::datum_type() { i64::datum_type() } else { kind };
    let x = w.cast(x, plain)?;
    let y = w.wire(op, &[x])?;
    Ok(tvec!(w.cast(y, kind)?))
}

/// Read from the end along an axis.
pub(super) fn turn(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    let axis = axis_of(form.int("axis", 0), w.rank(x)?)?;
    Ok(tvec!(w.wire(Downsample::new(axis, -1, 0), &[x])?))
}
