//! Convolutions as matrix products: their shapes, which input each tap of the kernel reads, and the columns that lay it out (im2col).

use std::ops::Range;

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, Deconv, KernelFormat, PoolSpec};
use tract_core::ops::nn::DataFormat;

/// Shapes of a convolution over up to three spatial axes; absent leading axes are 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    pub batch: usize,
    pub input: usize,
    pub output: usize,
    pub groups: usize,
    pub in_size: [usize; 3],
    pub out_size: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub pad_before: [usize; 3],
}

/// One kernel tap along one axis: outputs `from..to` read input `from·stride + offset …`.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub from: usize,
    pub to: usize,
    /// Input position read by output `from`.
    pub start: usize,
    pub stride: usize,
}

impl ConvShape {
    /// Shapes of a convolution of `x`, or why it is none of these.
    pub fn of_conv(op: &Conv, x: &[usize]) -> Result<ConvShape, String> {
        let spec = &op.pool_spec;
        let x = &channels_first(spec, op.kernel_fmt, x)?;
        let padding = spec.computed_padding(&x[2..]);
        Ok(ConvShape {
            batch: x[0],
            input: spec.input_channels,
            output: spec.output_channels,
            groups: op.group,
            in_size: three(&mut x[2..].iter().copied(), 1),
            out_size: three(&mut padding.iter().map(|p| p.convoluted), 1),
            kernel: three(&mut spec.kernel_shape.iter().copied(), 1),
            stride: three(&mut spec.strides().iter().copied(), 1),
            dilation: three(&mut spec.dilations().iter().copied(), 1),
            pad_before: three(&mut padding.iter().map(|p| p.pad_before), 0),
        })
    }

    /// Shapes of the convolution from `y` to `x` that a transposed convolution from `x` to `y` transposes, or why it is none of these.
    pub fn of_deconv(op: &Deconv, x: &[usize], y: &[usize]) -> Result<ConvShape, String> {
        let spec = &op.pool_spec;
        let (x, y) = (&channels_first(spec, op.kernel_format, x)?, &channels_first(spec, op.kernel_format, y)?);
        let (strides, dilations) = (spec.strides(), spec.dilations());
        let padding = spec
            .padding
            .compute_for_deconv(&x[2..], &spec.kernel_shape, &dilations, &strides, &op.adjustments)
            .map_err(|e| format!("{e:#}"))?;
        Ok(ConvShape {
            batch: x[0],
            input: spec.output_channels,
            output: spec.input_channels,
            groups: op.group,
            in_size: three(&mut y[2..].iter().copied(), 1),
            out_size: three(&mut x[2..].iter().copied(), 1),
            kernel: three(&mut spec.kernel_shape.iter().copied(), 1),
            stride: three(&mut strides.iter().copied(), 1),
            dilation: three(&mut dilations.iter().copied(), 1),
            pad_before: three(&mut padding.iter().map(|p| p.pad_before), 0),
        })
    }

    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
    pub fn in_plane(&self) -> usize {
        self.in_size.iter().product()
    }
    pub fn out_plane(&self) -> usize {
        self.out_size.iter().product()
    }
    /// Values of the kernel.
    pub fn kernel_len(&self) -> usize {
        self.output * self.group_in() * self.taps()
    }
    pub fn group_in(&self) -> usize {
        self.input / self.groups
    }
    pub fn group_out(&self) -> usize {
        self.output / self.groups
    }
    /// One input channel a group, over rows and columns only: three spatial axes take the general way.
    pub fn is_depthwise(&self) -> bool {
        self.group_in() == 1 && self.groups > 1 && self.in_size[0] == 1 && self.out_size[0] == 1
    }
    /// A 1×1 convolution that touches every input position once.
    pub fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.in_size == self.out_size && self.stride == [1; 3] && self.pad_before == [0; 3]
    }

    /// Outputs along `axis` for which tap `k` falls inside the input.
    fn span(&self, axis: usize, k: usize) -> Span {
        let (stride, pad) = (self.stride[axis], self.pad_before[axis]);
        let offset = k * self.dilation[axis];
        let from = if offset >= pad { 0 } else { (pad - offset).div_ceil(stride) };
        // out·stride + offset - pad < in_size
        let limit = (self.in_size[axis] + pad).saturating_sub(offset);
        let to = limit.div_ceil(stride).min(self.out_size[axis]);
        let start = (from * stride + offset).saturating_sub(pad);
        Span { from, to: to.max(from), start, stride }
    }

    /// Calls `row(out_start, in_start, span)` for every row of outputs that tap `tap` reaches; positions are in planes.
    pub fn for_rows(&self, tap: usize, row: impl FnMut(usize, usize, Span)) {
        self.for_rows_within(tap, 0..self.out_plane(), row);
    }

    /// The same for the output positions of `within` only, counted from its start.
    fn for_rows_within(&self, tap: usize, within: Range<usize>, mut row: impl FnMut(usize, usize, Span)) {
        let [_, kh, kw] = self.kernel;
        let (kd, kh, kw) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        let (d, h, w) = (self.span(0, kd), self.span(1, kh), self.span(2, kw));
        let [_, high, long] = self.out_size;
        // Rows of outputs, counted over all planes, that lie within.
        let rows = within.start / long.max(1)..within.end.div_ceil(long.max(1));
        for (od, id) in (d.from..d.to).zip((d.start..).step_by(d.stride)) {
            let first = rows.start.saturating_sub(od * high).clamp(h.from, h.to);
            let last = rows.end.saturating_sub(od * high).clamp(first, h.to);
            for oh in first..last {
                let ih = h.start + (oh - h.from) * h.stride;
                let line = (od * high + oh) * long;
                let from = w.from.max(within.start.saturating_sub(line));
                let to = w.to.min(within.end.saturating_sub(line));
                if from < to {
                    let start = w.start + (from - w.from) * w.stride;
                    let input = (id * self.in_size[1] + ih) * self.in_size[2] + start;
                    row(line + from - within.start, input, Span { from, to, start, ..w });
                }
            }
        }
    }
}

