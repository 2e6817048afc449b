//! Resizing by scales and to sizes.

use tract_core::ops::nn::grid_sample::{GridSample, InterpolationMode, PaddingMode};
use tract_core::ops::nn::resize::{CoordTransformer, Interpolator, Nearest, NearestUpsample, Resize};

use super::*;

#[test]
fn resizing() {
    let coordinates = [
        CoordTransformer::HalfPixel,
        CoordTransformer::AlignCorners,
        CoordTransformer::Asymmetric,
        CoordTransformer::PytorchHalfPixel,
    ];
    for coord_transformer in coordinates {
        for interpolator in [Interpolator::Linear, Interpolator::Nearest, Interpolator::Cubic] {
            let op = Resize {
                coord_transformer: coord_transformer.clone(),
                interpolator,
                nearest: Nearest::Floor,
                optional_scales_input: Some(1),
                optional_sizes_input: None,
            };
            check("resize by scales", &[&[2, 3, 4, 5]], &|m, x| {
                let scales = m.add_const("scales", tensor1(&[1f32, 1.0, 2.0, 1.5]))?;
                wire(m, op.clone(), &[x[0], scales])
            });
            let op = Resize { optional_scales_input: None, optional_sizes_input: Some(1), ..op };
            check("resize to sizes", &[&[2, 3, 4, 5]], &|m, x| {
                let sizes = m.add_const("sizes", tensor1(&[2i64, 3, 7, 3]))?;
                wire(m, op.clone(), &[x[0], sizes])
            });
        }
    }
    check("nearest", &[&[2, 3, 4, 5]], &|m, x| wire(m, NearestUpsample { scales: tvec!(1, 1, 2, 3) }, x));
}

#[test]
fn resizing_of_some_axes() {
    use tract_onnx_opl::resize as onnx;
    let op = |axes: &[i64], keep: onnx::AspectRatio, crop: bool| onnx::Resize {
        axes: Some(axes.to_vec()),
        coord_transformer: match crop {
            true => onnx::CoordTransform::TfCropAndResize,
            false => onnx::CoordTransform::Plain(CoordTransformer::HalfPixel),
        },
        interpolator: Interpolator::Linear,
        nearest: onnx::Nearest::Ceil,
        antialias: !crop,
        cubic_coeff_a_bits: (-0.75f32).to_bits(),
        exclude_outside: false,
        extrapolation_value_bits: 3f32.to_bits(),
        keep_aspect_ratio_policy: keep,
        optional_roi_input: crop.then_some(2),
        optional_scales_input: None,
        optional_sizes_input: Some(1),
    };
    for axes in [[2, 3], [3, 2], [-1, 1]] {
        for keep in [onnx::AspectRatio::Stretch, onnx::AspectRatio::NotLarger, onnx::AspectRatio::NotSmaller] {
            check("some axes", &[&[2, 3, 4, 5]], &|m, x| {
                let sizes = m.add_const("sizes", tensor1(&[3i64, 7]))?;
                wire(m, op(&axes, keep, false), &[x[0], sizes])
            });
        }
        check("a part", &[&[2, 3, 4, 5]], &|m, x| {
            let sizes = m.add_const("sizes", tensor1(&[4i64, 5]))?;
            // Within the picture along one axis, beyond its border along the other.
            let part = m.add_const("part", tensor1(&[0.1f32, -0.5, 0.8, 1.3]))?;
            wire(m, op(&axes, onnx::AspectRatio::Stretch, true), &[x[0], sizes, part])
        });
    }
}

#[test]
fn sampling() {
    // Coordinates within the picture, at its border, and far beyond.
    let grid: Vec<f32> = (0..24).map(|i| ((i * 7 % 13) as f32 - 6.0) * 0.31).collect();
    for mode in [InterpolationMode::Bilinear, InterpolationMode::Nearest, InterpolationMode::Bicubic] {
        for padding_mode in [PaddingMode::Zeros, PaddingMode::Border, PaddingMode::Reflection] {
            for align_corners in [true, false] {
                let op = GridSample { mode: mode.clone(), padding_mode: padding_mode.clone(), align_corners };
                check(&format!("{op:?}"), &[&[2, 3, 4, 5]], &|m, x| {
                    let grid = m.add_const("grid", Tensor::from_shape(&[2, 2, 3, 2], &grid)?)?;
                    wire(m, op.clone(), &[x[0], grid])
                });
            }
        }
    }
}
