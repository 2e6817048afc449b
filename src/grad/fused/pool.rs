//! Pooling windows, backwards.

use tract_core::internal::*;

use super::backward_op;
use crate::ops::floats;

/// Pooling windows over planes of up to three spatial axes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Windows {
    pub planes: usize,
    pub in_size: [usize; 3],
    pub out_size: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub pad_before: [usize; 3],
    /// Sizes with the padding that an average counts: with ONNX's ceil mode the last window may run past it.
    pub counted: [usize; 3],
}

impl Windows {
    fn in_plane(&self) -> usize {
        self.in_size.iter().product()
    }
    fn out_plane(&self) -> usize {
        self.out_size.iter().product()
    }

    /// Positions in the input plane that the window of output `q` reads, and how many taps fall in the padding that is counted.
    fn window(&self, q: usize, read: &mut Vec<usize>) -> usize {
        let [_, oh, ow] = self.out_size;
        let q = [q / (oh * ow), q / ow % oh, q % ow];
        read.clear();
        let mut outside = 0;
        for kd in 0..self.kernel[0] {
            for kh in 0..self.kernel[1] {
                for kw in 0..self.kernel[2] {
                    let mut p = 0;
                    let (mut inside, mut counted) = (true, true);
                    for (ax, k) in [kd, kh, kw].into_iter().enumerate() {
                        let at = q[ax] * self.stride[ax] + k * self.dilation[ax];
                        counted &= at < self.counted[ax];
                        inside &= at >= self.pad_before[ax] && at - self.pad_before[ax] < self.in_size[ax];
                        p = p * self.in_size[ax] + at.wrapping_sub(self.pad_before[ax]).min(self.in_size[ax] - 1);
                    }
                    if inside {
                        read.push(p)
                    } else if counted {
                        outside += 1
                    }
                }
            }
        }
        outside
    }
}

/// `(x, dy) → dx`: each `dy` goes to the first largest value of its window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MaxPoolBackward {
    pub windows: Windows,
}

backward_op!(MaxPoolBackward, 0);

impl EvalOp for MaxPoolBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, dy) = args_2!(inputs);
        let w = &self.windows;
        let (ip, op) = (w.in_plane(), w.out_plane());
        let (xs, dys) = (floats(&x)?, floats(&dy)?);
        let mut dx = vec![0f32; xs.len()];
        let mut read = vec![];
        for q in 0..op {
            w.window(q, &mut read);
            for plane in 0..w.planes {
                let at = plane * ip;
                // The first of equal values wins.
                let best = read.iter().copied().reduce(|a, b| if xs[at + b] > xs[at + a] { b } else { a });
                if let Some(best) = best {
                    dx[at + best] += dys[plane * op + q];
                }
            }
        }
        Ok(tvec!(Tensor::from_shape(x.shape(), &dx)?.into_tvalue()))
    }
}

/// `dy → dx`: each `dy` goes to its whole window, divided by its size where the forward operator averaged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SumPoolBackward {
    pub windows: Windows,
    pub input: TVec<usize>,
    pub normalize: bool,
    pub count_include_pad: bool,
}

impl Op for SumPoolBackward {
    fn name(&self) -> StaticName {
        "SumPoolBackward".into()
    }
    op_as_typed_op!();
}

impl TypedOp for SumPoolBackward {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.input)))
    }
    as_op!();
}

impl EvalOp for SumPoolBackward {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let dy = args_1!(inputs);
        let w = &self.windows;
        let (ip, op) = (w.in_plane(), w.out_plane());
        let dys = floats(&dy)?;
        let mut dx = vec![0f32; w.planes * ip];
        let mut read = vec![];
        for q in 0..op {
            let outside = w.window(q, &mut read);
            let count = read.len() + if self.count_include_pad { outside } else { 0 };
            let share = if self.normalize { 1.0 / count.max(1) as f32 } else { 1.0 };
            for plane in 0..w.planes {
                let d = dys[plane * op + q] * share;
                read.iter().for_each(|p| dx[plane * ip + p] += d);
            }
        }
        Ok(tvec!(Tensor::from_shape(&self.input, &dx)?.into_tvalue()))
    }
}
