//! A row of logits, or of features.

use ndarray::{Array2, ArrayView1, ArrayView2};

/// Index of the largest value; the first of equals.
pub(crate) fn argmax(row: ArrayView1<f32>) -> Option<usize> {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]))
}

/// Probabilities: `exp(z)` over the sum of all, taken from the largest on so that none overflows.
pub(crate) fn softmax(row: ArrayView1<f32>) -> Vec<f32> {
    let largest = row.fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let exps: Vec<f32> = row.iter().map(|z| (z - largest).exp()).collect();
    let total: f32 = exps.iter().sum();
    exps.iter().map(|e| e / total).collect()
}

/// [`softmax`] of the logits over a temperature: 1 changes nothing, more makes the answer less sure.
pub(crate) fn softmax_at(row: ArrayView1<f32>, temperature: f32) -> Vec<f32> {
    softmax(row.mapv(|z| z / temperature).view())
}
/// Least length that a row is divided by.
pub(crate) const SHORTEST: f32 = 1e-12;

/// Length (L2) of a row, or [`SHORTEST`].
pub(crate) fn length(row: ArrayView1<'_, f32>) -> f32 {
    row.dot(&row).sqrt().max(SHORTEST)
}

/// Each row scaled to length 1 (L2); a row of zeros stays.
pub(crate) fn unit_rows(rows: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut unit = rows.to_owned();
    for mut row in unit.rows_mut() {
        let by = length(row.view());
        row /= by;
    }
    unit
}
