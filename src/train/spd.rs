//! Inverse of a small symmetric positive definite matrix, by Cholesky's factor.

use crate::error::{Error, Result};

/// Inverse of the row-major `[n, n]` matrix `m`.
///
/// # Errors
/// [`BadData`](crate::ErrorKind::BadData) if it is not positive definite.
pub(crate) fn inverse(m: &[f64], n: usize) -> Result<Vec<f64>> {
    let mut l = vec![0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let rest = m[i * n + j] - (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum::<f64>();
            if i == j && (rest.is_nan() || rest <= 0.0) {
                return Err(Error::bad_data("a matrix that is to be inverted is not positive definite"));
            }
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    let mut out = vec![0f64; n * n];
    for column in 0..n {
        let mut x: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == column))).collect();
        for i in 0..n {
            x[i] = (x[i] - (0..i).map(|k| l[i * n + k] * x[k]).sum::<f64>()) / l[i * n + i];
        }
        for i in (0..n).rev() {
            x[i] = (x[i] - (i + 1..n).map(|k| l[k * n + i] * x[k]).sum::<f64>()) / l[i * n + i];
        }
        (0..n).for_each(|i| out[i * n + column] = x[i]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_with_the_inverse_is_one() {
        let n = 4;
        let root: Vec<f64> = (0..n * n).map(|i| ((i * i) as f64 * 0.37).sin()).collect();
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
        let m: Vec<f64> = (0..n * n).map(|at| dot(&root[at / n * n..][..n], &root[at % n * n..][..n])).collect();
        let inv = inverse(&m, n).unwrap();
        for (i, j) in (0..n * n).map(|at| (at / n, at % n)) {
            let product: f64 = (0..n).map(|k| m[i * n + k] * inv[k * n + j]).sum();
            assert!((product - f64::from(u8::from(i == j))).abs() < 1e-9);
        }
        assert!(inverse(&[1.0, 2.0, 2.0, 1.0], 2).is_err());
        assert!(inverse(&[f64::NAN], 1).is_err());
    }
}
