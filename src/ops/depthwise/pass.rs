//! A convolution of eight planes, or the gradient of its input: every value is a weighted sum of some of another plane.

use super::rows::{Rows, kept};
use super::{Block, BlockMut, Planes, Reads};
use crate::linalg::eight::{Aligned, Eight, Kernel, LANES, Lanes, loaded, on_vectors};

/// Columns that are read, computed and written before the next ones; a multiple of every usual stride.
const GROUP: usize = 96;
/// Sums that registers hold at a time.
const TILE: usize = 8;

/// Which values of a plane every value of another one is the weighted sum of.
pub(crate) struct Pass {
    from: [usize; 2],
    to: [usize; 2],
    /// Positions of a row that is read, and those of them before its first column.
    width: usize,
    lead: usize,
    /// Rows that are needed at a time.
    span: usize,
    /// Columns `i`, `i + step`, ... of a row that is written are sums over the same taps.
    phases: Vec<Phase>,
    rows: Vec<Row>,
}

struct Phase {
    first: usize,
    /// From a column that is read to that of the next sum.
    stride: usize,
    /// The taps of a row of the kernel: where the first sum reads, and which of the row it is.
    taps: Vec<(usize, usize)>,
    /// The largest of these.
    reach: usize,
}

struct Row {
    /// The last row that is read; none where all is padding.
    last: Option<usize>,
    /// For every phase, where in the kept rows the first sum reads, and the tap.
    taps: Vec<Vec<(u32, u32)>>,
}

/// What is done with the sums.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// What they start from, for every plane.
    pub start: Lanes,
    /// The bounds that they are clipped to.
    pub clip: Option<(f32, f32)>,
    /// Whether they are added to what is there.
    pub add: bool,
}

impl Ends {
    /// Sums that are added to what is there.
    pub const ADDED: Ends = Ends { start: [0.0; LANES], clip: None, add: true };
}

/// Memory for one block at a time.
pub(crate) struct Room {
    rows: Rows,
    /// Sums that are not written yet: fewer than eight, and those of one group of columns.
    sums: Vec<Aligned>,
}

impl Planes {
    /// `y = w ⋆ x`.
    pub fn forward(&self) -> Pass {
        let taps = (0..self.kernel[1]).map(|k| (k * self.dilation[1], k)).collect();
        let phases = vec![(self.stride[1], taps)];
        Pass::new(self, [self.input, self.output], self.pad_before[1], (self.span(), self.reads()), phases)
    }

    /// `dx = w ∗ dy`.
    pub fn input_gradient(&self) -> Pass {
        let ([kernel_rows, kernel_columns], [down, along]) = (self.kernel, self.stride);
        let row = |r: usize| {
            let read = |k: usize| {
                let at = (r + self.pad_before[0]).checked_sub(k * self.dilation[0])?;
                (at % down == 0 && at / down < self.output[0]).then_some((k, at / down))
            };
            (0..kernel_rows).rev().filter_map(read).collect()
        };
        let lead = (kernel_columns - 1) * self.dilation[1] / along + 1;
        let phase = |first: usize| {
            let tap = |k: usize| {
                let at = (first + self.pad_before[1] + lead * along).checked_sub(k * self.dilation[1])?;
                (at % along == 0).then_some((at / along, k))
            };
            (1, (0..kernel_columns).rev().filter_map(tap).collect())
        };
        let span = (kernel_rows - 1) * self.dilation[0] / down + 2;
        let reads = (0..self.input[0]).map(row).collect();
        Pass::new(self, [self.output, self.input], lead, (span, reads), (0..along).map(phase).collect())
    }
}

impl Pass {
    /// `reads` is for every row of `to`, `phases` has the strides and taps.
    fn new(
        planes: &Planes,
        [from, to]: [[usize; 2]; 2],
        lead: usize,
        (span, reads): (usize, Vec<Reads>),
        phases: Vec<(usize, Vec<(usize, usize)>)>,
    ) -> Pass {
        let step = phases.len();
        let phase = |(first, (stride, taps)): (usize, (usize, Vec<(usize, usize)>))| {
            let reach = taps.iter().map(|(at, _)| *at).max().unwrap_or(0);
            Phase { first, stride, taps, reach }
        };
        let phases: Vec<Phase> = phases.into_iter().enumerate().map(phase).collect();
        let ends = phases.iter().map(|p| p.reach + (to[1].div_ceil(step).max(1) - 1) * p.stride + 1);
        let width = ends.max().unwrap_or(0).max(lead + from[1]);
        let kept = kept(from, span);
        let row = |reads: &Reads| {
            let taps = |phase: &Phase| {
                let of_row = |&(k, row): &(usize, usize)| {
                    let (line, first) = (row % kept * width, k * planes.kernel[1]);
                    phase.taps.iter().map(move |(at, tap)| ((line + at) as u32, (first + tap) as u32))
                };
                reads.iter().flat_map(of_row).collect()
            };
            Row { last: reads.last().map(|(_, row)| *row), taps: phases.iter().map(taps).collect() }
        };
        let rows = reads.iter().map(row).collect();
        Pass { from, to, width, lead, span, phases, rows }
    }

    pub fn room(&self) -> Room {
        let rows = Rows::new(self.from, self.span, self.width, self.lead);
        Room { rows, sums: vec![Aligned::ZERO; LANES + self.group()] }
    }

