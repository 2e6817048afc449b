//! Whether answers are as often right as their probabilities say: the expected calibration error, and the one
//! temperature that repairs most of it (Guo, Pleiss, Sun and Weinberger 2017, *On Calibration of Modern Neural
//! Networks*).
//!
//! With logits `z` and `p = softmax(z / T)`, `T` minimises `-mean ln p_y` over answers of known classes `y`. In `s = 1
//! / T` that is convex: its derivative, the mean of `E_p[z] - z_y`, never falls, so halving an interval finds the
//! zero.

use ndarray::ArrayView1;

use super::paired::{mean_gap, within};
use super::rows::{argmax, softmax_at};

/// Answers without which no temperature is fitted.
pub(crate) const FEWEST: usize = 20;
/// Bins of equal width of the calibration error.
const BINS: usize = 15;
/// The least temperature, and one over the greatest.
const COLDEST: f64 = 1.0 / 16.0;

/// How well probabilities say how often answers are right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// What logits are divided by; 1 where there were too few answers, or all were right, or all wrong, or where the
    /// loss is smaller by no more than chance.
    pub temperature: f32,
    /// Expected calibration error of the same answers without it, 0 to 1.
    pub ece_before: f64,
    /// And with it.
    pub ece_after: f64,
    /// Answers that it was fitted on.
    pub n: usize,
}

/// The logits of an answer, and the class that is right.
pub(crate) type Answered<'a> = (ArrayView1<'a, f32>, usize);

