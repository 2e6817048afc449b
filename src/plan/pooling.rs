//! Features of positions as one vector an example, and back.

use ndarray::{Array2, ArrayD, Axis, Ix3};

use super::Outputs;
use crate::adapter::Pooling;
use crate::error::{Error, Result};

/// Pooled features and logits of some examples.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// `[rows, features]`.
    pub features: Array2<f32>,
    /// `[rows, base classes]`; none for an encoder.
    pub logits: Option<Array2<f32>>,
}

/// One vector an example.
pub(crate) fn pool(pooling: Pooling, outputs: Outputs, mask: &[f32]) -> Result<Rows> {
    let shape = outputs.features.shape().to_vec();
    let odd = || Error::internal(format!("cannot pool features of shape {shape:?}"));
    let features = match shape.len() {
        3 => {
            let all = outputs.features.into_dimensionality::<Ix3>().map_err(|_| odd())?;
            let weights = pool_weights(pooling, mask, shape[0], shape[1]);
            let mut pooled = Array2::zeros((shape[0], shape[2]));
            for (n, mut row) in pooled.rows_mut().into_iter().enumerate() {
                for (s, w) in weights.row(n).iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    row.scaled_add(*w, &all.slice(ndarray::s![n, s, ..]));
                }
            }
            pooled
        }
        _ => {
            let rows = shape.first().copied().unwrap_or(1);
            let width: usize = shape.iter().skip(1).product();
            outputs.features.into_shape_with_order((rows, width)).map_err(|_| odd())?
        }
    };
    Ok(Rows { features, logits: outputs.logits })
}

/// The cotangent of the unpooled features.
pub(crate) fn unpool(pooling: Pooling, shape: &[usize], mask: &[f32], pooled: Array2<f32>) -> Result<ArrayD<f32>> {
    let odd = || Error::internal(format!("cannot spread a gradient over features of shape {shape:?}"));
    if shape.len() != 3 {
        return pooled.into_dyn().into_shape_with_order(shape).map_err(|_| odd());
    }
    let weights = pool_weights(pooling, mask, shape[0], shape[1]);
    let mut out = ndarray::Array3::<f32>::zeros((shape[0], shape[1], shape[2]));
    for (n, mut sequence) in out.axis_iter_mut(Axis(0)).enumerate() {
        for (s, mut row) in sequence.rows_mut().into_iter().enumerate() {
            if weights[[n, s]] != 0.0 {
                row.scaled_add(weights[[n, s]], &pooled.row(n));
            }
        }
    }
    Ok(out.into_dyn())
}

/// `[batch, sequence]`: what each position contributes to the pooled vector.
fn pool_weights(pooling: Pooling, mask: &[f32], batch: usize, sequence: usize) -> Array2<f32> {
    let mut weights = if mask.len() == batch * sequence {
        Array2::from_shape_fn((batch, sequence), |(n, s)| mask[n * sequence + s])
    } else {
        Array2::ones((batch, sequence))
    };
    for mut row in weights.rows_mut() {
        match pooling {
            Pooling::First => row.iter_mut().enumerate().for_each(|(s, w)| *w = (s == 0) as u8 as f32),
            _ => {
                let total = row.sum().max(1.0);
                row /= total;
            }
        }
    }
    weights
}
