//! Convolutions, in one of two ways, whichever moves less. Per example and group, with `X: [in, P]` the input planes:
//!
//! - *shift*: the product with `A` is taken at every input position for all taps of the kernel at once (`r·taps` rows), and only those
//!   few channels are shifted into place: `P[tap, r, p] = Σ_c A[r, c, tap]·X[c, p]`, `T[r, q] = Σ_tap P[tap, r, p(q, tap)]`, `Y += B·T`;
//! - *columns* (im2col): what each output position reads is laid out, `C[c, tap, q] = X[c, p(q, tap)]`, and `T = A·C`. Less to move
//!   where the input has few channels or the stride is large: a picture's first layer, a filter bank over sound.

use super::Gradients;
use super::mat::{gemm, mat, mat_mut};
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

    /// Numbers that are moved for one example and group.
    fn moved(&self, rank: usize, way: Way) -> usize {
        match way {
            Way::Pointwise => 0,
            Way::Columns => self.group_in() * self.taps() * self.out_plane(),
            Way::Shift => self.taps() * rank * self.in_plane(),
        }
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
    let (ip, op, ci, co) = (s.in_plane(), s.out_plane(), s.group_in(), s.group_out());
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
                columns(s, x, 0..op, &mut moved);
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
    (s, r): (&ConvShape, usize),
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
        let xg = &x[ng * ci * ip..(ng + 1) * ci * ip];
        let dyg = mat(&dy[ng * co * op..(ng + 1) * co * op], co, op);
        let tg = mat(&t[ng * r * op..(ng + 1) * r * op], r, op);
        gemm(1.0, mat(&b[g * co * r..(g + 1) * co * r], co, r).t(), dyg, 0.0, mat_mut(&mut dt, r, op));
        gemm(1.0, dyg, tg.t(), 1.0, mat_mut(&mut db[g * co * r..(g + 1) * co * r], co, r));
        let dxg = dx.as_deref_mut().map(|dx| &mut dx[ng * ci * ip..(ng + 1) * ci * ip]);
        if way == Way::Columns {
            let rows = ci * taps;
            columns(s, xg, 0..op, &mut moved);
            gemm(1.0, mat(&dt, r, op), mat(&moved, rows, op).t(), 1.0, mat_mut(&mut da, r, rows));
            if let Some(dx) = dxg {
                gemm(1.0, mat(a, r, rows).t(), mat(&dt, r, op), 0.0, mat_mut(&mut moved, rows, op));
                add_columns(s, &moved, 0..op, dx);
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
