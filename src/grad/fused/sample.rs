//! The gradient of a sampled picture: every sample gives its cotangent back to the places that it was made of.

use tract_core::internal::*;
use tract_core::ops::nn::grid_sample::{GridSample, InterpolationMode, PaddingMode};

use crate::ops::floats;

/// `(grid, dy) → dx` for `grid: [N, O…, k]`, `dy: [N, C, O…]` and `dx: [N, C, D…]` with k spatial axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GridSampleBackward {
    pub op: GridSample,
    /// Shape of what was sampled.
    pub shape: TVec<usize>,
}

impl GridSampleBackward {
    /// Where along an axis of `size` places a coordinate between -1 and 1 lies.
    fn place(&self, coordinate: f32, size: usize) -> f32 {
        let size = size as f32;
        if self.op.align_corners {
            (coordinate + 1.0) / 2.0 * (size - 1.0)
        } else {
            ((coordinate + 1.0) * size - 1.0) / 2.0
        }
    }

    fn bounds(&self, size: usize) -> (f32, f32) {
        if self.op.align_corners { (0.0, size as f32 - 1.0) } else { (-0.5, size as f32 - 0.5) }
    }

    /// The place that is read for an index, none if zero is.
    fn inside(&self, index: isize, size: usize) -> Option<usize> {
        match self.op.padding_mode {
            PaddingMode::Zeros => usize::try_from(index).ok().filter(|i| *i < size),
            PaddingMode::Border => Some((index.max(0) as usize).min(size - 1)),
            PaddingMode::Reflection => {
                let (low, high) = self.bounds(size);
                Some((reflect(index as f32, low, high) as usize).min(size - 1))
            }
        }
    }

    /// Offsets within a plane and weights of what a sample at `places` is made of.
    fn parts(&self, places: &mut [f32], sizes: &[usize], parts: &mut Vec<(usize, f32)>) {
        parts.clear();
        if self.op.mode == InterpolationMode::Nearest {
            places.iter_mut().for_each(|p| *p = p.round_ties_even());
        }
        let beyond = |(p, size): (&f32, &usize)| {
            let (low, high) = self.bounds(*size);
            *p < low || *p > high
        };
        if places.iter().zip(sizes).any(beyond) {
            for (p, &size) in places.iter_mut().zip(sizes) {
                let (low, high) = self.bounds(size);
                match self.op.padding_mode {
                    PaddingMode::Border => *p = p.clamp(0.0, high + low),
                    PaddingMode::Reflection => *p = reflect(*p, low, high),
                    PaddingMode::Zeros => {}
                }
            }
        }
        // Places along each axis that a sample is made of.
        let taps: usize = match self.op.mode {
            InterpolationMode::Nearest => 1,
            InterpolationMode::Bilinear => 2,
            InterpolationMode::Bicubic => 4,
        };
        for mut corner in 0..taps.pow(places.len() as u32) {
            let (mut at, mut weight) = (Some(0), 1.0);
            for (&p, &size) in places.iter().zip(sizes) {
                let (low, tap) = (p.floor(), corner % taps);
                corner /= taps;
                let index = match taps {
                    1 => p as isize,
                    2 => low as isize + tap as isize,
                    _ => low as isize + tap as isize - 1,
                };
                weight *= match (taps, tap) {
                    (1, _) => 1.0,
                    (2, 0) => low + 1.0 - p,
                    (2, _) => p - low,
                    _ => cubic((p - low + 1.0 - tap as f32).abs()),
                };
                at = at.zip(self.inside(index, size)).map(|(at, i)| at * size + i);
            }
            parts.extend(at.map(|at| (at, weight)));
        }
    }
}

/// The weight of what lies `distance` places away.
fn cubic(distance: f32) -> f32 {
    tract_core::ops::nn::resize::cubic_kernel(distance, -0.75)
}

/// `x` mirrored at the bounds until it lies within them.
fn reflect(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if range == 0.0 {
        return low;
    }
    let (beyond, from, to) = if x < low {
        (low - x, low, high)
    } else if x > high {
        (x - high, high, low)
    } else {
        return x;
    };
    let (times, rest) = ((beyond / range) as i32, beyond % range);
    let toward = if from == low { 1.0 } else { -1.0 };
    if times % 2 == 0 { from + toward * rest } else { to - toward * rest }
}

impl Op for GridSampleBackward {
    fn name(&self) -> StaticName {
        "GridSampleBackward".into()
    }
    op_as_typed_op!();
}

impl TypedOp for GridSampleBackward {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}

impl EvalOp for GridSampleBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (grid, dy) = args_2!(inputs);
        let (grid, dys) = (floats(&grid)?, floats(&dy)?);
        let (batch, channels, sizes) = (self.shape[0], self.shape[1], &self.shape[2..]);
        let (rank, plane) = (sizes.len(), sizes.iter().product::<usize>());
        let samples: usize = dy.shape()[2..].iter().product();
        let mut dx = vec![0f32; batch * channels * plane];
        let mut parts = vec![];
        for (i, coordinates) in grid.chunks_exact(rank.max(1)).enumerate() {
            let (n, sample) = (i / samples, i % samples);
            // A coordinate of the grid names the last axis first.
            let mut places: TVec<f32> =
                coordinates.iter().rev().zip(sizes).map(|(c, size)| self.place(*c, *size)).collect();
            self.parts(&mut places, sizes, &mut parts);
            for c in n * channels..(n + 1) * channels {
                parts.iter().for_each(|(at, weight)| dx[c * plane + at] += weight * dys[c * samples + sample]);
            }
        }
        Ok(tvec!(Tensor::from_shape(&self.shape, &dx)?.into_tvalue()))
    }
}
