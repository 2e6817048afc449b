//! Convolutions, in one of two ways, whichever moves less. Per example and group, with `X: [in, P]` the input planes:
//!
//! - *shift*: the product with `A` is taken at every input position for all taps of the kernel at once (`r·taps` rows), and only those
//!   few channels are shifted into place: `P[tap, r, p] = Σ_c A[r, c, tap]·X[c, p]`, `T[r, q] = Σ_tap P[tap, r, p(q, tap)]`, `Y += B·T`;
//! - *columns* (im2col): what each output position reads is laid out, `C[c, tap, q] = X[c, p(q, tap)]`, and `T = A·C`. Less to move
//!   where the input has few channels or the stride is large: a picture's first layer, a filter bank over sound.

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};

/// Shapes of a convolution over up to three spatial axes; absent leading axes are 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    pub batch: usize,
    pub input: usize,
    pub output: usize,
    pub groups: usize,
    pub rank: usize,
    pub in_size: [usize; 3],
    pub out_size: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    pub pad_before: [usize; 3],
}

/// How a convolution is computed, see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing moves: each position is a product of its own.
    Pointwise,
    Columns,
    Shift,
}

/// One kernel tap along one axis: outputs `from..to` read input `from·stride + offset …`.
#[derive(Clone, Copy)]
pub(super) struct Span {
    from: usize,
    to: usize,
    /// Input position read by output `from`.
    start: usize,
    stride: usize,
}

impl ConvShape {
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }
    pub fn in_plane(&self) -> usize {
        self.in_size.iter().product()
    }
    pub fn out_plane(&self) -> usize {
        self.out_size.iter().product()
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
    fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.in_size == self.out_size && self.stride == [1; 3] && self.pad_before == [0; 3]
    }

    /// The way that moves less.
    fn way(&self) -> Way {
        if self.is_pointwise() {
            Way::Pointwise
        } else if self.group_in() * self.out_plane() < self.rank * self.in_plane() {
            Way::Columns
        } else {
            Way::Shift
        }
    }

    /// Numbers that are moved for one example and group.
    fn moved(&self, way: Way) -> usize {
        match way {
            Way::Pointwise => 0,
            Way::Columns => self.group_in() * self.taps() * self.out_plane(),
            Way::Shift => self.taps() * self.rank * self.in_plane(),
        }
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
    pub(super) fn for_rows(&self, tap: usize, mut row: impl FnMut(usize, usize, Span)) {
        let [_, kh, kw] = self.kernel;
        let (kd, kh, kw) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        let (d, h, w) = (self.span(0, kd), self.span(1, kh), self.span(2, kw));
        if w.from == w.to {
            return;
        }
        for (od, id) in (d.from..d.to).zip((d.start..).step_by(d.stride)) {
            for (oh, ih) in (h.from..h.to).zip((h.start..).step_by(h.stride)) {
                let out = (od * self.out_size[1] + oh) * self.out_size[2] + w.from;
                let input = (id * self.in_size[1] + ih) * self.in_size[2] + w.start;
                row(out, input, w);
            }
        }
    }

    /// `A` reordered from `[r, in/groups, taps]` to `[taps, r, in/groups]`.
    fn taps_first(&self, a: &[f32]) -> Vec<f32> {
        let (taps, c) = (self.taps(), self.group_in());
        let mut out = vec![0f32; a.len()];
        for r in 0..self.rank {
            for ci in 0..c {
                for t in 0..taps {
                    out[(t * self.rank + r) * c + ci] = a[(r * c + ci) * taps + t];
                }
            }
        }
        out
    }

    /// Adds a gradient in `[taps, r, in/groups]` order to one in `A`'s order.
    fn add_taps_last(&self, from: &[f32], into: &mut [f32]) {
        let (taps, c) = (self.taps(), self.group_in());
        for r in 0..self.rank {
            for ci in 0..c {
                for t in 0..taps {
                    into[(r * c + ci) * taps + t] += from[(t * self.rank + r) * c + ci];
                }
            }
        }
    }
}

/// Lays out what each output position reads of the planes `x: [in/groups, P]` as `[in/groups, taps, Q]`; zeros where it reads padding.
fn columns(s: &ConvShape, x: &[f32], into: &mut [f32]) {
    let (ip, op, taps) = (s.in_plane(), s.out_plane(), s.taps());
    into.fill(0.0);
    for tap in 0..taps {
        for ci in 0..s.group_in() {
            let (from, into) = (&x[ci * ip..][..ip], &mut into[(ci * taps + tap) * op..][..op]);
            s.for_rows(tap, |o, i, w| gather_add(into, o, from, i, w));
        }
    }
}

