//! The gradient of a depthwise kernel, for eight planes: `dw[tap] += Σ dy[q]·x[q at that tap]`.

use super::rows::Rows;
use super::{Block, Planes, Reads};
use crate::linalg::eight::{Aligned, Eight, Kernel, on_vectors};

/// Columns of the output that are read and summed before the next ones.
const GROUP: usize = 64;

/// Which values of two planes the gradient of a kernel multiplies.
pub(crate) struct KernelGradient {
    planes: Planes,
    /// Positions of a row of the input, with its padding.
    width: usize,
    /// For every row of the output.
    reads: Vec<Reads>,
}

/// Memory for one block at a time.
pub(crate) struct Room {
    x: Rows,
    dy: Rows,
}

impl Planes {
    pub fn kernel_gradient(&self) -> KernelGradient {
        let reach = self.output[1].saturating_sub(1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1;
        let width = reach.max(self.pad_before[1] + self.input[1]);
        KernelGradient { planes: *self, width, reads: self.reads() }
    }
}

impl KernelGradient {
    pub fn room(&self) -> Room {
        Room {
            x: Rows::new(self.planes.input, self.planes.span(), self.width, self.planes.pad_before[1]),
            dy: Rows::new(self.planes.output, 1, self.planes.output[1], 0),
        }
    }

    /// Adds the gradient from the input planes `x` and the gradients `dy` of their outputs to `dw`, a tap after the
    /// other.
    pub fn add(&self, room: &mut Room, x: Block<'_>, dy: Block<'_>, dw: &mut [Aligned]) {
        on_vectors(Add { gradient: self, room, x, dy, dw });
    }
}

struct Add<'a, 'b> {
    gradient: &'a KernelGradient,
    room: &'a mut Room,
    x: Block<'b>,
    dy: Block<'b>,
    dw: &'a mut [Aligned],
}

impl Kernel for Add<'_, '_> {
    type Result = ();

    #[inline(always)]
    fn run<V: Eight>(self) {
        let (planes, room) = (&self.gradient.planes, self.room);
        let (columns, [_, stride], [_, dilation]) = (planes.output[1], planes.stride, planes.dilation);
        room.x.restart();
        room.dy.restart();
        for (row, reads) in self.gradient.reads.iter().enumerate() {
            let Some((_, last)) = reads.last() else { continue };
            for begin in (0..columns).step_by(GROUP) {
                let count = GROUP.min(columns - begin);
                room.dy.read_to::<V>(&self.dy, row, begin + count - 1);
                let reach = (begin + count - 1) * stride + (planes.kernel[1] - 1) * dilation;
                room.x.read_to::<V>(&self.x, *last, reach.saturating_sub(planes.pad_before[1]));
                let dy = &room.dy.values()[room.dy.line(row) + begin..][..count];
                for &(k, from) in reads {
                    let x = &room.x.values()[room.x.line(from) + begin * stride..];
                    let dw = &mut self.dw[k * planes.kernel[1]..][..planes.kernel[1]];
                    match stride {
                        1 => line::<V, 1>(dy, x, (1, dilation), dw),
                        2 => line::<V, 2>(dy, x, (2, dilation), dw),
                        _ => line::<V, 0>(dy, x, (stride, dilation), dw),
                    }
                }
            }
        }
    }
}

/// Adds the sums of a row of the kernel. `S` is the stride, or 0 for any.
#[inline(always)]
fn line<V: Eight, const S: usize>(
    dy: &[Aligned],
    x: &[Aligned],
    (stride, dilation): (usize, usize),
    dw: &mut [Aligned],
) {
    let mut done = 0;
    while done < dw.len() {
        let (x, rest) = (&x[done * dilation..], dw.len() - done);
        let n = if rest == 6 { 3 } else { rest.min(5) };
        let dw = &mut dw[done..][..n];
        match n {
            5 => taps::<V, 5, S>(dy, x, (stride, dilation), dw),
            4 => taps::<V, 4, S>(dy, x, (stride, dilation), dw),
            3 => taps::<V, 3, S>(dy, x, (stride, dilation), dw),
            2 => taps::<V, 2, S>(dy, x, (stride, dilation), dw),
            _ => taps::<V, 1, S>(dy, x, (stride, dilation), dw),
        }
        done += n;
    }
}

/// Two sums a tap, of even and of odd columns, so that a multiplication does not wait for the one before.
#[inline(always)]
fn taps<V: Eight, const T: usize, const S: usize>(
    dy: &[Aligned],
    x: &[Aligned],
    (stride, dilation): (usize, usize),
    dw: &mut [Aligned],
) {
    let stride = if S == 0 { stride } else { S };
    let x: [&[Aligned]; T] = std::array::from_fn(|tap| &x[tap * dilation..][..(dy.len() - 1) * stride + 1]);
    let mut sums = [[V::splat(0.0); T]; 2];
    let mut pairs = dy.chunks_exact(2);
    let mut at = 0;
    for pair in &mut pairs {
        for (dy, sums) in pair.iter().zip(&mut sums) {
            let dy = V::load(&dy.0);
            for tap in 0..T {
                sums[tap] = dy.multiply_add(V::load(&x[tap][at].0), sums[tap]);
            }
            at += stride;
        }
    }
    if let [dy] = pairs.remainder() {
        let dy = V::load(&dy.0);
        for tap in 0..T {
            sums[0][tap] = dy.multiply_add(V::load(&x[tap][at].0), sums[0][tap]);
        }
    }
    for (tap, dw) in dw.iter_mut().enumerate() {
        V::load(&dw.0).plus(sums[0][tap].plus(sums[1][tap])).store(&mut dw.0);
    }
}
