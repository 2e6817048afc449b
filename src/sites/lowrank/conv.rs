//! Convolutions, in one of two ways, whichever moves less. Per example and group, with `X: [in, P]` the input planes:
//!
//! - *shift*: the product with `A` is taken at every input position for all taps of the kernel at once (`r·taps`
//!   rows), and only those few channels are shifted into place: `P[tap, r, p] = Σ_c A[r, c, tap]·X[c, p]`, `T[r, q] =
//!   Σ_tap P[tap, r, p(q, tap)]`, `Y += B·T`;
//! - *columns* (im2col): what each output position reads is laid out, `C[c, tap, q] = X[c, p(q, tap)]`, and `T = A·C`.
//!   Less to move where the input has few channels or the stride is large: a picture's first layer, a filter bank over
//!   sound.
//!
//! Either way a block is moved at a time: some taps, or some channels and positions.

use super::Gradients;
use std::ops::Range;

use super::mat::{gemm, mat, mat_mut, part, part_mut, product};
use crate::ops::im2col::{ConvShape, Span, add_columns, columns, gather_add};

/// How a convolution is computed, see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing moves: each position is a product of its own.
    Pointwise,
    Columns,
    Shift,
}

impl ConvShape {
    /// The way that moves less.
    fn way(&self, rank: usize) -> Way {
        if self.is_pointwise() {
            Way::Pointwise
        } else if self.group_in() * self.out_plane() < rank * self.in_plane() {
            Way::Columns
        } else {
            Way::Shift
        }
    }

    /// Taps that are shifted at once: their `r` channels are about as large as the input planes.
    fn taps_at_once(&self, rank: usize) -> usize {
        let room = (self.group_in() * self.in_plane()).max(self.block_target());
        (room / (rank * self.in_plane()).max(1)).clamp(1, self.taps())
    }

    /// Numbers that are moved at once, for one example and group.
    fn moved(&self, rank: usize, way: Way) -> usize {
        match way {
            Way::Pointwise => 0,
            Way::Columns => self.block_len(),
            Way::Shift => self.taps_at_once(rank) * rank * self.in_plane(),
        }
    }

    /// Blocks of positions and channels, in which columns are laid out.
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let ((channels, positions), all) = (self.block(), (self.group_in(), self.out_plane()));
        let ranges = |n: usize, step: usize| (0..n).step_by(step).map(move |i| i..(i + step).min(n));
        ranges(all.1, positions).flat_map(move |p| ranges(all.0, channels).map(move |c| (p.clone(), c)))
    }

    /// Blocks of taps, which are shifted together.
    fn tap_blocks(&self, rank: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, taps) = (self.taps_at_once(rank), self.taps());
        (0..taps).step_by(step).map(move |t| t..(t + step).min(taps))
    }

    /// Values beside operands and results that a low-rank product holds.
    pub(super) fn conv_scratch(&self, rank: usize) -> usize {
        self.moved(rank, self.way(rank)) + rank * self.out_plane()
    }

    /// `A` reordered from `[r, in/groups, taps]` to `[taps, r, in/groups]`.
    fn taps_first(&self, rank: usize, a: &[f32]) -> Vec<f32> {
        let (taps, c) = (self.taps(), self.group_in());
        let mut out = vec![0f32; a.len()];
        for r in 0..rank {
            for ci in 0..c {
                for t in 0..taps {
                    out[(t * rank + r) * c + ci] = a[(r * c + ci) * taps + t];
                }
            }
        }
        out
    }

    /// Adds a gradient in `[taps, r, in/groups]` order to one in `A`'s order.
    fn add_taps_last(&self, rank: usize, from: &[f32], into: &mut [f32]) {
        let (taps, c) = (self.taps(), self.group_in());
        for r in 0..rank {
            for ci in 0..c {
                for t in 0..taps {
                    into[(r * c + ci) * taps + t] += from[(t * rank + r) * c + ci];
                }
            }
        }
    }
}

pub(super) fn forward((s, r): (&ConvShape, usize), x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, ci, co, taps) = (s.in_plane(), s.out_plane(), s.group_in(), s.group_out(), s.taps());
    let way = s.way(r);
    let taps_a = s.taps_first(r, a);
    let mut t = vec![0f32; s.batch * s.groups * r * op];
    let mut moved = vec![0f32; s.moved(r, way)];
    for ng in 0..s.batch * s.groups {
        let g = ng % s.groups;
        let x = &x[ng * ci * ip..(ng + 1) * ci * ip];
        let t = &mut t[ng * r * op..(ng + 1) * r * op];
        match way {
            Way::Pointwise => gemm(1.0, mat(a, r, ci), mat(x, ci, ip), 0.0, mat_mut(t, r, op)),
            Way::Columns => {
                for (positions, channels) in s.blocks() {
                    let (rows, len) = (channels.len() * taps, positions.len());
                    columns(s, &x[channels.start * ip..channels.end * ip], positions.clone(), &mut moved, len);
                    let a = part(a, channels.start * taps, r, rows, ci * taps);
                    product(a, part(&moved, 0, rows, len, len), 1.0, part_mut(t, positions.start, r, len, op));
                }
            }
            Way::Shift => {
                for chosen in s.tap_blocks(r) {
                    let rows = chosen.len() * r;
                    let taps_a = part(&taps_a, chosen.start * r * ci, rows, ci, ci);
                    product(taps_a, part(x, 0, ci, ip, ip), 0.0, part_mut(&mut moved, 0, rows, ip, ip));
                    for (row, tap) in (0..rows).map(|row| (row, chosen.start + row / r)) {
                        let from = &moved[row * ip..][..ip];
                        let into = &mut t[row % r * op..][..op];
                        s.for_rows(tap, |o, i, w| gather_add(into, o, from, i, w));
                    }
                }
            }
        }
        let y = &mut y[ng * co * op..(ng + 1) * co * op];
        gemm(1.0, mat(&b[g * co * r..(g + 1) * co * r], co, r), mat(t, r, op), 1.0, mat_mut(y, co, op));
    }
    t
}