pub(super) fn forward(s: &ConvShape, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) -> Vec<f32> {
    let (ip, op, ci, co, r) = (s.in_plane(), s.out_plane(), s.group_in(), s.group_out(), s.rank);
    let way = s.way();
    let taps_a = s.taps_first(a);
    let mut t = vec![0f32; s.batch * s.groups * r * op];
    let mut moved = vec![0f32; s.moved(way)];
    for ng in 0..s.batch * s.groups {
        let g = ng % s.groups;
        let x = &x[ng * ci * ip..(ng + 1) * ci * ip];
        let t = &mut t[ng * r * op..(ng + 1) * r * op];
        match way {
            Way::Pointwise => gemm(1.0, mat(a, r, ci), mat(x, ci, ip), 0.0, mat_mut(t, r, op)),
            Way::Columns => {
                columns(s, x, &mut moved);
                let rows = ci * s.taps();
                gemm(1.0, mat(a, r, rows), mat(&moved, rows, op), 0.0, mat_mut(t, r, op));
            }
            Way::Shift => {
                let rows = s.taps() * r;
                gemm(1.0, mat(&taps_a, rows, ci), mat(x, ci, ip), 0.0, mat_mut(&mut moved, rows, ip));
                for tap in 0..s.taps() {
                    for ri in 0..r {
                        let from = &moved[(tap * r + ri) * ip..][..ip];
                        let into = &mut t[ri * op..][..op];
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

/// `dT = Bᵀ·dY`, `dB = dY·Tᵀ`. By columns, `dA = dT·Cᵀ` and `dC = Aᵀ·dT`, each number of which goes back to where it was read; else, with
/// `Q` the scatter of `dT` onto input positions per tap, `dA = Q·Xᵀ` and `dX = Aᵀ·Q`.
pub(super) fn backward(
    s: &ConvShape,
    x: &[f32],
    t: &[f32],
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    mut dx: Option<&mut [f32]>,
) -> Gradients {
    let (ip, op, ci, co, r, taps) = (s.in_plane(), s.out_plane(), s.group_in(), s.group_out(), s.rank, s.taps());
    let way = s.way();
    let taps_a = s.taps_first(a);
    let (mut da, mut da_taps, mut db) = (vec![0f32; a.len()], vec![0f32; a.len()], vec![0f32; b.len()]);
    let (mut dt, mut moved) = (vec![0f32; r * op], vec![0f32; s.moved(way)]);
    for ng in 0..s.batch * s.groups {
        let g = ng % s.groups;
        let xg = &x[ng * ci * ip..(ng + 1) * ci * ip];
        let dyg = mat(&dy[ng * co * op..(ng + 1) * co * op], co, op);
        let tg = mat(&t[ng * r * op..(ng + 1) * r * op], r, op);
        gemm(1.0, mat(&b[g * co * r..(g + 1) * co * r], co, r).t(), dyg, 0.0, mat_mut(&mut dt, r, op));
        gemm(1.0, dyg, tg.t(), 1.0, mat_mut(&mut db[g * co * r..(g + 1) * co * r], co, r));
        let dxg = dx.as_deref_mut().map(|dx| &mut dx[ng * ci * ip..(ng + 1) * ci * ip]);
        if way == Way::Columns {
            let rows = ci * taps;
            columns(s, xg, &mut moved);
            gemm(1.0, mat(&dt, r, op), mat(&moved, rows, op).t(), 1.0, mat_mut(&mut da, r, rows));
            if let Some(dx) = dxg {
                gemm(1.0, mat(a, r, rows).t(), mat(&dt, r, op), 0.0, mat_mut(&mut moved, rows, op));
                for row in 0..rows {
                    let (from, into) = (&moved[row * op..][..op], &mut dx[row / taps * ip..][..ip]);
                    s.for_rows(row % taps, |o, i, w| scatter_add(into, i, from, o, w));
                }
            }
            continue;
        }
        let rows = taps * r;
        if way == Way::Shift {
            moved.fill(0.0);
            for tap in 0..taps {
                for ri in 0..r {
                    let from = &dt[ri * op..][..op];
                    let into = &mut moved[(tap * r + ri) * ip..][..ip];
                    s.for_rows(tap, |o, i, w| scatter(into, i, from, o, w));
                }
            }
        }
        let q = if way == Way::Pointwise { mat(&dt, r, op) } else { mat(&moved, rows, ip) };
        gemm(1.0, q, mat(xg, ci, ip).t(), 1.0, mat_mut(&mut da_taps, rows, ci));
        if let Some(dx) = dxg {
            gemm(1.0, mat(&taps_a, rows, ci).t(), q, 1.0, mat_mut(dx, ci, ip));
        }
    }
    s.add_taps_last(&da_taps, &mut da);
    Gradients { a: da, b: db }
}

pub(super) fn gather_add(into: &mut [f32], o: usize, from: &[f32], i: usize, w: Span) {
    let n = w.to - w.from;
    let out = &mut into[o..o + n];
    if w.stride == 1 {
        out.iter_mut().zip(&from[i..i + n]).for_each(|(y, x)| *y += x);
    } else {
        out.iter_mut().zip(from[i..].iter().step_by(w.stride)).for_each(|(y, x)| *y += x);
    }
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

pub(super) fn scatter_add(into: &mut [f32], i: usize, from: &[f32], o: usize, w: Span) {
    let from = &from[o..o + w.to - w.from];
    if w.stride == 1 {
        into[i..i + from.len()].iter_mut().zip(from).for_each(|(y, x)| *y += x);
    } else {
        into[i..].iter_mut().step_by(w.stride).zip(from).for_each(|(y, x)| *y += x);
    }
}
