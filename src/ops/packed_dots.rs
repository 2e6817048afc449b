//! Products of few rows with weights of four or eight bits that become floats in registers, not in memory.
//!
//! One token of a language model reads every weight once: what counts is how many instructions a stored value takes. A
//! byte holds two values of four bits. The low one is masked, the high one is left where it is, as 16 times its value:
//! the row that it is multiplied by is stored as a sixteenth, which rounds nothing. The zero point `z` of a block
//! leaves the loop, too: `sum (q - z)·s·x = s·(sum q·x - z·sum x)`. Values of eight bits are larger than what remains
//! of them when the zero point is off, so there it is subtracted first.

use std::ops::Range;

use super::packed::{Kind, Packed, Scales};
use crate::linalg::eight::{Eight, Kernel, LANES, on_vectors, prefetch};

/// Values of a row that are read together.
const GROUP: usize = 2 * LANES;

/// Rows of the operand that is not the weight.
pub(crate) struct FewRows {
    rows: usize,
    k: usize,
    /// Rows of `k` values; of weights of four bits, groups of the even ones and a sixteenth of the odd ones.
    values: Vec<f32>,
    /// The sum of each row's values that share a scale.
    sums: Vec<f32>,
}

impl Packed {
    /// Whether rows of `k` values can be multiplied as they are stored: each has scales in whole groups.
    pub fn has_dots(&self, k: usize) -> bool {
        let small = matches!(self.kind, Kind::I4 | Kind::U4 | Kind::I8 | Kind::U8);
        small && self.scales.as_ref().is_some_and(|s| s.has_dots(k)) && self.start.is_multiple_of(k)
    }

    /// `rows` rows of `k` values for [`Packed::dots`]; `row` gives each as a slice of `k` values.
    pub fn few_rows<'a>(&self, rows: usize, k: usize, row: impl Fn(usize) -> &'a [f32]) -> FewRows {
        let each = self.scales.as_ref().map_or(k, |s| s.each);
        let (mut values, mut sums) = (vec![], vec![]);
        for r in 0..rows {
            let row = &row(r)[..k];
            sums.extend(row.chunks(each).map(|block| block.iter().sum::<f32>()));
            match self.kind {
                Kind::I4 | Kind::U4 => row.as_chunks::<GROUP>().0.iter().for_each(|group| {
                    values.extend(group.iter().step_by(2));
                    values.extend(group.iter().skip(1).step_by(2).map(|x| x / 16.0));
                }),
                _ => values.extend_from_slice(row),
            }
        }
        FewRows { rows, k, values, sums }
    }

    /// The products of `x` with rows `of` of a weight that [`Packed::has_dots`]: `out[r·of.len() + j]`. Each is the
    /// same sum whatever rows are asked for.
    pub fn dots(&self, x: &FewRows, of: Range<usize>, out: &mut [f32]) {
        let Some(scales) = self.scales.as_deref() else { return };
        assert!(scales.has_dots(x.k) && of.end * x.k <= self.len && out.len() == x.rows * of.len(), "rows that fit");
        let first = self.start / x.k + of.start;
        on_vectors(Dots { kind: self.kind, bytes: &self.bytes, scales, x, first, len: of.len(), out });
    }
}

impl Scales {
    fn has_dots(&self, k: usize) -> bool {
        let whole = k.is_multiple_of(GROUP) && self.each.is_multiple_of(GROUP);
        self.is_in_lines() && self.length == k && whole
    }
}

struct Dots<'a> {
    kind: Kind,
    bytes: &'a [u8],
    scales: &'a Scales,
    x: &'a FewRows,
    first: usize,
    len: usize,
    out: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Result = ();
    #[inline(always)]
    fn run<V: Eight>(self) {
        match self.kind {
            Kind::U4 => self.all::<V, Nibbles<0>>(),
            Kind::I4 => self.all::<V, Nibbles<0x88>>(),
            Kind::U8 => self.all::<V, Bytes<false>>(),
            Kind::I8 => self.all::<V, Bytes<true>>(),
            Kind::F16 | Kind::BF16 => {}
        }
    }
}

