//! `Upsample`, the operator of opsets 7 to 9 that `Resize` replaced.

use tract_core::internal::*;
use tract_core::ops::nn::resize::{CoordTransformer, Interpolator};
use tract_onnx_opl::resize::{AspectRatio, CoordTransform, Nearest, Resize};

use super::{Form, Wiring, bounded};

pub(super) fn upsample(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    let scales: Vec<f32> = match w.optional(1) {
        Some(scales) => {
            let stored = w.fact(scales)?.konst.clone().context("its scales are computed from the data")?;
            crate::ops::floats(&*stored.cast_to::<f32>()?)?.to_vec()
        }
        None => form.attribute("scales").map(|a| a.floats.clone()).context("its scales are missing")?,
    };
    let shape = w.shape(x)?;
    let sound = |s: &f32| s.is_finite() && *s > 0.0;
    ensure!(scales.len() == shape.len() && scales.iter().all(sound), "its scales are {scales:?}");
    // An open size counts as 1.
    let made = shape.iter().zip(&scales).map(|(d, s)| (d.to_usize().unwrap_or(1) as f32 * s) as usize);
    bounded(&made.collect::<TVec<usize>>())?;
    let interpolator = match form.text("mode").unwrap_or("nearest") {
        "nearest" => Interpolator::Nearest,
        "linear" | "bilinear" => Interpolator::Linear,
        other => bail!("its mode is {other:?}"),
    };
    let op = Resize {
        axes: None,
        coord_transformer: CoordTransform::Plain(CoordTransformer::Asymmetric),
        interpolator,
        nearest: Nearest::Floor,
        antialias: false,
        cubic_coeff_a_bits: (-0.75f32).to_bits(),
        exclude_outside: false,
        extrapolation_value_bits: 0,
        keep_aspect_ratio_policy: AspectRatio::Stretch,
        optional_roi_input: None,
        optional_scales_input: Some(1),
        optional_sizes_input: None,
    };
    let scales = w.constant(tensor1(&scales))?;
    Ok(tvec!(w.wire(op, &[x, scales])?))
}
