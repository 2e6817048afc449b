//! Losses on logits: softmax cross-entropy towards a class, away from a class, or towards a distribution.
//!
//! With `p = softmax(z)` over the C logits of a row:
//!
//! | target | loss | gradient with respect to `z_j` |
//! |---|---|---|
//! | [`LossTarget::Class`] g, smoothing e | `-sum_j q_j ln p_j`, `q_j = (1-e)·[j=g] + e/C` (as torch) | `p_j - q_j` |
//! | [`LossTarget::Not`] g | `-ln(1 - p_g)` | `p_g` at g, `-p_g·r_j` elsewhere |
//! | [`LossTarget::Soft`] q | `sum_j q_j ln(q_j / p_j)` (zero at `p = q`) | `p_j - q_j` |
//!
//! For `Not`, `r = softmax` over the classes other than g. Derivation: `dp_g/dz_j = p_g([j=g] - p_j)`, so
//! `dL/dz_j = p_g([j=g] - p_j)/(1 - p_g)`; at g the factor `1 - p_g` cancels, elsewhere `p_j/(1 - p_g) = r_j`. In this form
//! nothing is divided by a vanishing `1 - p_g`: every entry lies in [-1, 1], so no clipping is needed. The loss itself is
//! `lse(z) - lse(z without g)`, which grows like `z_g - max(others)` instead of overflowing when `p_g` rounds to 1.

use crate::error::{Error, Result};
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1};

/// What a row should have answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossTarget<'a> {
    /// The right class.
    Class(usize),
    /// The answer given was wrong, and the right one is not known.
    Not(usize),
    /// A distribution to stay close to. It may be shorter than the row: classes beyond it have probability 0.
    Soft(&'a [f32]),
}

/// A loss and its gradient.
#[derive(Clone, Debug)]
pub struct Loss {
    /// `sum_i w_i·l_i / sum_i w_i`; 0 when all weights are 0.
    pub mean: f32,
    /// Gradient of `mean` with respect to the logits, [rows, classes].
    pub dlogits: Array2<f32>,
    /// `l_i` of every row, unweighted; 0 for rows of weight 0, which are never looked at.
    pub rows: Vec<f32>,
}

/// Weighted mean cross-entropy of `logits` [rows, classes] and its gradient; see the table of this module.
///
/// `smoothing` in [0, 1) applies to [`LossTarget::Class`] only.
///
/// # Errors
/// Lengths that disagree; a class out of range; `Not` among fewer than two classes; a soft target that is no distribution; a negative
/// or non-finite weight; a row of positive weight with a non-finite logit.
pub fn cross_entropy(
    logits: ArrayView2<'_, f32>,
    targets: &[LossTarget<'_>],
    weights: &[f32],
    smoothing: f32,
) -> Result<Loss> {
    let (rows, classes) = logits.dim();
    if targets.len() != rows || weights.len() != rows {
        return Err(Error::internal(format!(
            "a loss over {rows} rows was given {} targets and {} weights",
            targets.len(),
            weights.len()
        )));
    }
    if !(0.0..1.0).contains(&smoothing) {
        return Err(Error::usage(format!("label smoothing {smoothing} is not in [0, 1)")));
    }
    if let Some(w) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        return Err(Error::bad_data(format!("a row's weight is {w}; weights must be finite and not negative")));
    }
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut loss = Loss { mean: 0.0, dlogits: Array2::zeros((rows, classes)), rows: vec![0.0; rows] };
    let mut sum = 0.0f64;
    let per_row =
        logits.rows().into_iter().zip(loss.dlogits.rows_mut()).zip(targets.iter().zip(weights)).zip(&mut loss.rows);
    for (index, (((z, mut d), (target, &weight)), out)) in per_row.enumerate() {
        if weight == 0.0 {
            continue;
        }
        let l = row(z, d.view_mut(), *target, smoothing).map_err(|e| e.at(format!("row {index}")))?;
        d *= (f64::from(weight) / total) as f32;
        *out = l as f32;
        sum += f64::from(weight) * l;
    }
    if total > 0.0 {
        loss.mean = (sum / total) as f32;
    }
    Ok(loss)
}