impl Dots<'_> {
    /// Four sums at a time, so that none waits for its own last addition.
    #[inline(always)]
    fn all<V: Eight, S: Stored>(self) {
        let (len, rows) = (self.len, self.x.rows);
        let Dots { out, .. } = self;
        let of = Dots { out: &mut [], ..self };
        let mut put = |r: usize, j: usize, sum: f32| out[r * len + j] = sum;
        let mut r = 0;
        while r < rows {
            match rows - r {
                1 => of.columns::<V, S, 1, 4>(r, &mut put),
                2 | 3 => of.columns::<V, S, 2, 2>(r, &mut put),
                _ => of.columns::<V, S, 4, 1>(r, &mut put),
            }
            r += match rows - r {
                1 => 1,
                2 | 3 => 2,
                _ => 4,
            };
        }
    }

    #[inline(always)]
    fn columns<V: Eight, S: Stored, const R: usize, const C: usize>(
        &self,
        r: usize,
        put: &mut impl FnMut(usize, usize, f32),
    ) {
        let mut j = 0;
        while j + C <= self.len {
            self.block::<V, S, R, C>(r, j, put);
            j += C;
        }
        while j < self.len {
            self.block::<V, S, R, 1>(r, j, put);
            j += 1;
        }
    }

    /// Rows `r..r + R` times rows `j..j + C` of the weight.
    #[inline(always)]
    fn block<V: Eight, S: Stored, const R: usize, const C: usize>(
        &self,
        r: usize,
        j: usize,
        put: &mut impl FnMut(usize, usize, f32),
    ) {
        let (k, each) = (self.x.k, self.scales.each);
        let blocks = k.div_ceil(each);
        let x: [&[f32]; R] = std::array::from_fn(|i| &self.x.values[(r + i) * k..][..k]);
        let sums: [&[f32]; R] = std::array::from_fn(|i| &self.x.sums[(r + i) * blocks..][..blocks]);
        let row_bytes = k / GROUP * S::BYTES;
        let row = |c: usize| self.first + j + c;
        let bytes: [&[u8]; C] = std::array::from_fn(|c| &self.bytes[row(c) * row_bytes..][..row_bytes]);
        let scales: [&[f32]; C] = std::array::from_fn(|c| &self.scales.scales[row(c) * blocks..][..blocks]);
        // While these rows are in use, the next ones come from memory: they are too short for the processor to foresee.
        let next = self.bytes.get((row(C)) * row_bytes..).unwrap_or_default();
        let next = &next[..next.len().min(C * row_bytes)];
        let share = next.len().div_ceil(blocks).next_multiple_of(64);
        let mut totals = [[V::splat(0.0); C]; R];
        let mut shifts = [[0.0f32; C]; R];
        for block in 0..blocks {
            let groups = block * each / GROUP..k.min((block + 1) * each) / GROUP;
            prefetch(next.get(block * share..).map_or(&[], |rest| &rest[..share.min(rest.len())]));
            let mut products = [[V::splat(0.0); C]; R];
            let zeros: [f32; C] = std::array::from_fn(|c| self.scales.zero(row(c) * blocks + block));
            for group in groups {
                for c in 0..C {
                    // SAFETY: the bytes of group `group` lie within the row's.
                    let (first, second) = unsafe { S::read::<V>(bytes[c].as_ptr().add(group * S::BYTES), zeros[c]) };
                    for i in 0..R {
                        // SAFETY: sixteen values from here on lie within the row.
                        let at = unsafe { x[i].as_ptr().add(group * GROUP) };
                        // SAFETY: as above.
                        let (a, b) = unsafe { (V::read(at), V::read(at.add(LANES))) };
                        products[i][c] = b.multiply_add(second, a.multiply_add(first, products[i][c]));
                    }
                }
            }
            for c in 0..C {
                let scale = scales[c][block];
                for i in 0..R {
                    totals[i][c] = V::splat(scale).multiply_add(products[i][c], totals[i][c]);
                    if let Some(offset) = S::OFFSET {
                        shifts[i][c] += scale * (zeros[c] + offset) * sums[i][block];
                    }
                }
            }
        }
        for i in 0..R {
            for c in 0..C {
                put(r + i, j + c, totals[i][c].sum() - shifts[i][c]);
            }
        }
    }
}

/// How a group of values is stored.
trait Stored {
    /// Bytes of a group.
    const BYTES: usize;
    /// What values that [`Stored::read`] gives are too large by, beside the zero point; none where they are not.
    const OFFSET: Option<f32>;
    /// # Safety
    /// [`Stored::BYTES`] bytes can be read at `from`.
    unsafe fn read<V: Eight>(from: *const u8, zero: f32) -> (V, V);
}

/// Four bits; `FLIP` turns the sign bits of both values of a byte, so that -8 becomes 0 and 7 becomes 15.
struct Nibbles<const FLIP: u8>;

