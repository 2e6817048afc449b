//! Pooling by a norm.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cnn::{PaddingSpec, PoolSpec, SumPool};
use tract_core::ops::logic::comp_gt;
use tract_core::ops::math;
use tract_core::ops::nn::{DataFormat, Reduce, Reducer};

use super::{Form, Wiring};

/// `(Σ |x|^p)^(1/p)` over each window.
pub(super) fn lp_pool(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, p) = (w.input(0)?, exponent(form)?);
    let axes = w.rank(x)?.checked_sub(2).filter(|n| *n > 0).context("a pool without axes")?;
    let kernel_shape = form.sizes("kernel_shape", axes)?;
    ensure!(form.ints("kernel_shape").is_some(), "it has no kernel_shape");
    let ceil = form.int("ceil_mode", 0) != 0;
    let padding = match (form.ints("pads"), form.text("auto_pad").unwrap_or("NOTSET")) {
        (_, "SAME_UPPER") => PaddingSpec::SameUpper,
        (_, "SAME_LOWER") => PaddingSpec::SameLower,
        (_, "VALID") => PaddingSpec::Valid,
        (Some(pads), _) => {
            ensure!(pads.len() == 2 * axes && pads.iter().all(|v| *v >= 0), "its pads are {pads:?}");
            let pads = pads.iter().map(|v| Ok(usize::try_from(*v)?)).collect::<TractResult<TVec<usize>>>()?;
            PaddingSpec::ExplicitOnnxPool(pads[..axes].into(), pads[axes..].into(), ceil)
        }
        (None, _) => PaddingSpec::ExplicitOnnxPool(tvec!(0; axes), tvec!(0; axes), ceil),
    };
    let channels = w.shape(x)?[1].to_usize().context("its number of channels is open")?;
    let pool_spec = PoolSpec {
        data_format: DataFormat::NCHW,
        kernel_shape,
        padding,
        dilations: Some(form.sizes("dilations", axes)?),
        strides: Some(form.sizes("strides", axes)?),
        input_channels: channels,
        output_channels: channels,
    };
    let powers = power(w, x, p)?;
    let sum = w.wire(SumPool { pool_spec, count_include_pad: true, normalize: false }, &[powers])?;
    Ok(tvec!(root(w, sum, p)?))
}

/// [`lp_pool`] over all places of a channel.
pub(super) fn global_lp_pool(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, p) = (w.input(0)?, exponent(form)?);
    let axes = (2..w.rank(x)?).collect();
    let powers = power(w, x, p)?;
    let sum = w.wire(Reduce::new(axes, Reducer::Sum), &[powers])?;
    Ok(tvec!(root(w, sum, p)?))
}

/// Below 1 the slope of a power has no bound at 0.
fn exponent(form: &Form) -> TractResult<f32> {
    let p = form.number("p").unwrap_or(2.0);
    ensure!(p.is_finite() && p >= 1.0, "its p is {p}");
    Ok(p)
}

fn power(w: &mut Wiring, x: OutletId, p: f32) -> TractResult<OutletId> {
    if p == 2.0 {
        return w.wire(math::square(), &[x]);
    }
    let size = w.wire(math::abs(), &[x])?;
    if p == 1.0 { Ok(size) } else { w.with(math::pow(), size, p) }
}

/// `s^(1/p)`, with the slope 0 at 0, where that of a root has no bound.
fn root(w: &mut Wiring, s: OutletId, p: f32) -> TractResult<OutletId> {
    if p == 1.0 {
        return Ok(s);
    }
    let (zero, one) = (w.scalar(s, 0.0)?, w.scalar(s, 1.0)?);
    let positive = w.wire(TypedBinOp(comp_gt(), None), &[s, zero])?;
    let safe = w.select(positive, s, one)?;
    let y = w.with(math::pow(), safe, p.recip())?;
    w.select(positive, y, zero)
}
