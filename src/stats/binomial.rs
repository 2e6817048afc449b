//! Exact binomial probabilities.

/// `ln n!`: the product itself below 32, Stirling's series from there on (relative error below 1e-12).
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|i| i as f64).product::<f64>().ln();
    }
    let x = n as f64 + 1.0;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

/// `P(X = k)` for `X ~ Bin(n, p)`.
pub(crate) fn pmf(n: u64, k: u64, p: f64) -> f64 {
    if k > n {
        return 0.0;
    }
    if p <= 0.0 || p >= 1.0 {
        return f64::from(u8::from(k == if p <= 0.0 { 0 } else { n }));
    }
    let ln_choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    (ln_choose + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
}

/// Where `Bin(n, p)` has all but about 1e-30 of its mass.
pub(crate) fn support(n: u64, p: f64) -> std::ops::RangeInclusive<u64> {
    let (mean, reach) = (n as f64 * p, 12.0 * (n as f64 * p * (1.0 - p)).sqrt() + 40.0);
    (mean - reach).max(0.0) as u64..=((mean + reach).ceil() as u64).min(n)
}

/// `P(X >= k)`.
pub(crate) fn at_least(n: u64, k: u64, p: f64) -> f64 {
    let support = support(n, p);
    (k.max(*support.start())..=*support.end()).map(|i| pmf(n, i, p)).sum::<f64>().min(1.0)
}

/// `P(X <= k)`.
pub(crate) fn at_most(n: u64, k: u64, p: f64) -> f64 {
    let support = support(n, p);
    (*support.start()..=k.min(*support.end())).map(|i| pmf(n, i, p)).sum::<f64>().min(1.0)
}

/// One-sided upper confidence bound on a proportion, seen `k` times in `n`: the p with `P(X <= k) = 1 - confidence`
/// (Clopper and Pearson, 1934). 1 when n is 0.
pub(crate) fn upper_bound(k: u64, n: u64, confidence: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let (mut low, mut high) = (k as f64 / n as f64, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if at_most(n, k, middle) > 1.0 - confidence { low = middle } else { high = middle }
    }
    high
}

/// One-sided lower confidence bound, the p with `P(X >= k) = 1 - confidence`. 0 when n is 0.
pub(crate) fn lower_bound(k: u64, n: u64, confidence: f64) -> f64 {
    if n == 0 { 0.0 } else { 1.0 - upper_bound(n - k.min(n), n, confidence) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((pmf(10, 3, 0.5) - 120.0 / 1024.0).abs() < 1e-12);
        assert!((pmf(1000, 500, 0.5) - 0.025_225_018_178_36).abs() < 1e-11);
        assert!((at_least(10, 8, 0.5) - 56.0 / 1024.0).abs() < 1e-12);
        assert!((at_most(40, 40, 0.3) - 1.0).abs() < 1e-12 && (at_least(100_000, 0, 0.2) - 1.0).abs() < 1e-8);
        assert_eq!((pmf(5, 0, 0.0), pmf(5, 5, 1.0), pmf(5, 6, 0.5)), (1.0, 1.0, 0.0));
        // scipy.stats.beta.ppf(0.95, k + 1, n - k)
        for (k, n, want) in [(0, 20, 0.139_108_3), (3, 50, 0.147_837_2), (10, 400, 0.042_036_5)] {
            assert!((upper_bound(k, n, 0.95) - want).abs() < 1e-6, "{k} {n} {}", upper_bound(k, n, 0.95));
        }
        assert_eq!((upper_bound(0, 0, 0.95), lower_bound(0, 0, 0.95), lower_bound(0, 9, 0.95)), (1.0, 0.0, 0.0));
        // scipy.stats.beta.ppf(0.05, k, n - k + 1)
        for (k, n, want) in [(1, 9, 0.005_683), (4, 9, 0.168_750), (9, 9, 0.716_871), (30, 200, 0.110_081)] {
            assert!((lower_bound(k, n, 0.95) - want).abs() < 1e-5, "{k} {n} {}", lower_bound(k, n, 0.95));
        }
    }
}
