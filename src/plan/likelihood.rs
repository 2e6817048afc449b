//! Rows of scores over a vocabulary, as probabilities. By vector kernels: a text has as many exponentials as a layer
//! has multiplications for some tokens.

use ndarray::ArrayView1;
use tract_core::internal::*;
use tract_linalg::routines::Func;

use crate::linalg::simd::wide;

/// `row := exp(row) / Σ exp(row)`; the logarithm of that sum.
pub(super) fn softmax(row: &mut [f32]) -> TractResult<f64> {
    let (sum, log_sum_exp) = exponentials(row)?;
    let inverse = sum.recip();
    wide!((row: &mut [f32], inverse: f32) { row.iter_mut().for_each(|p| *p *= inverse) });
    Ok(log_sum_exp)
}

/// The softmax of a row, and the logarithm of the sum of its exponentials.
pub(super) fn softmax_of(row: ArrayView1<f32>) -> TractResult<(Vec<f32>, f64)> {
    let mut p = row.to_vec();
    let log_sum_exp = softmax(&mut p)?;
    Ok((p, log_sum_exp))
}

/// `ln Σ exp(row)`.
pub(super) fn log_sum_exp(row: ArrayView1<f32>) -> TractResult<f64> {
    Ok(exponentials(&mut row.to_vec())?.1)
}

/// Values that the kernel is given at once. Where in memory they lie would decide in which order it adds them up; and
/// it adds in few partial sums, which rounds too much for long rows: the pieces are added in `f64`.
const PIECE: usize = 1024;

#[repr(align(128))]
struct Piece([f32; PIECE]);

/// `row := exp(row - most)`; its sum, and the logarithm of the sum of `exp(row)`.
fn exponentials(row: &mut [f32]) -> TractResult<(f32, f64)> {
    let most = Func::ReduceMax.reduce_f32()?.run(row)?;
    let kernel = Func::Softmax2.map_reduce_f32()?;
    let (mut piece, mut sum) = (Piece([0.0; PIECE]), 0.0);
    for values in row.chunks_mut(PIECE) {
        let (own, rest) = piece.0.split_at_mut(values.len());
        own.copy_from_slice(values);
        rest.fill(f32::NEG_INFINITY);
        sum += f64::from(kernel.run_with_params(&mut piece.0, most)?);
        values.copy_from_slice(&piece.0[..values.len()]);
    }
    Ok((sum as f32, f64::from(most) + sum.ln()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_long_rows() {
        for (len, spread) in [(1, 1.0), (77, 3.0), (50_003, 12.0), (151_936, 0.5)] {
            let row: Vec<f32> = (0..len).map(|i| ((i * 7919 % 10_007) as f32 / 5003.5 - 1.0) * spread + 4.0).collect();
            let exact: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
            let view = ArrayView1::from(&row);
            assert!((log_sum_exp(view).unwrap() - exact.ln()).abs() < 1e-6, "{len}");
            let (p, log_sum) = softmax_of(view).unwrap();
            assert!((log_sum - exact.ln()).abs() < 1e-6, "{len}");
            for (p, v) in p.iter().zip(&row) {
                let want = f64::from(*v).exp() / exact;
                assert!((f64::from(*p) - want).abs() <= 2e-6 * want, "{len}: {p} for {want}");
            }
        }
    }

    #[test]
    fn the_same_bits_wherever_a_row_lies() {
        let values: Vec<f32> = (0..3000).map(|i| (i * 7919 % 1009) as f32 / 100.0).collect();
        let of = |start: usize| {
            let mut room = vec![0.0; start];
            room.extend_from_slice(&values);
            softmax_of(ArrayView1::from(&room[start..])).unwrap()
        };
        let mut moved = values.clone();
        moved.insert(0, 0.0);
        let log_sum = softmax(&mut moved[1..]).unwrap();
        assert_eq!((moved[1..].to_vec(), log_sum), of(0));
        assert!((1..20).all(|start| of(start) == of(0)));
    }

    #[test]
    fn large_scores_do_not_overflow_and_no_numbers_stay_none() {
        let (p, log_sum) = softmax_of(ArrayView1::from(&[1e4, 1e4, -1e4])).unwrap();
        assert_eq!((p, log_sum as f32), (vec![0.5, 0.5, 0.0], 1e4 + std::f32::consts::LN_2));
        assert!(log_sum_exp(ArrayView1::from(&[0.0, f32::NAN])).unwrap().is_nan());
    }
}
