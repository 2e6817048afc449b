//! Convolutions with a frozen kernel, and their transposes, as products with columns: a block of channels and positions is laid out at a time,
//! so that no more is held than the operands, the result and that block. A kernel that stays narrow is widened a panel at a time. Both directions
//! read the one copy of the kernel.

use std::ops::Range;

use tract_core::internal::*;

use super::packed::Packed;
use crate::linalg::{MatMut, MatRef, gemm};
use crate::ops::floats;
use crate::ops::im2col::{ConvShape, add_columns, columns};

/// A frozen kernel, `[output, input/groups, taps]`.
#[derive(Debug, Clone)]
pub(crate) enum Kernel {
    Narrow(Arc<Packed>),
    Plain(Arc<Tensor>),
}

impl Kernel {
    /// Whether it is stored in fewer bits than floats have.
    pub fn is_narrow(&self) -> bool {
        matches!(self, Kernel::Narrow(_))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Kernel::Narrow(packed) => packed.len(),
            Kernel::Plain(tensor) => tensor.len(),
        }
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        match (self, other) {
            (Kernel::Narrow(a), Kernel::Narrow(b)) => Arc::ptr_eq(a, b) || a == b,
            (Kernel::Plain(a), Kernel::Plain(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }
}

/// `(x, bias) → W ⋆ x + bias`, or with the transposed convolution. The bias is a number for each channel of the result, or one for all.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Convolve {
    /// Of the convolution; a transposed one goes from its output to its input.
    pub shape: ConvShape,
    pub kernel: Kernel,
    pub transposed: bool,
    /// Shape of the result.
    pub to: TVec<usize>,
}

impl Eq for Convolve {}

/// Values of a kernel that are widened at once, but never fewer than these rows: a product packs all columns for every panel.
const PANEL: usize = 1 << 15;
const ROWS: usize = 64;

/// Images, a group of their channels and some of their positions, taken at once: one image, or several whole ones.
#[derive(Clone)]
struct Part {
    images: Range<usize>,
    positions: Range<usize>,
    group: usize,
}

impl Part {
    /// Columns of the part's matrices.
    fn width(&self) -> usize {
        self.images.len() * self.positions.len()
    }
}

impl Convolve {
    /// Rows of a group's kernel, and values of a row.
    fn kernel_size(&self) -> (usize, usize) {
        (self.shape.group_out(), self.shape.group_in() * self.shape.taps())
    }

    /// Whether `kernel` has as many values as `shape` says.
    pub fn fits(shape: &ConvShape, kernel: &Kernel) -> bool {
        shape.kernel_len() == kernel.len()
    }

    /// Images whose columns are laid out side by side.
    fn images(&self) -> usize {
        let whole = self.shape.block().1 == self.shape.out_plane();
        let fit = self.shape.block_target() / self.shape.block_len().max(1);
        if whole { fit.clamp(1, self.shape.batch.max(1)) } else { 1 }
    }

    /// Bytes beside operands and result that a run holds.
    pub fn scratch(&self) -> u64 {
        let images = self.images();
        let sides = if images > 1 { images * self.shape.out_plane() * self.shape.group_out() } else { 0 };
        let (rows, row) = self.kernel_size();
        let panel = match self.kernel {
            Kernel::Narrow(_) => (PANEL / row.max(1)).max(ROWS).min(rows) * row,
            Kernel::Plain(_) => 0,
        };
        4 * (images * self.shape.block_len() + sides + panel) as u64
    }

    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let (batch, groups, all) = (self.shape.batch, self.shape.groups, self.shape.out_plane());
        let (images, (_, positions)) = (self.images(), self.shape.block());
        let ranges = |n: usize, step: usize| (0..n).step_by(step).map(move |i| i..(i + step).min(n));
        ranges(batch, images).flat_map(move |images| {
            ranges(all, positions).flat_map(move |positions| {
                let images = images.clone();
                (0..groups).map(move |group| Part { images: images.clone(), positions: positions.clone(), group })
            })
        })
    }

