//! Ranges of floats: the runtime counts in whole numbers.

use tract_onnx::pb::tensor_proto::DataType;

use super::super::check::MAX_MADE_BYTES;
use super::super::integers::{float_tensor, numbers};
use super::Lowering;

impl Lowering<'_> {
    /// The numbers from the first of three stored floats to the second, by the third.
    pub(super) fn stored_range(&mut self, of: [&str; 3], output: &str) -> Option<()> {
        let stored = |name: &str| {
            let t = self.constants.get(name).filter(|t| t.data_type == DataType::Float as i32)?;
            numbers(t)?.first().copied().map(f64::from)
        };
        let [start, limit, step] = [stored(of[0])?, stored(of[1])?, stored(of[2])?];
        let count = ((limit - start) / step).ceil().max(0.0);
        if !count.is_finite() || count * 4.0 > MAX_MADE_BYTES as f64 {
            return None;
        }
        let values: Vec<f32> = (0..count as usize).map(|i| (start + i as f64 * step) as f32).collect();
        let name = self.fresh();
        self.initializers.push(float_tensor(name.clone(), &values, &[values.len() as i64]));
        self.rename(&name, output)
    }
}
