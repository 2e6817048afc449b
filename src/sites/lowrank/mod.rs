//! The low-rank product beside a frozen layer, forward and backward, on plain slices.
//!
//! For a weight `W` the adapted layer uses `W + ΔW` with `ΔW = B·A` (the scale `alpha / rank` is folded into `B` by the
//! caller). Orientation is the ONNX weight's:
//!
//! - linear, `W: [in, out]`: `A: [in, r]`, `B: [r, out]`, `y += (x·A)·B`;
//! - convolution, `W: [out, in/groups, k…]`: `A: [r, in/groups, k…]`, `B: [out, r]`, `ΔW[o, c, k] = Σ_r B[o, r]·A[r,
//!   c, k]`. For one group this is a k×k convolution to `r` channels and a 1×1 convolution to the output; for several
//!   groups every group shares `A`, so that a merge stays a grouped convolution;
//! - transposed convolution, `W: [in, out/groups, k…]`: `A: [in, r, k…]`, `B: [out, r]`, `ΔW[c, o, k] = Σ_r A[c, r,
//!   k]·B[o, r]`.
//!
//! Formulas: LoRA (Hu et al. 2021, arXiv:2106.09685), section 4.1, on the weight seen as a matrix.

mod conv;
mod deconv;
mod depthwise;
mod linear;
mod mat;

use crate::ops::im2col::ConvShape;

/// Gradients of one low-rank product.
pub(crate) struct Gradients {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

/// Shapes of one low-rank product.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Geometry {
    /// `x: [outer, input, inner]`, `y: [outer, output, inner]`; rows when `inner` is 1.
    Linear { outer: usize, input: usize, output: usize, inner: usize, rank: usize },
    /// `x: [batch, in, D, H, W]`, `y: [batch, out, D', H', W']`.
    Conv { shape: ConvShape, rank: usize },
    /// A transposed convolution, by the shapes of the convolution from `y` to `x` that it transposes.
    Deconv { shape: ConvShape, rank: usize },
}

impl Geometry {
    /// Length of what the forward product keeps for the backward one.
    pub fn saved_len(&self) -> usize {
        match self {
            Geometry::Linear { outer, inner, rank, .. } => outer * inner * rank,
            Geometry::Conv { shape, .. } if shape.is_depthwise() => 1,
            Geometry::Conv { shape: c, rank } => c.batch * c.groups * rank * c.out_plane(),
            Geometry::Deconv { shape: c, rank } => c.batch * c.groups * rank * c.in_plane(),
        }
    }
    /// Bytes beside operands and results that a product, or its gradient, holds.
    pub fn scratch(&self) -> u64 {
        let values = match self {
            Geometry::Linear { outer, inner, rank, .. } => outer * inner * rank,
            Geometry::Conv { shape, .. } if shape.is_depthwise() => depthwise::scratch(shape),
            Geometry::Conv { shape, rank } => shape.conv_scratch(*rank),
            Geometry::Deconv { shape, rank } => shape.deconv_scratch(*rank),
        };
        4 * values as u64
    }
    /// Length of `x`.
    #[cfg(test)]
    pub fn x_len(&self) -> usize {
        match self {
            Geometry::Linear { outer, input, inner, .. } => outer * input * inner,
            Geometry::Conv { shape: c, .. } => c.batch * c.input * c.in_plane(),
            Geometry::Deconv { shape: c, .. } => c.batch * c.output * c.out_plane(),
        }
    }
    /// Length of `y`.
    pub fn y_len(&self) -> usize {
        match self {
            Geometry::Linear { outer, output, inner, .. } => outer * output * inner,
            Geometry::Conv { shape: c, .. } => c.batch * c.output * c.out_plane(),
            Geometry::Deconv { shape: c, .. } => c.batch * c.input * c.in_plane(),
        }
    }
    /// Lengths of `A` and `B`.
    #[cfg(test)]
    pub fn factor_lens(&self) -> (usize, usize) {
        match self {
            Geometry::Linear { input, output, rank, .. } => (input * rank, rank * output),
            Geometry::Conv { shape: c, rank } => (rank * c.group_in() * c.taps(), c.output * rank),
            Geometry::Deconv { shape: c, rank } => (c.output * rank * c.taps(), c.input * rank),
        }
    }

    /// About how many multiplications a product takes; its gradient takes twice as many.
    pub fn multiplications(&self) -> usize {
        match self {
            Geometry::Linear { outer, input, output, inner, rank } => outer * inner * rank * (input + output),
            Geometry::Conv { shape: c, .. } if c.is_depthwise() => c.batch * c.output * c.out_plane() * c.taps(),
            Geometry::Conv { shape: c, rank } => c.batch * rank * c.out_plane() * (c.input * c.taps() + c.output),
            Geometry::Deconv { shape: c, rank } => c.batch * rank * c.out_plane() * (c.output * c.taps() + c.input),
        }
    }

    /// `y += ΔW(x)`; returns what [`Geometry::backward`] wants back (`x·A`, or one unused number for depthwise sites).
    pub fn forward(&self, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
        match self {
            &Geometry::Linear { outer, input, output, inner, rank } => {
                linear::forward(linear::Dims { outer, input, output, inner, rank }, x, a, b, y)
            }
            Geometry::Conv { shape, rank } if shape.is_depthwise() => depthwise::forward((shape, *rank), x, a, b, y),
            Geometry::Conv { shape, rank } => conv::forward((shape, *rank), x, a, b, y),
            Geometry::Deconv { shape, rank } => deconv::forward((shape, *rank), x, a, b, y),
        }
    }

    /// Whether the delta goes into a kernel with one input channel a group.
    pub fn is_depthwise(&self) -> bool {
        matches!(self, Geometry::Conv { shape, .. } if shape.is_depthwise())
    }

    /// The planes of a depthwise convolution.
    pub fn planes(&self) -> Option<crate::ops::depthwise::Planes> {
        match self {
            Geometry::Conv { shape, .. } if shape.is_depthwise() => Some(depthwise::planes(shape)),
            _ => None,
        }
    }

    /// `w += B·A` for the kernel of a depthwise convolution.
    pub fn add_delta(&self, a: &[f32], b: &[f32], w: &mut [f32]) {
        if let Geometry::Conv { shape, rank } = self {
            depthwise::add_delta(shape, *rank, a, b, w);
        }
    }

    /// Gradients from the cotangent `dy` of `y`; the one of `x` is added to `dx`, where that is asked for: with the
    /// frozen `kernel` of a depthwise convolution, the gradient through that kernel too. Without `need_a` the gradient
    /// of `A` is left at zero and `x` is not read, but for depthwise sites.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        need_a: bool,
        x: &[f32],
        saved: &[f32],
        a: &[f32],
        b: &[f32],
        dy: &[f32],
        kernel: Option<&[f32]>,
        dx: Option<&mut [f32]>,
    ) -> Gradients {
        match self {
            &Geometry::Linear { outer, input, output, inner, rank } => {
                linear::backward(linear::Dims { outer, input, output, inner, rank }, need_a, x, saved, a, b, dy, dx)
            }
            Geometry::Conv { shape, rank } if shape.is_depthwise() => {
                depthwise::backward((shape, *rank), x, a, b, dy, kernel, dx)
            }
            Geometry::Conv { shape, rank } => conv::backward((shape, *rank), need_a, x, saved, a, b, dy, dx),
            Geometry::Deconv { shape, rank } => deconv::backward((shape, *rank), need_a, x, saved, a, b, dy, dx),
        }
    }
}

#[cfg(test)]
mod tests;