    /// Blocks of a group's channels, each with room for its columns.
    fn channels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, all) = (self.shape.block().0, self.shape.group_in());
        (0..all).step_by(step).map(move |c| c..(c + step).min(all))
    }

    /// Calls `work(first row, kernel rows)` with the values of `channels` of group `g`'s kernel.
    fn panels(
        &self,
        g: usize,
        channels: &Range<usize>,
        mut work: impl FnMut(usize, MatRef<'_>) -> TractResult<()>,
    ) -> TractResult<()> {
        let (rows, row) = self.kernel_size();
        let (from, len) = (channels.start * self.shape.taps(), channels.len() * self.shape.taps());
        let packed = match &self.kernel {
            Kernel::Plain(tensor) => {
                return work(0, MatRef::new(&floats(tensor)?[g * rows * row + from..], rows, len, row, 1)?);
            }
            Kernel::Narrow(packed) => packed,
        };
        let step = (PANEL / len).max(ROWS).min(rows);
        let mut panel = vec![0f32; step * len];
        for start in (0..rows).step_by(step) {
            let lines = step.min(rows - start);
            if len == row {
                let at = (g * rows + start) * row;
                packed.widen(at..at + lines * row, &mut panel[..lines * row]);
            } else {
                for (line, values) in panel.chunks_exact_mut(len).take(lines).enumerate() {
                    let at = (g * rows + start + line) * row + from;
                    packed.widen(at..at + len, values);
                }
            }
            work(start, MatRef::row_major(&panel, lines, len)?)?;
        }
        Ok(())
    }

    /// The planes of `channels` of image `n`.
    fn planes(&self, n: usize, g: usize, channels: &Range<usize>) -> Range<usize> {
        let (plane, first) = (self.shape.in_plane(), (n * self.shape.groups + g) * self.shape.group_in());
        (first + channels.start) * plane..(first + channels.end) * plane
    }

    /// Where row `o` of image `n` of a part lies in the convolution's output.
    fn line(&self, part: &Part, n: usize, o: usize) -> Range<usize> {
        let at = ((n * self.shape.groups + part.group) * self.shape.group_out() + o) * self.shape.out_plane();
        at + part.positions.start..at + part.positions.end
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) -> TractResult<()> {
        let (s, (rows, _)) = (&self.shape, self.kernel_size());
        let (taps, plane) = (s.taps(), s.out_plane());
        let mut laid_out = vec![0f32; self.images() * s.block_len()];
        let mut sides = vec![];
        for part in self.parts() {
            let (len, width) = (part.positions.len(), part.width());
            let one = part.images.len() == 1;
            sides.clear();
            sides.resize(if one { 0 } else { rows * width }, 0f32);
            for channels in self.channels() {
                let lines = channels.len() * taps;
                for (ix, n) in part.images.clone().enumerate() {
                    let x = &x[self.planes(n, part.group, &channels)];
                    columns(s, x, part.positions.clone(), &mut laid_out[ix * len..], width);
                }
                let columns = MatRef::row_major(&laid_out, lines, width)?;
                self.panels(part.group, &channels, |first, kernel| {
                    let lines = kernel.dim().0;
                    let y = if one {
                        let at = self.line(&part, part.images.start, first).start;
                        MatMut::new(&mut y[at..], lines, width, plane, 1)?
                    } else {
                        MatMut::row_major(&mut sides[first * width..], lines, width)?
                    };
                    Ok(gemm(1.0, kernel, columns, 1.0, y)?)
                })?;
            }
            for (line, o) in sides.chunks_exact(width).zip(0..rows) {
                for (from, n) in line.chunks_exact(len).zip(part.images.clone()) {
                    let y = &mut y[self.line(&part, n, o)];
                    y.iter_mut().zip(from).for_each(|(y, v)| *y += v);
                }
            }
        }
        Ok(())
    }

    /// From the convolution's output to its input.
    fn backward(&self, y: &[f32], x: &mut [f32]) -> TractResult<()> {
        let (s, (rows, _)) = (&self.shape, self.kernel_size());
        let (taps, plane) = (s.taps(), s.out_plane());
        let mut laid_out = vec![0f32; self.images() * s.block_len()];
        let mut sides = vec![];
        for part in self.parts() {
            let (len, width) = (part.positions.len(), part.width());
            let one = part.images.len() == 1;
            sides.clear();
            if !one {
                for o in 0..rows {
                    part.images.clone().for_each(|n| sides.extend_from_slice(&y[self.line(&part, n, o)]));
                }
            }
            for channels in self.channels() {
                let lines = channels.len() * taps;
                self.panels(part.group, &channels, |first, kernel| {
                    let rows = kernel.dim().0;
                    let y = if one {
                        let at = self.line(&part, part.images.start, first).start;
                        MatRef::new(&y[at..], rows, width, plane, 1)?
                    } else {
                        MatRef::row_major(&sides[first * width..], rows, width)?
                    };
                    let beta = if first > 0 { 1.0 } else { 0.0 };
                    Ok(gemm(1.0, kernel.t(), y, beta, MatMut::row_major(&mut laid_out, lines, width)?)?)
                })?;
                for (ix, n) in part.images.clone().enumerate() {
                    let x = &mut x[self.planes(n, part.group, &channels)];
                    add_columns(s, &laid_out[ix * len..], part.positions.clone(), x, width);
                }
            }
        }
        Ok(())
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
    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let s = &self.shape;
        let all = s.batch * s.output * s.out_plane() * s.group_in() * s.taps();
        Ok(tvec!((Cost::FMA(f32::datum_type()), all.to_dim())))
    }
    as_op!();
}
