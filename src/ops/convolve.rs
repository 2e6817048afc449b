//! Convolutions whose frozen kernel stays narrow, and their transposes, as products with columns: a panel of the kernel is widened at a time,
//! used for as many columns as are laid out, and forgotten. Both directions read the one copy of the kernel.

use std::ops::Range;

use tract_core::internal::*;

use super::packed::Packed;
use crate::linalg::{MatMut, MatRef, gemm};
use crate::ops::floats;
use crate::ops::im2col::{ConvShape, add_columns, columns};

/// `(x, bias) → W ⋆ x + bias`, or with the transposed convolution. The bias is a number for each channel of the result, or one for all.
#[derive(Debug, Clone)]
pub(crate) struct Convolve {
    /// Of the convolution; a transposed one goes from its output to its input.
    pub shape: ConvShape,
    /// `[output, input/groups, taps]`.
    pub kernel: Arc<Packed>,
    pub transposed: bool,
    /// Shape of the result.
    pub to: TVec<usize>,
}

impl PartialEq for Convolve {
    fn eq(&self, other: &Convolve) -> bool {
        let same = |o: &Convolve| self.shape == o.shape && self.transposed == o.transposed && self.to == o.to;
        same(other) && (Arc::ptr_eq(&self.kernel, &other.kernel) || self.kernel == other.kernel)
    }
}

impl Eq for Convolve {}

/// Values of a kernel that are widened at once, but never fewer than these rows: a product packs all columns for every panel.
const PANEL: usize = 1 << 15;
const ROWS: usize = 64;
/// Values of columns that are laid out at once, but never fewer than these positions.
const COLUMNS: usize = 1 << 19;
const POSITIONS: usize = 64;

impl Convolve {
    /// Rows of a group's kernel, and values of a row.
    fn kernel_size(&self) -> (usize, usize) {
        (self.shape.group_out(), self.shape.group_in() * self.shape.taps())
    }

    /// Whether `kernel` has as many values as `shape` says.
    pub fn fits(shape: &ConvShape, kernel: &Packed) -> bool {
        shape.output * shape.group_in() * shape.taps() == kernel.len()
    }

    /// Calls `work(images, positions, columns)` for parts of the positions, with room for the columns of each image's.
    fn in_parts(
        &self,
        mut work: impl FnMut(Range<usize>, Range<usize>, &mut [f32]) -> TractResult<()>,
    ) -> TractResult<()> {
        let (all, (_, row)) = (self.shape.out_plane(), self.kernel_size());
        let positions = (COLUMNS / row).max(POSITIONS).min(all).max(1);
        let images = (COLUMNS / (row * positions)).clamp(1, self.shape.batch.max(1));
        let mut columns = vec![0f32; images * positions * row];
        for start in (0..self.shape.batch).step_by(images) {
            for from in (0..all).step_by(positions) {
                let (images, positions) =
                    (start..(start + images).min(self.shape.batch), from..(from + positions).min(all));
                let size = images.len() * positions.len() * row;
                work(images, positions, &mut columns[..size])?;
            }
        }
        Ok(())
    }

    /// Calls `work(first row, panel)` for panels of group `g`'s kernel.
    fn panels(&self, g: usize, mut work: impl FnMut(usize, &[f32]) -> TractResult<()>) -> TractResult<()> {
        let (rows, row) = self.kernel_size();
        let step = (PANEL / row).max(ROWS).min(rows);
        let mut panel = vec![0f32; step * row];
        for start in (0..rows).step_by(step) {
            let panel = &mut panel[..step.min(rows - start) * row];
            let at = (g * rows + start) * row;
            self.kernel.widen(at..at + panel.len(), panel);
            work(start, panel)?;
        }
        Ok(())
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) -> TractResult<()> {
        let (s, (rows, row)) = (&self.shape, self.kernel_size());
        let (ip, op, channels) = (s.in_plane(), s.out_plane(), s.group_in());
        self.in_parts(|images, positions, laid_out| {
            let (len, size) = (positions.len(), positions.len() * row);
            for g in 0..s.groups {
                for (n, columns_of) in images.clone().zip(laid_out.chunks_exact_mut(size)) {
                    let x = &x[(n * s.groups + g) * channels * ip..][..channels * ip];
                    columns(s, x, positions.clone(), columns_of);
                }
                self.panels(g, |first, panel| {
                    let lines = panel.len() / row;
                    let kernel = MatRef::new(panel, lines, row, row, 1)?;
                    for (n, columns) in images.clone().zip(laid_out.chunks_exact(size)) {
                        let y = &mut y[((n * s.groups + g) * rows + first) * op + positions.start..];
                        let (columns, y) =
                            (MatRef::new(columns, row, len, len, 1)?, MatMut::new(y, lines, len, op, 1)?);
                        gemm(1.0, kernel, columns, 1.0, y)?;
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })
    }

    /// From the convolution's output to its input.
    fn backward(&self, y: &[f32], x: &mut [f32]) -> TractResult<()> {
        let (s, (rows, row)) = (&self.shape, self.kernel_size());
        let (ip, op, channels) = (s.in_plane(), s.out_plane(), s.group_in());
        self.in_parts(|images, positions, laid_out| {
            let (len, size) = (positions.len(), positions.len() * row);
            for g in 0..s.groups {
                self.panels(g, |first, panel| {
                    let lines = panel.len() / row;
                    let kernel = MatRef::new(panel, row, lines, 1, row)?;
                    for (n, columns) in images.clone().zip(laid_out.chunks_exact_mut(size)) {
                        let y = &y[((n * s.groups + g) * rows + first) * op + positions.start..];
                        let y = MatRef::new(y, lines, len, op, 1)?;
                        let columns = MatMut::new(columns, row, len, len, 1)?;
                        gemm(1.0, kernel, y, if first > 0 { 1.0 } else { 0.0 }, columns)?;
                    }
                    Ok(())
                })?;
                for (n, columns) in images.clone().zip(laid_out.chunks_exact(size)) {
                    let x = &mut x[(n * s.groups + g) * channels * ip..][..channels * ip];
                    add_columns(s, columns, positions.clone(), x);
                }
            }
            Ok(())
        })
    }
}

impl Op for Convolve {
    fn name(&self) -> StaticName {
        "Convolve".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Convolve {
    op_out_of_plan!();
    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, bias) = (floats(&inputs[0])?, floats(&inputs[1])?);
        let s = &self.shape;
        let (channels, plane) = if self.transposed { (s.input, s.in_plane()) } else { (s.output, s.out_plane()) };
        let (from, positions) = if self.transposed { (s.output, s.out_plane()) } else { (s.input, s.in_plane()) };
        ensure!(x.len() == s.batch * from * positions, "a convolution of {} values", x.len());
        ensure!(bias.len() == 1 || bias.len() == channels, "{} biases for {channels} channels", bias.len());
        let mut result = Tensor::zero::<f32>(&self.to)?;
        ensure!(result.len() == s.batch * channels * plane, "a convolution to {:?}", self.to);
        {
            let mut plain = result.try_as_plain_ram_mut()?;
            let y = plain.as_slice_mut::<f32>()?;
            for (i, y) in y.chunks_exact_mut(plane.max(1)).enumerate() {
                y.fill(bias[(i % channels).min(bias.len() - 1)]);
            }
            if self.transposed { self.backward(x, y)? } else { self.forward(x, y)? }
        }
        Ok(tvec!(result.into_tvalue()))
    }
}

impl TypedOp for Convolve {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 2, "a convolution takes x and a bias");
        Ok(tvec!(f32::fact(&self.to)))
    }
    as_op!();
}