/// Loss of one row; its gradient goes to `d`.
fn row(z: ArrayView1<'_, f32>, mut d: ArrayViewMut1<'_, f32>, target: LossTarget<'_>, smoothing: f32) -> Result<f64> {
    if z.iter().any(|v| !v.is_finite()) {
        return Err(Error::bad_data("a logit is not a finite number")
            .hint("lower the learning rate, or check the input for NaN"));
    }
    match target {
        LossTarget::Class(g) => {
            let z_g = *z.get(g).ok_or_else(|| out_of_range(g, z.len()))?;
            let lse = softmax_into(z, d.view_mut(), None);
            let uniform = smoothing / z.len() as f32;
            d -= uniform;
            if let Some(v) = d.get_mut(g) {
                *v -= 1.0 - smoothing;
            }
            let mean_z = z.iter().map(|&v| f64::from(v)).sum::<f64>() / z.len() as f64;
            let s = f64::from(smoothing);
            Ok(lse - (1.0 - s) * f64::from(z_g) - s * mean_z)
        }
        LossTarget::Not(g) => {
            let z_g = f64::from(*z.get(g).ok_or_else(|| out_of_range(g, z.len()))?);
            if z.len() < 2 {
                return Err(Error::bad_data("a rejected answer says nothing to a model with a single class"));
            }
            let others = softmax_into(z, d.view_mut(), Some(g)); // d = r, 0 at g
            let gap = z_g - others; // log-odds of g
            let p = 1.0 / (1.0 + (-gap).exp());
            d *= -(p as f32);
            if let Some(v) = d.get_mut(g) {
                *v = p as f32;
            }
            // ln(1 + e^gap) without overflow.
            Ok(gap.max(0.0) + (-gap.abs()).exp().ln_1p())
        }
        LossTarget::Soft(q) => {
            let sum: f64 = q.iter().map(|&v| f64::from(v)).sum();
            if q.len() > z.len() || q.iter().any(|v| v.is_nan() || *v < 0.0) || (sum - 1.0).abs() > 1e-3 {
                return Err(Error::internal(format!(
                    "a soft target of {} values with sum {sum} is no distribution over {} classes",
                    q.len(),
                    z.len()
                )));
            }
            let lse = softmax_into(z, d.view_mut(), None);
            let mut l = 0.0f64;
            for ((&q, &z), d) in q.iter().zip(z).zip(&mut d) {
                let q = f64::from(q) / sum;
                *d = (f64::from(*d) - q) as f32;
                if q > 0.0 {
                    l += q * (q.ln() - (f64::from(z) - lse));
                }
            }
            Ok(l.max(0.0))
        }
    }
}

/// Softmax of `z` without entry `skip` (which becomes 0) into `p`; returns the log of the sum of exponentials.
fn softmax_into(z: ArrayView1<'_, f32>, mut p: ArrayViewMut1<'_, f32>, skip: Option<usize>) -> f64 {
    let kept = |j: usize| Some(j) != skip;
    let max = z.iter().enumerate().filter(|(j, _)| kept(*j)).fold(f32::NEG_INFINITY, |m, (_, &v)| m.max(v));
    let mut sum = 0.0f64;
    for (j, (p, &v)) in p.iter_mut().zip(z).enumerate() {
        *p = if kept(j) { (v - max).exp() } else { 0.0 };
        sum += f64::from(*p);
    }
    p /= sum as f32;
    f64::from(max) + sum.ln()
}

