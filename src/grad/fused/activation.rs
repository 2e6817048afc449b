//! Slopes of activations that saturate, computed from their input: in the tails, where the output rounds to a bound, they keep their digits.

use tract_core::internal::*;
use tract_linalg::routines::Func;

use super::{backward_op, in_place};
use crate::linalg::simd::wide;

/// An activation whose slope vanishes, or tends to 1, far from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    Sigmoid,
    Tanh,
    Softplus,
    Silu,
    Mish,
    /// `x·Φ(x)`.
    Gelu,
    /// `x·σ(2u)`, `u = √(2/π)·(x + 0.044715·xᵖ)`.
    GeluTanh {
        power: i32,
    },
}

/// `√(2/π)`.
pub(crate) const ROOT_2_PI: f32 = 0.797_884_6;
/// `1/√(2π)`.
pub(crate) const DENSITY: f32 = 0.398_942_3;
/// Of the tail of the normal distribution: `Φ(-a) = exp(-a²/2)·t·P(t)` for `a ≥ 0`, `t = 1/(1 + 0.35·a)`, to 4e-8 of itself for every `a` at which it is not 0 in
/// single precision. Coefficients from the constant up: least squares, reweighted to equal relative errors, of values of mpmath at 400 nodes.
pub(crate) const TAIL: [f32; 9] = [
    0.139_621_3,
    0.139_863_54,
    0.119_821_06,
    0.105_553_45,
    -0.023_214_722,
    0.159_323_3,
    -0.255_842_27,
    0.144_032_55,
    -0.029_158_23,
];
pub(crate) const TAIL_SCALE: f32 = 0.35;

/// `(u, du/dx)` of the GELU by tanh.
#[inline(always)]
fn inner(x: f32, power: i32) -> (f32, f32) {
    let below = if power == 2 { x } else { x * x };
    (ROOT_2_PI * (x + 0.044715 * below * x), ROOT_2_PI * (1.0 + 0.044715 * power as f32 * below))
}

/// `(σ(|a|), σ(-|a|))` from `e = exp(-|a|)`.
#[inline(always)]
fn halves(e: f32) -> (f32, f32) {
    let p = 1.0 / (1.0 + e);
    (p, e * p)
}

/// `σ(a)` from both [`halves`].
#[inline(always)]
fn on_side(a: f32, (p, q): (f32, f32)) -> f32 {
    if a >= 0.0 { p } else { q }
}

/// `dy[i] *= slope(x[i], exp(exponent(x[i])))`. Exponents are never positive.
fn run(
    x: &[f32],
    dy: &mut [f32],
    exponent: impl Fn(f32) -> f32 + Copy,
    slope: impl Fn(f32, f32) -> f32 + Copy,
) -> TractResult<()> {
    const BLOCK: usize = 1024;
    let exp = Func::Exp.ew_f32()?;
    let mut e = [0f32; BLOCK];
    for (x, dy) in x.chunks(BLOCK).zip(dy.chunks_mut(BLOCK)) {
        let e = &mut e[..x.len()];
        exponents(x, e, exponent);
        exp.run(e)?;
        slopes(x, e, dy, slope);
    }
    Ok(())
}

fn exponents(x: &[f32], e: &mut [f32], exponent: impl Fn(f32) -> f32) {
    wide!((x: &[f32], e: &mut [f32], exponent: impl Fn(f32) -> f32) {
        e.iter_mut().zip(x).for_each(|(e, x)| *e = exponent(*x));
    });
}

fn slopes(x: &[f32], e: &[f32], dy: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
    wide!((x: &[f32], e: &[f32], dy: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
        dy.iter_mut().zip(x).zip(e).for_each(|((dy, x), e)| *dy *= slope(*x, *e));
    });
}

impl Activation {
    /// `dy[i] *= f'(x[i])`.
    fn back(self, x: &[f32], dy: &mut [f32]) -> TractResult<()> {
        match self {
            Activation::Sigmoid => run(
                x,
                dy,
                |x| -x.abs(),
                |_, e| {
                    let (p, q) = halves(e);
                    p * q
                },
            ),
            Activation::Tanh => run(
                x,
                dy,
                |x| -2.0 * x.abs(),
                |_, e| {
                    let (p, q) = halves(e);
                    4.0 * p * q
                },
            ),
            Activation::Softplus => run(x, dy, |x| -x.abs(), |x, e| on_side(x, halves(e))),
            Activation::Silu => run(
                x,
                dy,
                |x| -x.abs(),
                |x, e| {
                    let (p, q) = halves(e);
                    on_side(x, (p, q)) + x * p * q
                },
            ),
            Activation::Mish => run(x, dy, |x| -x.abs(), mish),
            Activation::Gelu => run(x, dy, |x| -0.5 * x * x, gelu),
            Activation::GeluTanh { power } => run(
                x,
                dy,
                |x| -2.0 * inner(x, power).0.abs(),
                |x, e| {
                    let ((u, du), (p, q)) = (inner(x, power), halves(e));
                    // Where the tail is 0, u may be too large for single precision.
                    let bend = if q == 0.0 { 0.0 } else { 2.0 * x * du * p * q };
                    on_side(u, (p, q)) + bend
                },
            ),
        }
    }
}

/// `t + x·(1 - t²)·σ(x)`, `t = tanh(softplus x)`, in powers of `e = exp(-|x|)`.
#[inline(always)]
fn mish(x: f32, e: f32) -> f32 {
    let up = 1.0 + e;
    let square = e * e;
    let (t, rest, open) = if x >= 0.0 {
        let whole = 1.0 + 2.0 * e + 2.0 * square;
        ((1.0 + 2.0 * e) / whole, 4.0 * square * up * up / (whole * whole), 1.0 / up)
    } else {
        let whole = square + 2.0 * e + 2.0;
        ((square + 2.0 * e) / whole, 4.0 * up * up / (whole * whole), e / up)
    };
    t + x * rest * open
}

/// `Φ(x) + x·φ(x)` from `e = exp(-x²/2)`.
#[inline(always)]
fn gelu(x: f32, e: f32) -> f32 {
    let t = 1.0 / (1.0 + TAIL_SCALE * x.abs());
    let tail = e * t * TAIL.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let below = if x >= 0.0 { 1.0 - tail } else { tail };
    below + DENSITY * x * e
}

/// `(x, dy) → dy·f'(x)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ActivationBackward(pub Activation);

backward_op!(ActivationBackward, 1);

impl EvalOp for ActivationBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, dy) = args_2!(inputs);
        let mut done = Ok(());
        let out = in_place(x, dy, |x, dy| done = self.0.back(x, dy))?;
        done.map(|()| out)
    }
}

/// `x → σ(x)`, with its digits kept below.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sigma;

backward_op!(Sigma, 0);

impl EvalOp for Sigma {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = args_1!(inputs);
        let mut y = Tensor::from_shape(x.shape(), &vec![1f32; x.len()])?;
        run(
            crate::sites::floats(&x)?,
            y.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            |x| -x.abs(),
            |x, e| on_side(x, halves(e)),
        )?;
        Ok(tvec!(y.into_tvalue()))
    }
}
