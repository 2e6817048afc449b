//! The discrete Fourier transform. The runtime's own reader ignores a length that is given, and takes the wrong axis where none is.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Slice};
use tract_core::ops::fft::Fft;
use tract_core::ops::math;

use super::{Form, Wiring, axis_of, bounded};

pub(super) fn dft(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let mut x = w.input(0)?;
    let (rank, shape) = (w.rank(x)?, w.shape(x)?);
    ensure!(rank >= 2, "a transform of {rank} axes");
    let axis = match (form.opset, w.optional(2)) {
        (..20, _) => form.int("axis", 1),
        (_, None) => -2,
        (_, Some(axis)) => *w.integers(axis)?.first().context("its axis is missing")?,
    };
    let axis = axis_of(axis, rank)?;
    ensure!(axis + 1 < rank, "it transforms the axis of real and imaginary parts");
    let (inverse, one_sided) = (form.int("inverse", 0) != 0, form.int("onesided", 0) != 0);
    let length = match w.optional(1) {
        Some(length) => w.integers(length)?.first().copied().context("its length is missing")?,
        None => {
            let have = shape[axis].to_i64().context("the length of its axis is open")?;
            if inverse && one_sided { 2 * (have - 1) } else { have }
        }
    };
    let length = usize::try_from(length).ok().filter(|n| *n > 0).with_context(|| format!("its length is {length}"))?;
    bounded(&[length])?;
    match shape[rank - 1].to_usize() {
        Ok(1) => x = w.fit(x, rank - 1, 0, 2)?,
        Ok(2) => {}
        _ => bail!("its last axis is of length {}, not of real and imaginary parts", shape[rank - 1]),
    }
    let bins = length / 2 + 1;
    if inverse && one_sided {
        // The other half of the spectrum is the mirror image of the first, conjugated.
        x = w.fit(x, axis, 0, bins)?;
        let mirror: Vec<i64> = (0..length).map(|k| if k < bins { k } else { length - k } as i64).collect();
        let mirror = w.constant(tensor1(&mirror))?;
        x = w.wire(Gather { axis, output_type: None }, &[x, mirror])?;
        let mut signs_shape = tvec!(1; rank);
        (signs_shape[axis], signs_shape[rank - 1]) = (length, 2);
        let signs: Vec<f32> = (0..length).flat_map(|k| [1.0, if k < bins { 1.0 } else { -1.0 }]).collect();
        let kind = w.fact(x)?.datum_type;
        let signs = w.constant(Tensor::from_shape(&signs_shape, &signs)?.cast_to_dt(kind)?.into_owned())?;
        x = w.wire(math::mul(), &[x, signs])?;
    } else {
        x = w.fit(x, axis, 0, length)?;
    }
    x = w.wire(Fft { axis, inverse }, &[x])?;
    if inverse {
        x = w.with(math::mul(), x, 1.0 / length as f32)?;
    }
    match (inverse, one_sided) {
        (true, true) => x = w.wire(Slice::new(rank - 1, 0, 1), &[x])?,
        (false, true) => x = w.wire(Slice::new(axis, 0, bins), &[x])?,
        _ => {}
    }
    Ok(tvec!(x))
}
