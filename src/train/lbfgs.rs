//! Minimisation of a smooth function by L-BFGS (Nocedal and Wright, *Numerical Optimization*, algorithms 7.4 and 7.5), with the
//! bisection line search for the weak Wolfe conditions (Lewis and Overton, 2013).

use crate::error::Result;
use std::collections::VecDeque;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Iterations at most.
    pub iterations: usize,
    /// Largest absolute entry of the gradient.
    pub gradient: f32,
}

/// Where it stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub value: f64,
    pub iterations: usize,
    /// Whether the gradient is below the tolerance.
    pub converged: bool,
}

/// Pairs of steps and gradient differences that are kept.
const MEMORY: usize = 10;
const ARMIJO: f64 = 1e-4;
const CURVATURE: f64 = 0.9;
/// Relative rounding of a value computed over f32 products: decreases below it are not told from none.
const NOISE: f64 = 1e-7;

struct Pair {
    s: Vec<f32>,
    y: Vec<f32>,
    rho: f64,
}

/// Inner product in f64, in eight partial sums so that it vectorises.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((s, &x), &y) in sums.iter_mut().zip(a).zip(b) {
            *s += f64::from(x) * f64::from(y);
        }
    }
    sums.iter().sum()
}
fn add(x: &mut [f32], scale: f64, d: &[f32]) {
    x.iter_mut().zip(d).for_each(|(x, &d)| *x += scale as f32 * d);
}
fn largest(g: &[f32]) -> f32 {
    g.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Moves `x` to a local minimum of `f`, which writes its gradient at a point and returns its value.
/// A point where the value is not finite counts as a step too far.
///
/// # Errors
/// Those of `f`.
pub(super) fn minimise(
    x: &mut [f32],
    stop: Stop,
    mut f: impl FnMut(&[f32], &mut [f32]) -> Result<f64>,
) -> Result<Outcome> {
    let n = x.len();
    let mut g = vec![0.0; n];
    let mut value = f(x, &mut g)?;
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let (mut x_new, mut g_new) = (vec![0.0; n], vec![0.0; n]);
    // The last point that lowered the value: where a search ends, whatever it looked at after it.
    let (mut x_low, mut g_low) = (vec![0.0; n], vec![0.0; n]);
    for iterations in 0..stop.iterations {
        if largest(&g) <= stop.gradient {
            return Ok(Outcome { value, iterations, converged: true });
        }
        let mut d = direction(&g, &pairs);
        let mut slope = dot(&g, &d);
        if slope >= 0.0 || !slope.is_finite() {
            pairs.clear();
            d = direction(&g, &pairs);
            slope = dot(&g, &d);
        }
        let mut t = if pairs.is_empty() { 1.0 / dot(&g, &g).sqrt().max(1.0) } else { 1.0 };
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let mut accepted = None;
        for _ in 0..30 {
            x_new.copy_from_slice(x);
            add(&mut x_new, t, &d);
            let v = f(&x_new, &mut g_new)?;
            let lower = v <= value + ARMIJO * t * slope + NOISE * value.abs(); // false for NaN
            if lower {
                accepted = Some(v);
                std::mem::swap(&mut x_new, &mut x_low);
                std::mem::swap(&mut g_new, &mut g_low);
                if dot(&g_low, &d) >= CURVATURE * slope {
                    break;
                }
                low = t;
            } else {
                high = t;
            }
            t = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * t };
            if high - low <= 1e-9 * high {
                break;
            }
        }
        let Some(v) = accepted else {
            return Ok(Outcome { value, iterations, converged: false });
        };
        let s: Vec<f32> = x_low.iter().zip(x.iter()).map(|(a, b)| a - b).collect();
        let y: Vec<f32> = g_low.iter().zip(&g).map(|(a, b)| a - b).collect();
        let sy = dot(&s, &y);
        if sy > 1e-10 * dot(&y, &y) && sy.is_finite() {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back(Pair { s, y, rho: 1.0 / sy });
        }
        let stalled = value - v <= NOISE * 1e-3 * value.abs() && pairs.is_empty();
        x.copy_from_slice(&x_low);
        g.copy_from_slice(&g_low);
        value = v;
        if stalled {
            break;
        }
    }
    Ok(Outcome { value, iterations: stop.iterations, converged: largest(&g) <= stop.gradient })
}