/// `dT = Bᵀ·dY`, `dB = dY·Tᵀ`. By columns, `dA = dT·Cᵀ` and `dC = Aᵀ·dT`, each number of which goes back to where it
/// was read; else, with `Q` the scatter of `dT` onto input positions per tap, `dA = Q·Xᵀ` and `dX = Aᵀ·Q`.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    (s, r): (&ConvShape, usize),
    need_a: bool,
    x: &[f32],
    t: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let (ip, op, ci, co, taps) = (s.in_plane(), s.out_plane(), s.group_in(), s.group_out(), s.taps());
    let way = s.way(r);
    let taps_a = s.taps_first(r, a);
    let (mut da, mut da_taps, mut db) = (vec![0f32; a.len()], vec![0f32; a.len()], vec![0f32; b.len()]);
    let (mut dt, mut moved) = (vec![0f32; r * op], vec![0f32; s.moved(r, way)]);
    for ng in 0..s.batch * s.groups {
        let g = ng % s.groups;
        let xg = if need_a { &x[ng * ci * ip..(ng + 1) * ci * ip] } else { &[] };
        let dyg = mat(&dy[ng * co * op..(ng + 1) * co * op], co, op);
        let tg = mat(&t[ng * r * op..(ng + 1) * r * op], r, op);
        gemm(1.0, mat(&b[g * co * r..(g + 1) * co * r], co, r).t(), dyg, 0.0, mat_mut(&mut dt, r, op));
        gemm(1.0, dyg, tg.t(), 1.0, mat_mut(&mut db[g * co * r..(g + 1) * co * r], co, r));
        let mut dxg = dx.as_deref_mut().map(|dx| &mut dx[ng * ci * ip..(ng + 1) * ci * ip]);
        if way == Way::Columns {
            for (positions, channels) in s.blocks() {
                let (rows, len, at) = (channels.len() * taps, positions.len(), channels.start * taps);
                let planes = channels.start * ip..channels.end * ip;
                let dt = part(&dt, positions.start, r, len, op);
                if need_a {
                    columns(s, &xg[planes.clone()], positions.clone(), &mut moved, len);
                    product(dt, part(&moved, 0, rows, len, len).t(), 1.0, part_mut(&mut da, at, r, rows, ci * taps));
                }
                if let Some(dx) = &mut dxg {
                    product(part(a, at, r, rows, ci * taps).t(), dt, 0.0, part_mut(&mut moved, 0, rows, len, len));
                    add_columns(s, &moved, positions, &mut dx[planes], len);
                }
            }
            continue;
        }
        let mut through = |q: &[f32], first: usize, rows: usize| {
            let q = part(q, 0, rows, ip, ip);
            if need_a {
                product(q, part(xg, 0, ci, ip, ip).t(), 1.0, part_mut(&mut da_taps, first * ci, rows, ci, ci));
            }
            if let Some(dx) = &mut dxg {
                product(part(&taps_a, first * ci, rows, ci, ci).t(), q, 1.0, part_mut(dx, 0, ci, ip, ip));
            }
        };
        if way == Way::Pointwise {
            through(&dt, 0, r);
            continue;
        }
        for chosen in s.tap_blocks(r) {
            moved.fill(0.0);
            let rows = chosen.len() * r;
            for (row, tap) in (0..rows).map(|row| (row, chosen.start + row / r)) {
                let from = &dt[row % r * op..][..op];
                let into = &mut moved[row * ip..][..ip];
                s.for_rows(tap, |o, i, w| scatter(into, i, from, o, w));
            }
            through(&moved, chosen.start * r, rows);
        }
    }
    s.add_taps_last(r, &da_taps, &mut da);
    Gradients { a: da, b: db }
}

/// One tap reads every input position at most once, so this is a copy.
fn scatter(into: &mut [f32], i: usize, from: &[f32], o: usize, w: Span) {
    let n = w.to - w.from;
    let dt = &from[o..o + n];
    if w.stride == 1 {
        into[i..i + n].copy_from_slice(dt);
    } else {
        into[i..].iter_mut().step_by(w.stride).zip(dt).for_each(|(q, d)| *q = *d);
    }
}