impl Calibration {
    /// Fitted on answers by a model that was not trained on them.
    pub(crate) fn fit(answers: &[Answered<'_>]) -> Calibration {
        let fitted = temperature(answers);
        let (plain, better) = (losses(answers, 1.0), losses(answers, fitted));
        let chance = within(mean_gap(&plain, &better, std::iter::repeat(1.0)));
        let temperature = if chance { 1.0 } else { fitted };
        let (ece_before, ece_after) = (calibration_error(answers, 1.0), calibration_error(answers, temperature));
        Calibration { temperature, ece_before, ece_after, n: answers.len() }
    }
}

/// `-ln p` of the right class, of each answer.
fn losses(answers: &[Answered<'_>], temperature: f32) -> Vec<f32> {
    let p = |(z, y): &Answered<'_>| softmax_at(*z, temperature).get(*y).copied().unwrap_or(0.0);
    answers.iter().map(|answer| -p(answer).max(f32::MIN_POSITIVE).ln()).collect()
}

fn temperature(answers: &[Answered<'_>]) -> f32 {
    let right = answers.iter().filter(|(z, y)| argmax(*z) == Some(*y)).count();
    let finite = answers.iter().all(|(z, y)| *y < z.len() && z.iter().all(|v| v.is_finite()));
    if answers.len() < FEWEST || right == 0 || right == answers.len() || !finite {
        return 1.0;
    }
    let (mut low, mut high) = (COLDEST.ln(), -COLDEST.ln());
    // Of ln s; ends below the resolution of the result.
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        match slope(answers, middle.exp()) > 0.0 {
            true => high = middle,
            false => low = middle,
        }
    }
    (-0.5 * (low + high)).exp() as f32
}

/// Derivative of the summed loss in `s`: `E_p[z] - z_y`, over all answers.
fn slope(answers: &[Answered<'_>], s: f64) -> f64 {
    let of = |(z, y): &Answered<'_>| {
        let largest = z.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let (mut sum, mut mean) = (0.0f64, 0.0f64);
        for v in z {
            let behind = f64::from(*v) - f64::from(largest);
            let weight = (s * behind).exp();
            (sum, mean) = (sum + weight, mean + weight * behind);
        }
        let right = z.get(*y).map_or(0.0, |v| f64::from(*v) - f64::from(largest));
        mean / sum - right
    };
    answers.iter().map(of).sum()
}

/// `sum over bins of (n_b / n) · |share right in b - mean probability in b|`, by the probability of the answer, in
/// bins `(k/15, (k+1)/15]`.
pub(crate) fn calibration_error(answers: &[Answered<'_>], temperature: f32) -> f64 {
    // Sum of probabilities less the number of right answers.
    let mut bins = [0.0f64; BINS];
    for (z, y) in answers {
        let Some(answer) = argmax(*z) else { continue };
        let p = f64::from(softmax_at(*z, temperature).get(answer).copied().unwrap_or(0.0));
        let bin = ((p * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        if let Some(gap) = bins.get_mut(bin) {
            *gap += p - f64::from(u8::from(answer == *y));
        }
    }
    bins.iter().map(|gap| gap.abs()).sum::<f64>() / answers.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    /// Rows of four logits and their right classes, the same on every machine; scripts/golden_calibration.py makes the
    /// same.
    fn answers(n: usize, sharpness: f32) -> (Array2<f32>, Vec<usize>) {
        let value = |i: usize, j: usize| ((i * 37 + j * 61 + i * j * 13) % 101) as f32 / 101.0;
        let z = Array2::from_shape_fn((n, 4), |(i, j)| sharpness * value(i, j));
        // Every third is of the class of the second largest logit.
        let right = |i: usize| {
            let mut order: Vec<usize> = (0..4).collect();
            order.sort_by(|a, b| z[[i, *b]].total_cmp(&z[[i, *a]]));
            order[usize::from(i.is_multiple_of(3))]
        };
        let y = (0..n).map(right).collect();
        (z, y)
    }

    fn rows<'a>(z: &'a Array2<f32>, y: &[usize]) -> Vec<Answered<'a>> {
        z.rows().into_iter().zip(y.iter().copied()).collect()
    }

    fn loss(answers: &[Answered<'_>], temperature: f32) -> f64 {
        let of = |(z, y): &Answered<'_>| -f64::from(softmax_at(*z, temperature)[*y]).ln();
        answers.iter().map(of).sum::<f64>() / answers.len() as f64
    }

    #[test]
    fn no_temperature_of_a_grid_is_better() {
        for sharpness in [1.0, 8.0, 40.0] {
            let (z, y) = answers(120, sharpness);
            let answers = rows(&z, &y);
            let found = temperature(&answers);
            let best = loss(&answers, found);
            let grid = (0..2000).map(|i| 1.004f32.powi(i - 1000)).filter(|t| (0.0625..16.0).contains(t));
            let (t, least) = grid
                .map(|t| (t, loss(&answers, t)))
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .expect("a grid has temperatures");
            assert!(best <= least + 1e-7, "{sharpness}: {best} at {found:?}, {least} at {t}");
            assert!((found / t - 1.0).abs() < 0.005, "{sharpness}: {found:?}, the grid says {t}");
        }
    }

    #[test]
    fn values_match_numpy() {
        // scripts/golden_calibration.py
        let (z, y) = answers(120, 40.0);
        let found = Calibration::fit(&rows(&z, &y));
        assert!((found.temperature / NUMPY_TEMPERATURE - 1.0).abs() < 1e-4, "{found:?}");
        assert!((found.ece_before - NUMPY_BEFORE).abs() < 1e-5, "{found:?}");
        assert!((found.ece_after - NUMPY_AFTER).abs() < 1e-5, "{found:?}");
        assert!(found.ece_after < found.ece_before / 2.0);
    }

    #[test]
    fn a_gain_that_may_be_chance_changes_nothing() {
        // About as sure as it is right: the best temperature is near 1, and gains next to nothing.
        let (z, y) = answers(120, 6.0);
        let (found, fitted) = (Calibration::fit(&rows(&z, &y)), temperature(&rows(&z, &y)));
        assert!(fitted != 1.0 && (found.temperature, found.ece_after) == (1.0, found.ece_before), "{fitted} {found:?}");
    }

    #[test]
    fn the_calibration_error_by_hand() {
        // Probabilities 0.9, 0.9, 0.6 and 0.6 of class 0: bins 14 (0.867 to 0.933] and 9 (0.533 to 0.6] or 10.
        let (sure, weak) = (9f32.ln(), 1.5f32.ln());
        let z = array![[sure, 0.0], [sure, 0.0], [weak, 0.0], [weak, 0.0]];
        // One of two right at 0.9: |0.5 - 0.9|; both right at 0.6: |1 - 0.6|; half of the answers each.
        let error = calibration_error(&rows(&z, &[0, 1, 0, 0]), 1.0);
        assert!((error - 0.4).abs() < 1e-6, "{error}");
        // Within a bin, errors of both signs cancel: (0.9 + 0.9 - 2) / 2, half of the answers.
        let error = calibration_error(&rows(&z, &[0, 0, 0, 1]), 1.0);
        assert!((error - (0.1 + 0.1) / 2.0).abs() < 1e-6, "{error}");
        assert_eq!(calibration_error(&[], 1.0), 0.0);
    }

    #[test]
    fn too_few_answers_and_one_sided_ones_have_no_temperature() {
        let (z, y) = answers(120, 40.0);
        assert_eq!(temperature(&rows(&z, &y)[..FEWEST - 1]), 1.0);
        assert_ne!(temperature(&rows(&z, &y)[..FEWEST]), 1.0);
        let top: Vec<usize> = z.rows().into_iter().map(|z| argmax(z).unwrap()).collect();
        assert_eq!(temperature(&rows(&z, &top)), 1.0, "all are right");
        let wrong: Vec<usize> = top.iter().map(|c| (c + 1) % 4).collect();
        assert_eq!(temperature(&rows(&z, &wrong)), 1.0, "none is right");
        let mut odd = z.clone();
        odd[[3, 1]] = f32::INFINITY;
        assert_eq!(temperature(&rows(&odd, &y)), 1.0);
        // Right answers that are less probable than by chance end at the limit, and nowhere else.
        let noisy: Vec<usize> = top.iter().enumerate().map(|(i, c)| if i == 0 { *c } else { (c + 1) % 4 }).collect();
        let limit = temperature(&rows(&z, &noisy));
        assert!((1.0..=16.0).contains(&limit), "{limit}");
    }

    const NUMPY_TEMPERATURE: f32 = 6.401_437_3;
    const NUMPY_BEFORE: f64 = 0.294_332_4;
    const NUMPY_AFTER: f64 = 0.129_973_8;
}
