//! Whether one measurement is larger than another, beyond what repeating it would change.
//!
//! A measurement was taken in rounds: the program was started anew for each, and made several runs. Runs of one round
//! have more in common with each other than with those of another, so a round counts once, by the logarithm of its
//! median.

/// Median; of an even number the upper of the two in the middle. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The value that `share` of all are at or below (nearest rank). `None` of nothing.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// One side of a comparison, on a logarithmic scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Side {
    /// Mean of the rounds.
    mean: f64,
    /// Variance of a round; none where a single value tells nothing about it.
    variance: Option<f64>,
    rounds: usize,
    degrees: f64,
}

/// A ratio with the 99 % interval that it lies in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The second over the first.
    pub value: f64,
    /// Lower and upper end; none where nothing is known about the noise.
    pub interval: Option<(f64, f64)>,
}

/// The smallest change that counts, however little noise there is: as much comes from where the linker puts a loop.
pub const LEAST: f64 = 0.01;

/// Degrees of freedom that the typical noise of a file stands for.
const TYPICAL: f64 = 4.0;

impl Side {
    /// Of positive values by round. `None` if there are none.
    pub fn of(rounds: &[Vec<f64>]) -> Option<Side> {
        let logs: Vec<Vec<f64>> =
            rounds.iter().filter(|r| !r.is_empty()).map(|r| r.iter().map(|v| v.ln()).collect()).collect();
        let medians: Vec<f64> = logs.iter().filter_map(|r| median(r)).collect();
        let n = medians.len();
        let mean = medians.iter().sum::<f64>() / n.max(1) as f64;
        // A median's standard error is 1.2533·s/√n; s by the median of the distances, which few long runs do not move.
        let within = |runs: &Vec<f64>| -> Option<f64> {
            let middle = median(runs).filter(|_| runs.len() > 2)?;
            let far: Vec<f64> = runs.iter().map(|v| (v - middle).abs()).collect();
            Some((1.2533 * 1.4826 * median(&far)?).powi(2) / runs.len() as f64)
        };
        let inside: Vec<f64> = logs.iter().filter_map(within).collect();
        let inside = (!inside.is_empty()).then(|| inside.iter().sum::<f64>() / inside.len() as f64);
        let between = (n > 1).then(|| medians.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (n - 1) as f64);
        let degrees = if n > 1 { n - 1 } else { logs.first()?.len().saturating_sub(1).max(1) };
        let variance = match (between, inside) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        Some(Side { mean, variance, rounds: n, degrees: degrees as f64 })
    }

    /// The variance of a round.
    pub fn variance(&self) -> Option<f64> {
        self.variance
    }
}

/// `b` over `a`. The noise of each is its own or the typical one of its file, whichever is larger: a few rounds that
/// happen to agree do not make a measurement exact.
pub fn ratio(a: &Side, b: &Side, typical: (Option<f64>, Option<f64>)) -> Ratio {
    let (distance, extra) = (b.mean - a.mean, if typical.0.is_some() && typical.1.is_some() { TYPICAL } else { 0.0 });
    let error = |side: &Side, typical: Option<f64>| {
        let variance = match (side.variance, typical) {
            (Some(a), Some(b)) => a.max(b),
            (a, b) => a.or(b)?,
        };
        Some(variance / side.rounds as f64)
    };
    let interval = error(a, typical.0).zip(error(b, typical.1)).map(|(ea, eb)| {
        let sum = ea + eb;
        // Welch and Satterthwaite.
        let degrees = match sum > 0.0 {
            true => sum.powi(2) / (ea.powi(2) / a.degrees + eb.powi(2) / b.degrees),
            false => a.degrees.min(b.degrees),
        };
        let half = student(degrees + extra) * sum.sqrt();
        ((distance - half).exp(), (distance + half).exp())
    });
    Ratio { value: distance.exp(), interval }
}

/// Upper 0.5 % point of Student's distribution.
fn student(degrees: f64) -> f64 {
    const POINTS: [f64; 30] = [
        63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947,
        2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750,
    ];
    match degrees {
        d if d < 31.0 => POINTS[(d as usize).max(1) - 1],
        // Between the table's end and the normal distribution's 2.576.
        d => 2.576 + 5.2 / d,
    }
}

/// What a ratio says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The second is smaller.
    Smaller,
    /// The second is larger.
    Larger,
    /// It may be noise.
    Within,
    /// Nothing is known about the noise.
    Unknown,
}