    fn group(&self) -> usize {
        self.to[1].min(GROUP.next_multiple_of(self.phases.len().max(1)))
    }

    /// Computes the planes `y` from the planes `x` with `w`, a tap after the other.
    pub fn run(&self, room: &mut Room, x: Block<'_>, w: &[Aligned], ends: Ends, y: BlockMut<'_>) {
        on_vectors(Run { pass: self, room, x, w, ends, y });
    }
}

struct Run<'a, 'b> {
    pass: &'a Pass,
    room: &'a mut Room,
    x: Block<'b>,
    w: &'a [Aligned],
    ends: Ends,
    y: BlockMut<'b>,
}

impl Kernel for Run<'_, '_> {
    type Result = ();

    #[inline(always)]
    fn run<V: Eight>(mut self) {
        let (pass, room, start) = (self.pass, &mut *self.room, V::load(&self.ends.start));
        let (columns, step, group) = (pass.to[1], pass.phases.len(), pass.group());
        let (mut waiting, mut written) = (0, 0);
        room.rows.restart();
        for row in &pass.rows {
            let mut begin = 0;
            while begin < columns {
                let end = columns.min(begin + group);
                for (phase, taps) in pass.phases.iter().zip(&row.taps) {
                    let (first, last) = (begin / step, (end + step - 1 - phase.first) / step);
                    if first == last {
                        continue;
                    }
                    if let Some(row) = row.last {
                        let column = ((last - 1) * phase.stride + phase.reach).saturating_sub(pass.lead);
                        room.rows.read_to::<V>(&self.x, row, column);
                    }
                    let sums = &mut room.sums[waiting + phase.first..];
                    let work = Tiles { from: room.rows.values(), taps, w: self.w, first, step, start };
                    match phase.stride {
                        1 => work.run::<1>(1, last - first, sums),
                        2 => work.run::<2>(2, last - first, sums),
                        stride => work.run::<0>(stride, last - first, sums),
                    }
                }
                waiting += end - begin;
                let whole = waiting / LANES * LANES;
                for at in (0..whole).step_by(LANES) {
                    write::<V>(room.sums[at..].first_chunk().unwrap(), &self.ends, &mut self.y, written + at);
                }
                room.sums.copy_within(whole..waiting, 0);
                (waiting, written) = (waiting - whole, written + whole);
                begin = end;
            }
        }
        for (at, sums) in room.sums[..waiting].iter().enumerate() {
            for (plane, sum) in sums.0[..self.y.count].iter().enumerate() {
                let y = &mut self.y.values[plane * self.y.size + written + at];
                let sum = self.ends.clip.map_or(*sum, |(low, high)| sum.max(low).min(high));
                *y = if self.ends.add { *y + sum } else { sum };
            }
        }
    }
}

/// Eight positions of each plane, from `at` on.
#[inline(always)]
fn write<V: Eight>(sums: &[Aligned; LANES], ends: &Ends, y: &mut BlockMut<'_>, at: usize) {
    let mut planes = V::transpose(loaded(sums));
    if let Some((low, high)) = ends.clip {
        let (low, high) = (V::splat(low), V::splat(high));
        for plane in &mut planes {
            *plane = plane.max(low).min(high);
        }
    }
    for (i, plane) in planes.iter().enumerate().take(y.count) {
        let y = y.values[i * y.size + at..].first_chunk_mut().unwrap();
        if ends.add { V::load(y).plus(*plane).store(y) } else { plane.store(y) }
    }
}

/// Sums of one phase of a row.
struct Tiles<'a, V> {
    from: &'a [Aligned],
    taps: &'a [(u32, u32)],
    w: &'a [Aligned],
    /// The first of the sums, counted in sums of the phase.
    first: usize,
    /// From one sum to where the next belongs.
    step: usize,
    start: V,
}

impl<V: Eight> Tiles<'_, V> {
    /// Makes `count` sums. `S` is the stride, or 0 for any.
    #[inline(always)]
    fn run<const S: usize>(&self, stride: usize, count: usize, sums: &mut [Aligned]) {
        let tile = count.div_ceil(count.div_ceil(TILE));
        let mut done = 0;
        while done < count {
            let (n, sums) = (tile.min(count - done), &mut sums[done * self.step..]);
            let at = (self.first + done) * stride;
            match n {
                8 => self.tile::<8, S>(at, stride, sums),
                7 => self.tile::<7, S>(at, stride, sums),
                6 => self.tile::<6, S>(at, stride, sums),
                5 => self.tile::<5, S>(at, stride, sums),
                4 => self.tile::<4, S>(at, stride, sums),
                3 => self.tile::<3, S>(at, stride, sums),
                2 => self.tile::<2, S>(at, stride, sums),
                _ => self.tile::<1, S>(at, stride, sums),
            }
            done += n;
        }
    }

    #[inline(always)]
    fn tile<const T: usize, const S: usize>(&self, at: usize, stride: usize, to: &mut [Aligned]) {
        let stride = if S == 0 { stride } else { S };
        let mut sums = [self.start; T];
        for &(from, tap) in self.taps {
            let w = V::load(&self.w[tap as usize].0);
            let x = &self.from[from as usize + at..][..(T - 1) * stride + 1];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = w.multiply_add(V::load(&x[i * stride].0), *sum);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            sum.store(&mut to[i * self.step].0);
        }
    }
}
