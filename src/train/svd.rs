//! The largest singular triples of a matrix, by subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4),
//! with Rayleigh and Ritz on the subspace at its end.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::linalg::{MatMut, MatRef, gemm};

/// Multiplications by `MᵀM`, as PEFT's example of `pissa_niter_16`.
const ITERATIONS: usize = 16;
/// Columns beyond those that are asked for.
const BESIDE: usize = 8;
/// Sweeps of Jacobi's rotations; they converge in far fewer.
const SWEEPS: usize = 60;

/// `left · diag(values) · right`, largest value first.
pub(crate) struct Triples {
    /// `[rows, rank]`
    pub left: Vec<f32>,
    pub values: Vec<f32>,
    /// `[rank, columns]`
    pub right: Vec<f32>,
}

/// The `rank` largest singular triples of the row-major matrix `m`. The same `seed` gives the same bits.
pub(crate) fn largest(m: &[f32], rows: usize, cols: usize, rank: usize, seed: u64) -> Result<Triples> {
    let rank = rank.min(rows).min(cols);
    let k = (rank + BESIDE).min(rows).min(cols);
    let matrix = MatRef::row_major(m, rows, cols)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Bases are kept as rows: `q` is [k, rows], `z` is [k, cols].
    let mut z: Vec<f32> = (0..k * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut q = vec![0f32; k * rows];
    for _ in 0..=ITERATIONS {
        orthonormalise(&mut z, cols);
        gemm(1.0, MatRef::row_major(&z, k, cols)?, matrix.t(), 0.0, MatMut::row_major(&mut q, k, rows)?)?;
        orthonormalise(&mut q, rows);
        gemm(1.0, MatRef::row_major(&q, k, rows)?, matrix, 0.0, MatMut::row_major(&mut z, k, cols)?)?;
    }
    // Within the subspace: QᵀM is [k, cols], and its left singular vectors are the eigenvectors of its Gram matrix.
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let gram: Vec<f64> = (0..k * k).map(|at| dot(&z[at / k * cols..][..cols], &z[at % k * cols..][..cols])).collect();
    let (squares, vectors) = eigen(gram, k);
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&i, &j| squares[j].total_cmp(&squares[i]));
    let (mut left, mut values, mut right) = (vec![0f32; rows * rank], vec![], vec![0f32; rank * cols]);
    for (r, &at) in order.iter().take(rank).enumerate() {
        let value = squares[at].max(0.0).sqrt();
        let weight = |i: usize| vectors[i * k + at];
        for row in 0..rows {
            left[row * rank + r] = (0..k).map(|i| weight(i) * f64::from(q[i * rows + row])).sum::<f64>() as f32;
        }
        for col in 0..cols {
            let sum: f64 = (0..k).map(|i| weight(i) * f64::from(z[i * cols + col])).sum();
            right[r * cols + col] = if value > 0.0 { (sum / value) as f32 } else { 0.0 };
        }
        values.push(value as f32);
    }
    Ok(Triples { left, values, right })
}

/// Makes the rows orthonormal, twice over for what rounding leaves; a row that depends on those before it becomes zero.
fn orthonormalise(rows: &mut [f32], len: usize) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    for at in 0..rows.len() / len {
        let (before, rest) = rows.split_at_mut(at * len);
        let row = &mut rest[..len];
        let size = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(len) {
                let along = dot(row, other) as f32;
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let left = dot(row, row).sqrt();
        let factor = if left > 1e-6 * size && left > 0.0 { (1.0 / left) as f32 } else { 0.0 };
        row.iter_mut().for_each(|v| *v *= factor);
    }
}

/// Eigenvalues and, column by column, eigenvectors of a symmetric matrix: Jacobi's rotations, cyclic by rows.
fn eigen(mut m: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
    let scale = m.iter().map(|x| x * x).sum::<f64>();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| m[at] * m[at]).sum();
        if off <= 1e-30 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if m[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (m[q * n + q] - m[p * n + p]) / (2.0 * m[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for i in 0..n {
                    let (a, b) = (m[i * n + p], m[i * n + q]);
                    (m[i * n + p], m[i * n + q]) = (c * a - s * b, s * a + c * b);
                }
                for i in 0..n {
                    let (a, b) = (m[p * n + i], m[q * n + i]);
                    (m[p * n + i], m[q * n + i]) = (c * a - s * b, s * a + c * b);
                    let (a, b) = (v[i * n + p], v[i * n + q]);
                    (v[i * n + p], v[i * n + q]) = (c * a - s * b, s * a + c * b);
                }
            }
        }
    }
    ((0..n).map(|i| m[i * n + i]).collect(), v)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of known singular values: the product of two orthonormal bases with a diagonal between them.
    fn known(rows: usize, cols: usize, values: &[f32]) -> Vec<f32> {
        let n = values.len();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut basis = |len: usize| {
            let mut b: Vec<f32> = (0..n * len).map(|_| rng.random_range(-1.0..1.0)).collect();
            orthonormalise(&mut b, len);
            b
        };
        let (u, v) = (basis(rows), basis(cols));
        let at = |i: usize, j: usize| (0..n).map(|k| u[k * rows + i] * values[k] * v[k * cols + j]).sum::<f32>();
        (0..rows * cols).map(|x| at(x / cols, x % cols)).collect()
    }

    #[test]
    fn known_triples_are_found() {
        let values: Vec<f32> = (0..30).map(|k| 4.0 * 0.8f32.powi(k)).collect();
        for (rows, cols) in [(60, 40), (40, 60)] {
            let m = known(rows, cols, &values);
            let found = largest(&m, rows, cols, 5, 3).unwrap();
            for (got, want) in found.values.iter().zip(&values) {
                assert!((got - want).abs() < 1e-4 * want, "{got} {want}");
            }
            // M·v = σ·u, and u is of length 1.
            for r in 0..5 {
                for i in 0..rows {
                    let product: f32 = (0..cols).map(|j| m[i * cols + j] * found.right[r * cols + j]).sum();
                    assert!((product - found.values[r] * found.left[i * 5 + r]).abs() < 2e-4);
                }
                let length: f32 = (0..rows).map(|i| found.left[i * 5 + r].powi(2)).sum();
                assert!((length - 1.0).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_and_one_of_zeros_are_no_trouble() {
        let m = known(12, 9, &[3.0, 1.0]);
        let found = largest(&m, 12, 9, 4, 0).unwrap();
        assert!((found.values[0] - 3.0).abs() < 1e-4 && (found.values[1] - 1.0).abs() < 1e-4);
        assert!(found.values[2] < 1e-4);
        for (x, want) in m.iter().enumerate() {
            let (i, j) = (x / 9, x % 9);
            let got: f32 = (0..4).map(|r| found.left[i * 4 + r] * found.values[r] * found.right[r * 9 + j]).sum();
            assert!((got - want).abs() < 1e-4);
        }
        let none = largest(&[0.0; 6], 2, 3, 2, 0).unwrap();
        assert!(none.left.iter().chain(&none.values).chain(&none.right).all(|v| v.is_finite()));
    }
}