impl Ratio {
    /// What it says.
    pub fn change(&self) -> Change {
        match self.interval {
            None => Change::Unknown,
            Some((low, _)) if low > 1.0 && self.value >= 1.0 + LEAST => Change::Larger,
            Some((_, high)) if high < 1.0 && self.value <= 1.0 / (1.0 + LEAST) => Change::Smaller,
            Some(_) => Change::Within,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::stats::random::keyed_rng;

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=40).map(f64::from).rev().collect();
        assert_eq!(
            (median(&values), quantile(&values, 0.95), quantile(&values, 0.0)),
            (Some(21.0), Some(38.0), Some(1.0))
        );
        assert_eq!((median(&[]), quantile(&[], 0.5), quantile(&[7.0], 0.95)), (None, None, Some(7.0)));
    }

    /// 60 measurements of three rounds of 12 runs: rounds differ by 3 % and runs by 5 % to one side, as times do; by
    /// `more` times as much in every third. Share of changes that are found where the second is `factor` times the
    /// first, among the noisy ones if there are some.
    fn found(factor: f64, more: f64, files: u64) -> f64 {
        let (mut changes, mut all) = (0, 0);
        for file in 0..files {
            let mut rng = keyed_rng(file, 7, 0);
            let mut normal = move || -> f64 {
                let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random_range(0.0..1.0));
                (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
            };
            let mut side = |factor: f64| -> Vec<Side> {
                let mut one = |noise: f64| {
                    let rounds: Vec<Vec<f64>> = (0..3)
                        .map(|_| {
                            let round = factor * (0.03 * noise * normal()).exp();
                            (0..12).map(|_| round * (0.05 * noise * normal().abs()).exp()).collect()
                        })
                        .collect();
                    Side::of(&rounds).unwrap()
                };
                (0..60).map(|line| one(if line % 3 == 0 { more } else { 1.0 })).collect()
            };
            let (a, b) = (side(1.0), side(factor));
            let typical = |sides: &[Side]| median(&sides.iter().filter_map(Side::variance).collect::<Vec<_>>());
            let typical = (typical(&a), typical(&b));
            let wanted = if factor < 1.0 { Change::Smaller } else { Change::Larger };
            let each = if more == 1.0 { 1 } else { 3 };
            let hits = a.iter().zip(&b).step_by(each).map(|(a, b)| ratio(a, b, typical).change());
            changes += hits.filter(|c| if factor == 1.0 { *c != Change::Within } else { *c == wanted }).count();
            all += a.len() / each;
        }
        changes as f64 / all as f64
    }

    #[test]
    fn noise_is_seldom_a_change_and_a_fifth_nearly_always_is() {
        let (none, slower, faster) = (found(1.0, 1.0, 60), found(1.2, 1.0, 20), found(1.0 / 1.2, 1.0, 20));
        assert!(none < 0.01, "{none} of measurements that are the same differ");
        assert!(slower > 0.95 && faster > 0.95, "{slower} {faster}");
        let noisy = found(1.0, 10.0, 60);
        assert!(noisy < 0.04, "{noisy} of noisy measurements that are the same differ");
    }

    #[test]
    fn a_single_value_tells_nothing_about_noise() {
        let side = |values: &[f64]| Side::of(&[values.to_vec()]).unwrap();
        let one = ratio(&side(&[2.0]), &side(&[3.0]), (None, None));
        assert_eq!((one.interval, one.change()), (None, Change::Unknown));
        assert!((one.value - 1.5).abs() < 1e-12);
        let runs = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98];
        let slower: Vec<f64> = runs.iter().map(|r| 1.5 * r).collect();
        assert_eq!(ratio(&side(&runs), &side(&slower), (None, None)).change(), Change::Larger);
        assert_eq!(Side::of(&[]), None);
    }

    #[test]
    fn what_never_varies_has_to_change_by_a_hundredth() {
        let side = |value: f64| Side::of(&vec![vec![value]; 3]).unwrap();
        let change = |b: f64| ratio(&side(1000.0), &side(b), (Some(0.0), Some(0.0))).change();
        assert_eq!(
            [1000.0, 1005.0, 1020.0, 980.0].map(change),
            [Change::Within, Change::Within, Change::Larger, Change::Smaller]
        );
    }
}