impl<const FLIP: u8> Stored for Nibbles<FLIP> {
    const BYTES: usize = GROUP / 2;
    const OFFSET: Option<f32> = Some(if FLIP == 0 { 0.0 } else { 8.0 });
    #[inline(always)]
    unsafe fn read<V: Eight>(from: *const u8, _: f32) -> (V, V) {
        // SAFETY: as the caller says.
        unsafe { V::nibbles::<FLIP>(from) }
    }
}

struct Bytes<const SIGNED: bool>;

impl<const SIGNED: bool> Stored for Bytes<SIGNED> {
    const BYTES: usize = GROUP;
    const OFFSET: Option<f32> = None;
    #[inline(always)]
    unsafe fn read<V: Eight>(from: *const u8, zero: f32) -> (V, V) {
        let zero = V::splat(-zero);
        // SAFETY: as the caller says.
        let (first, second) = unsafe { (V::bytes::<SIGNED>(from), V::bytes::<SIGNED>(from.add(LANES))) };
        (first.plus(zero), second.plus(zero))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind, odd numbers of rows and columns, a block that the row's end cuts short, one zero point or many.
    #[test]
    fn products_are_those_of_the_widened_weight() {
        for (k, each) in [(64, 32), (80, 32), (48, 16), (96, 64)] {
            let (rows, blocks) = (7, usize::div_ceil(k, each));
            let scales: Vec<f32> = (0..rows * blocks).map(|i| 0.01 + (i * 7 % 13) as f32 * 0.003).collect();
            let zeros: Vec<f32> = (0..rows * blocks).map(|i| (i * 5 % 16) as f32).collect();
            let x: Vec<f32> = (0..6 * k).map(|i| (i * 29 % 37) as f32 / 18.5 - 1.0).collect();
            for kind in [Kind::U4, Kind::I4, Kind::U8, Kind::I8] {
                for zeros in [zeros.clone(), vec![8.0]] {
                    let scales = Scales { scales: scales.clone(), zeros, length: k, inner: 1, each, by_block: true };
                    let bytes: Vec<u8> = (0..kind.bytes(rows * k)).map(|i| (i * 151 % 256) as u8).collect();
                    let whole = Packed::new(kind, rows * k, bytes, Some(scales)).unwrap();
                    for packed in [whole.part(0..rows * k), whole.part(k..rows * k)] {
                        check(&packed, &x, k);
                    }
                }
            }
        }
    }

    fn check(packed: &Packed, x: &[f32], k: usize) {
        assert!(packed.has_dots(k));
        let n = packed.len() / k;
        let mut wide = vec![0.0; packed.len()];
        packed.widen(0..packed.len(), &mut wide);
        for rows in 1..=x.len() / k {
            let few = packed.few_rows(rows, k, |r| &x[r * k..][..k]);
            let mut all = vec![f32::NAN; rows * n];
            packed.dots(&few, 0..n, &mut all);
            for (r, j) in (0..rows).flat_map(|r| (0..n).map(move |j| (r, j))) {
                let terms =
                    || x[r * k..][..k].iter().zip(&wide[j * k..][..k]).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let error = (f64::from(all[r * n + j]) - sum).abs();
                assert!(error <= 2e-6 * size.max(1.0), "{packed:?}: {rows} rows, {r} {j}: {error}");
            }
            let mut part = vec![f32::NAN; rows * (n - 2)];
            packed.dots(&few, 1..n - 1, &mut part);
            for r in 0..rows {
                assert_eq!(part[r * (n - 2)..][..n - 2], all[r * n + 1..][..n - 2], "the same bits of a part");
            }
        }
    }

    #[test]
    fn what_has_no_whole_groups_is_left() {
        let scales = |each, k: usize| Scales {
            scales: vec![1.0; 2 * k.div_ceil(each)],
            zeros: vec![0.0],
            length: k,
            inner: 1,
            each,
            by_block: true,
        };
        let packed = |k: usize, each| Packed::new(Kind::U8, 2 * k, vec![1; 2 * k], Some(scales(each, k))).unwrap();
        assert!(packed(64, 32).has_dots(64));
        assert!(!packed(64, 32).has_dots(32) && !packed(72, 32).has_dots(72) && !packed(64, 8).has_dots(64));
        assert!(!packed(64, 32).part(32..96).has_dots(64), "half a row");
        assert!(!Packed::new(Kind::U8, 64, vec![1; 64], None).unwrap().has_dots(64), "no scales");
    }
}
