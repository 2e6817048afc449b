//! Ranges of floats: the runtime counts in whole numbers.

use tract_onnx::pb::tensor_proto::DataType;

use super::super::check::MAX_MADE_BYTES;
use super::super::integers::numbers;
use super::{Given, Lowering};

/// The numbers from the first of three stored floats to the second, by the third.
pub(super) fn stored_range(to: &mut Lowering, given: &Given) -> Option<()> {
    let stored = |slot: usize| {
        let t = to.constants.get(given.input(slot)?).filter(|t| t.data_type == DataType::Float as i32)?;
        numbers(t)?.first().copied().map(f64::from)
    };
    let [start, limit, step] = [stored(0)?, stored(1)?, stored(2)?];
    let count = ((limit - start) / step).ceil().max(0.0);
    if !count.is_finite() || count * 4.0 > MAX_MADE_BYTES as f64 {
        return None;
    }
    let values: Vec<f32> = (0..count as usize).map(|i| (start + i as f64 * step) as f32).collect();
    let name = to.floats(&values, &[values.len() as i64]);
    to.rename(&name, given.output()?)
}