fn out_of_range(class: usize, classes: usize) -> Error {
    Error::bad_data(format!("class {class} is out of range: the model has {classes} classes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn logits() -> Array2<f32> {
        arr2(&[[0.3, -1.2, 2.0, 0.1], [5.0, -3.0, 0.5, 1.5], [-0.2, 0.4, 0.1, 3.0], [0.0, 1.0, -1.0, 0.7]])
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let q = [0.2f32, 0.5, 0.3];
        let targets = [LossTarget::Class(1), LossTarget::Not(0), LossTarget::Soft(&q), LossTarget::Not(2)];
        let weights = [1.0, 0.5, 2.0, 0.7];
        for smoothing in [0.0, 0.1] {
            let z = logits();
            let loss = cross_entropy(z.view(), &targets, &weights, smoothing).unwrap();
            for i in 0..4 {
                for j in 0..4 {
                    let at = |step: f32| {
                        let mut z = z.clone();
                        z[[i, j]] += step;
                        let l = cross_entropy(z.view(), &targets, &weights, smoothing).unwrap();
                        l.rows.iter().zip(&weights).map(|(&l, &w)| f64::from(l) * f64::from(w)).sum::<f64>() / 4.2
                    };
                    let numeric = (at(0.01) - at(-0.01)) / 0.02;
                    assert!(
                        (numeric - f64::from(loss.dlogits[[i, j]])).abs() < 5e-5,
                        "{i} {j}: {numeric} {}",
                        loss.dlogits[[i, j]]
                    );
                }
            }
        }
    }

    #[test]
    fn values_match_torch() {
        // torch.nn.functional.cross_entropy(z[:2], [2, 1], label_smoothing=s) in float64: scripts/golden_adamw.py
        let two = logits().slice(ndarray::s![..2, ..]).to_owned();
        let t = [LossTarget::Class(2), LossTarget::Class(1)];
        let plain = cross_entropy(two.view(), &t, &[1.0, 1.0], 0.0).unwrap().mean;
        let smooth = cross_entropy(two.view(), &t, &[1.0, 1.0], 0.1).unwrap().mean;
        assert!((plain - TORCH_PLAIN).abs() < 1e-6, "{plain}");
        assert!((smooth - TORCH_SMOOTH).abs() < 1e-6, "{smooth}");
    }
    const TORCH_PLAIN: f32 = 4.178_903_4;
    const TORCH_SMOOTH: f32 = 4.063_903_4;

    #[test]
    fn not_stays_finite_when_the_model_is_certain() {
        for z_g in [0.0f32, 20.0, 100.0, 1e30] {
            let z = arr2(&[[z_g, 0.0, -1.0]]);
            let l = cross_entropy(z.view(), &[LossTarget::Not(0)], &[1.0], 0.0).unwrap();
            assert!(l.mean.is_finite() && l.mean >= 0.0);
            assert!(l.dlogits.iter().all(|d| d.abs() <= 1.0));
            assert!(l.dlogits.sum().abs() < 1e-6);
        }
        let certain = cross_entropy(arr2(&[[100.0f32, 0.0]]).view(), &[LossTarget::Not(0)], &[1.0], 0.0).unwrap();
        assert!((certain.mean - 100.0).abs() < 1e-4);
        let already = cross_entropy(arr2(&[[-100.0f32, 0.0]]).view(), &[LossTarget::Not(0)], &[1.0], 0.0).unwrap();
        assert!(already.mean < 1e-30 && already.dlogits[[0, 0]] < 1e-30);
    }

    #[test]
    fn two_classes_not_one_is_the_other() {
        let z = arr2(&[[0.7f32, -0.4]]);
        let not = cross_entropy(z.view(), &[LossTarget::Not(0)], &[1.0], 0.0).unwrap();
        let class = cross_entropy(z.view(), &[LossTarget::Class(1)], &[1.0], 0.0).unwrap();
        assert!((not.mean - class.mean).abs() < 1e-6);
        assert!((&not.dlogits - &class.dlogits).iter().all(|d| d.abs() < 1e-6));
    }

    #[test]
    fn soft_is_zero_at_the_target_and_padding_is_ignored() {
        let z = arr2(&[[0.0f32, 2.0f32.ln()], [f32::NAN, 0.0]]);
        let l = cross_entropy(
            z.view(),
            &[LossTarget::Soft(&[1.0 / 3.0, 2.0 / 3.0]), LossTarget::Class(7)],
            &[1.0, 0.0],
            0.0,
        )
        .unwrap();
        assert!(l.mean < 1e-6 && l.dlogits.iter().all(|d| d.abs() < 1e-6));
        let none = cross_entropy(z.view(), &[LossTarget::Class(0), LossTarget::Class(0)], &[0.0, 0.0], 0.0).unwrap();
        assert_eq!((none.mean, none.dlogits.sum()), (0.0, 0.0));
    }

    #[test]
    fn bad_input_is_refused() {
        let z = arr2(&[[0.0f32, 1.0]]);
        let bad = |t: LossTarget<'_>, w: f32, s: f32| cross_entropy(z.view(), &[t], &[w], s).is_err();
        assert!(bad(LossTarget::Class(2), 1.0, 0.0) && bad(LossTarget::Not(2), 1.0, 0.0));
        assert!(
            bad(LossTarget::Class(0), -1.0, 0.0)
                && bad(LossTarget::Class(0), f32::NAN, 0.0)
                && bad(LossTarget::Class(0), 1.0, 1.0)
        );
        assert!(bad(LossTarget::Soft(&[0.5, 0.4]), 1.0, 0.0) && bad(LossTarget::Soft(&[f32::NAN, 1.0]), 1.0, 0.0));
        assert!(cross_entropy(arr2(&[[0.0f32]]).view(), &[LossTarget::Not(0)], &[1.0], 0.0).is_err());
        assert!(cross_entropy(arr2(&[[f32::INFINITY, 0.0]]).view(), &[LossTarget::Class(0)], &[1.0], 0.0).is_err());
        assert!(cross_entropy(z.view(), &[], &[1.0], 0.0).is_err());
    }
}
