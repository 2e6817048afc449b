//! Activations that the runtime would compute by way of numbers that overflow, or that lose the tail.

use tract_core::element_wise;
use tract_core::internal::*;
use tract_linalg::routines::Func;

use crate::linalg::simd::wide;

/// `e[i] = -|x[i]|`.
fn negative_size(xs: &[f32], e: &mut [f32]) {
    wide!((xs: &[f32], e: &mut [f32]) { e.iter_mut().zip(xs).for_each(|(e, x)| *e = -x.abs()) });
}

/// `x[i] = finish(x[i], e)` with `e = exp(-|x[i]|)`, a block at a time.
fn by_decay(xs: &mut [f32], finish: impl Fn(&mut [f32], &mut [f32]) -> TractResult<()>) -> TractResult<()> {
    const BLOCK: usize = 1024;
    let exp = Func::Exp.ew_f32()?;
    let mut e = [0f32; BLOCK];
    for xs in xs.chunks_mut(BLOCK) {
        let e = &mut e[..xs.len()];
        negative_size(xs, e);
        exp.run(e)?;
        finish(xs, e)?;
    }
    Ok(())
}

/// `max(x, 0) + ln(1 + e)`. The logarithm is `e·ln(u)/(u - 1)`, `u = 1 + e` as it was rounded: right to the last digits for small `e`, too.
fn softplus_of(xs: &mut [f32]) -> TractResult<()> {
    let ln = Func::Ln.ew_f32()?;
    by_decay(xs, |xs, e| {
        let mut logs = [0f32; 1024];
        let logs = &mut logs[..e.len()];
        logs.iter_mut().zip(e.iter()).for_each(|(l, e)| *l = 1.0 + e);
        ln.run(logs)?;
        for ((x, e), l) in xs.iter_mut().zip(e.iter()).zip(logs.iter()) {
            let more = (1.0 + e) - 1.0;
            let log = if more == 0.0 { *e } else { l * (e / more) };
            *x = x.max(0.0) + log;
        }
        Ok(())
    })
}

/// `x·tanh(ln(1 + eˣ))`: with `e = exp(-|x|)`, `x·(1 + 2e)/(1 + 2e + 2e²)` above 0 and `x·(e² + 2e)/(e² + 2e + 2)` below.
fn mish_of(xs: &mut [f32]) -> TractResult<()> {
    by_decay(xs, |xs, e| {
        wide!((xs: &mut [f32], e: &[f32]) {
            for (x, e) in xs.iter_mut().zip(e) {
                let square = e * e;
                let (part, more) = if *x >= 0.0 { (1.0 + 2.0 * e, 2.0 * square) } else { (square + 2.0 * e, 2.0) };
                *x *= part / (part + more);
            }
        });
        Ok(())
    })
}

element_wise!(softplus, Softplus,
    [f32] => |_, xs| softplus_of(xs),
    [f64] => |_, xs| { xs.iter_mut().for_each(|x| *x = x.max(0.0) + (-x.abs()).exp().ln_1p()); Ok(()) }
);

element_wise!(mish, Mish,
    [f32] => |_, xs| mish_of(xs),
    [f64] => |_, xs| {
        xs.iter_mut().for_each(|x| *x *= (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh());
        Ok(())
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::floats;

    /// Values of `mpmath`.
    #[test]
    fn right_to_the_last_digits_at_every_size() {
        const X: [f32; 11] = [-300.0, -87.0, -30.0, -15.0, -3.0, -0.001, 0.0, 0.5, 8.0, 87.0, 300.0];
        let wants: [(Box<dyn TypedOp>, [f64; 11]); 2] = [
            (
                softplus().into(),
                [
                    0.0,
                    1.64581143e-38,
                    9.35762297e-14,
                    3.05902274e-7,
                    0.0485873516,
                    0.692647306,
                    std::f64::consts::LN_2,
                    0.974076984,
                    8.00033541,
                    87.0,
                    300.0,
                ],
            ),
            (
                mish().into(),
                [
                    0.0,
                    -1.43185595e-36,
                    -2.80728689e-12,
                    -4.58853411e-6,
                    -0.145647461,
                    -5.99679984e-4,
                    0.0,
                    0.375245211,
                    7.9999982,
                    87.0,
                    300.0,
                ],
            ),
        ];
        for (op, want) in wants {
            let ctx = EvalContext::out_of_plan();
            let y = op.eval(&ctx, tvec!(tensor1(&X).into_tvalue())).unwrap();
            for ((x, y), want) in X.iter().zip(floats(&y[0]).unwrap()).zip(want) {
                assert!(
                    (f64::from(*y) - want).abs() <= 1e-6 * want.abs() + 2e-38,
                    "{op:?} of {x}: {y:e}, not {want:e}"
                );
            }
        }
    }
}