/// Sizes of a tensor with its batch, if the layout is one that this module reads.
fn channels_first(spec: &PoolSpec, kernel: KernelFormat, sizes: &[usize]) -> Result<TVec<usize>, String> {
    if spec.rank() > 3 {
        return Err("it has more than three spatial axes".into());
    }
    match spec.data_format {
        DataFormat::NCHW if kernel == KernelFormat::OIHW => Ok(sizes.into()),
        DataFormat::CHW if kernel == KernelFormat::OIHW => Ok([&[1][..], sizes].concat().into()),
        other => Err(format!("its layout is {other:?}, not channels first")),
    }
}

/// Spatial axes are right-aligned in three; the missing leading ones are `fill`.
fn three(values: &mut dyn Iterator<Item = usize>, fill: usize) -> [usize; 3] {
    let values: Vec<usize> = values.collect();
    let mut out = [fill; 3];
    out[3 - values.len()..].copy_from_slice(&values);
    out
}

/// Values of columns that are laid out at once, but never fewer than a channel's at these positions: more would only leave the cache.
const LAID_OUT: usize = 1 << 19;
const POSITIONS: usize = 64;
/// Values of columns that the runtime may lay out at once, 4 MiB. Below, its products of a whole batch are faster than blocks of it (0.15 ms
/// for 0.26, an activity model); above, blocks are (27 ms for 36, a picture model of nine layers).
const AT_ONCE: usize = 1 << 20;

impl ConvShape {
    /// Whether the columns of a convolution of a whole batch, or those of its transpose, are many.
    pub fn has_many_columns(&self) -> bool {
        self.batch * self.input * self.taps() * self.out_plane() > AT_ONCE
    }

    /// The same of the convolution from the output to the input, with the kernel the other way round.
    pub fn has_many_columns_backwards(&self) -> bool {
        self.batch * self.output * self.taps() * self.in_plane() > AT_ONCE
    }

    /// How many input channels of a group and output positions have their columns laid out at once.
    pub fn block(&self) -> (usize, usize) {
        let (channels, positions) = (self.group_in().max(1), self.out_plane().max(1));
        let fewest = positions.min(POSITIONS);
        let channels = (LAID_OUT / (self.taps() * fewest)).clamp(1, channels);
        (channels, (LAID_OUT / (channels * self.taps())).clamp(fewest, positions))
    }

    /// Values of columns that blocks aim at.
    pub fn block_target(&self) -> usize {
        LAID_OUT
    }

    /// Values of columns in a block.
    pub fn block_len(&self) -> usize {
        let (channels, positions) = self.block();
        channels * self.taps() * positions
    }
}

/// Lays out what the output positions `within` read of the planes `x: [channels, P]` as `[channels, taps, Q]`, rows `stride` apart; zeros
/// where they read padding.
pub(crate) fn columns(s: &ConvShape, x: &[f32], within: Range<usize>, into: &mut [f32], stride: usize) {
    let taps = s.taps();
    for (c, from) in x.chunks_exact(s.in_plane().max(1)).enumerate() {
        for tap in 0..taps {
            let into = &mut into[(c * taps + tap) * stride..][..within.len()];
            into.fill(0.0);
            s.for_rows_within(tap, within.clone(), |o, i, w| gather(into, o, from, i, w));
        }
    }
}

/// Adds columns to where their numbers were read: the transpose of [`columns`].
pub(crate) fn add_columns(s: &ConvShape, columns: &[f32], within: Range<usize>, x: &mut [f32], stride: usize) {
    let taps = s.taps();
    for (c, into) in x.chunks_exact_mut(s.in_plane().max(1)).enumerate() {
        for tap in 0..taps {
            let from = &columns[(c * taps + tap) * stride..][..within.len()];
            s.for_rows_within(tap, within.clone(), |o, i, w| scatter_add(into, i, from, o, w));
        }
    }
}

fn gather(into: &mut [f32], o: usize, from: &[f32], i: usize, w: Span) {
    let n = w.to - w.from;
    let out = &mut into[o..o + n];
    if w.stride == 1 {
        out.copy_from_slice(&from[i..i + n]);
    } else {
        out.iter_mut().zip(from[i..].iter().step_by(w.stride)).for_each(|(y, x)| *y = *x);
    }
}

pub(crate) fn gather_add(into: &mut [f32], o: usize, from: &[f32], i: usize, w: Span) {
    let n = w.to - w.from;
    let out = &mut into[o..o + n];
    if w.stride == 1 {
        out.iter_mut().zip(&from[i..i + n]).for_each(|(y, x)| *y += x);
    } else {
        out.iter_mut().zip(from[i..].iter().step_by(w.stride)).for_each(|(y, x)| *y += x);
    }
}

pub(crate) fn scatter_add(into: &mut [f32], i: usize, from: &[f32], o: usize, w: Span) {
    let from = &from[o..o + w.to - w.from];
    if w.stride == 1 {
        into[i..i + from.len()].iter_mut().zip(from).for_each(|(y, x)| *y += x);
    } else {
        into[i..].iter_mut().step_by(w.stride).zip(from).for_each(|(y, x)| *y += x);
    }
}