/// `-H·g` by the two-loop recursion.
fn direction(g: &[f32], pairs: &VecDeque<Pair>) -> Vec<f32> {
    let mut q: Vec<f32> = g.iter().map(|v| -v).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for p in pairs.iter().rev() {
        let alpha = p.rho * dot(&p.s, &q);
        add(&mut q, -alpha, &p.y);
        alphas.push(alpha);
    }
    if let Some(last) = pairs.back() {
        let scale = (1.0 / (last.rho * dot(&last.y, &last.y))) as f32;
        q.iter_mut().for_each(|v| *v *= scale);
    }
    for (p, alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = p.rho * dot(&p.y, &q);
        add(&mut q, alpha - beta, &p.s);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Stop = Stop { iterations: 500, gradient: 1e-5 };

    #[test]
    fn an_ill_conditioned_quadratic() {
        let mut x = vec![1.0f32; 20];
        let out = minimise(&mut x, STOP, |x, g| {
            let mut v = 0.0;
            for (i, (&x, g)) in x.iter().zip(g.iter_mut()).enumerate() {
                let scale = 10f64.powf(-3.0 * i as f64 / 19.0);
                let e = f64::from(x) - i as f64;
                v += 0.5 * scale * e * e;
                *g = (scale * e) as f32;
            }
            Ok(v)
        })
        .unwrap();
        assert!(out.converged && out.iterations < 200, "{out:?}");
        assert!(x.iter().enumerate().all(|(i, v)| (v - i as f32).abs() < 0.02), "{x:?}");
    }

    #[test]
    fn rosenbrock() {
        let mut x = vec![-1.2f32, 1.0];
        let out = minimise(&mut x, STOP, |x, g| {
            let (a, b) = (f64::from(x[0]), f64::from(x[1]));
            g[0] = (-2.0 * (1.0 - a) - 400.0 * a * (b - a * a)) as f32;
            g[1] = (200.0 * (b - a * a)) as f32;
            Ok((1.0 - a).powi(2) + 100.0 * (b - a * a).powi(2))
        })
        .unwrap();
        assert!((x[0] - 1.0).abs() < 1e-3 && (x[1] - 1.0).abs() < 2e-3, "{x:?} {out:?}");
        assert!(out.iterations < 100, "{out:?}");
    }

    #[test]
    fn a_wall_of_infinities_is_stepped_back_from() {
        // -ln(1 - x) + x²·5 - 2x, infinite from 1 on
        let mut x = vec![-50.0f32];
        let out = minimise(&mut x, STOP, |x, g| {
            let a = f64::from(x[0]);
            g[0] = (1.0 / (1.0 - a) + 10.0 * a - 2.0) as f32;
            Ok(if a < 1.0 { -(1.0 - a).ln() + 5.0 * a * a - 2.0 * a } else { f64::INFINITY })
        })
        .unwrap();
        let a = f64::from(x[0]);
        assert!((1.0 / (1.0 - a) + 10.0 * a - 2.0).abs() < 1e-4, "{a} {out:?}");
        let mut none: Vec<f32> = vec![];
        assert!(minimise(&mut none, STOP, |_, _| Ok(1.0)).unwrap().converged);
    }

    #[test]
    fn a_search_that_ends_at_a_wall_keeps_the_last_point_before_it() {
        // -x up to a wall at 1, behind which the gradient looks as if the minimum had been passed.
        let value = |x: f32| if x < 1.0 { f64::from(-x) } else { 1e6 };
        for start in [-3.0f32, 0.0, 0.3, 0.77] {
            let mut x = vec![start];
            let out = minimise(&mut x, STOP, |x, g| {
                g[0] = if x[0] < 1.0 { -1.0 } else { 1.0 };
                Ok(value(x[0]))
            })
            .unwrap();
            assert!(x[0] > 0.999 && x[0] < 1.0, "{start}: ended at {x:?}");
            assert_eq!(out.value, value(x[0]), "{start}: {out:?} is not the value at {x:?}");
        }
    }
}
