//! A frozen weight in the narrow numbers that its file stores, widened to floats a piece at a time.

use std::ops::Range;
use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::shared_bytes::SharedBytes;
use crate::linalg::simd::wide;

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    I8,
    U8,
    /// Two values a byte, the first in the low bits.
    I4,
    U4,
    F16,
    BF16,
}

impl Kind {
    /// Bytes that `len` values take.
    pub fn bytes(self, len: usize) -> usize {
        match self {
            Kind::I8 | Kind::U8 => len,
            Kind::I4 | Kind::U4 => len.div_ceil(2),
            Kind::F16 | Kind::BF16 => 2 * len,
        }
    }
}

/// Which scale a value has: `scale[outer·a + (at / each)·b + inside·c]` for a value at `(outer, at, inside)` around an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scales {
    /// Scales, and as many zero points, or one for all.
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
    /// Length of the axis along which scales differ, values behind each of its places, and places that share a scale.
    pub length: usize,
    pub inner: usize,
    pub each: usize,
    /// Whether scales differ by the places around the axis, too.
    pub by_block: bool,
}

impl Scales {
    /// One scale for all values.
    pub fn uniform(scale: f32, zero: f32) -> Scales {
        Scales { scales: vec![scale], zeros: vec![zero], length: 1, inner: 1, each: 1, by_block: false }
    }

    /// Scales that a tensor of these sizes needs.
    fn count(&self, len: usize) -> usize {
        let places = self.length.div_ceil(self.each);
        match (self.scales.len(), self.by_block) {
            (1, _) => 1,
            (_, false) => places,
            (_, true) => len / (self.length * self.inner) * places * self.inner,
        }
    }

    /// The zero point beside the scale at `place`.
    #[inline(always)]
    pub(super) fn zero(&self, place: usize) -> f32 {
        if let [zero] = self.zeros[..] { zero } else { self.zeros[place] }
    }

    /// Whether values in a row share a scale.
    pub(super) fn is_in_lines(&self) -> bool {
        self.inner == 1 && self.each > 1 && self.by_block && self.scales.len() > 1
    }

    /// The pieces of `count` values from `start` on that share a scale.
    #[inline(always)]
    fn lines(&self, start: usize, count: usize) -> Lines<'_> {
        let within = start % self.length;
        let place = start / self.length * self.length.div_ceil(self.each) + within / self.each;
        Lines { of: self, place, within, left_of_line: self.each - within % self.each, at: 0, count }
    }

    /// `v := (v - zero)·scale` for the values that start at `start` of the whole.
    fn apply(&self, start: usize, values: &mut [f32]) {
        if let ([scale], [zero]) = (&self.scales[..], &self.zeros[..]) {
            return scaled(values, *scale, *zero);
        }
        let (mut i, mut rest) = (start, values);
        let places = self.length.div_ceil(self.each);
        while !rest.is_empty() {
            let (outer, at, inside) = (i / (self.length * self.inner), i / self.inner % self.length, i % self.inner);
            let (line, scale, varies) = if self.inner > 1 {
                let first = if self.by_block { (outer * places + at / self.each) * self.inner + inside } else { at };
                (self.inner - inside, first, self.by_block)
            } else {
                let first = if self.by_block { outer * places } else { 0 } + at / self.each;
                match self.each {
                    1 => (self.length - at, first, true),
                    each => (each.min(self.length) - at % each, first, false),
                }
            };
            // A block may be cut short by the end of the axis.
            let line = line.min(self.length * self.inner - i % (self.length * self.inner)).min(rest.len());
            let (now, later) = rest.split_at_mut(line);
            match (varies, &self.zeros[..]) {
                (false, _) => scaled(now, self.scales[scale], self.zero(scale)),
                (true, &[zero]) => {
                    let scales = &self.scales[scale..][..line];
                    wide!((now: &mut [f32], scales: &[f32], zero: f32) {
                        now.iter_mut().zip(scales).for_each(|(v, s)| *v = (*v - zero) * s);
                    });
                }
                (true, zeros) => {
                    let (scales, zeros) = (&self.scales[scale..][..line], &zeros[scale..][..line]);
                    wide!((now: &mut [f32], scales: &[f32], zeros: &[f32]) {
                        now.iter_mut().zip(scales).zip(zeros).for_each(|((v, s), z)| *v = (*v - z) * s);
                    });
                }
            }
            (i, rest) = (i + line, later);
        }
    }
}

/// Where a piece of values begins, its length, its scale and its zero point.
struct Lines<'a> {
    of: &'a Scales,
    place: usize,
    within: usize,
    left_of_line: usize,
    at: usize,
    count: usize,
}

impl Iterator for Lines<'_> {
    type Item = (usize, usize, f32, f32);
    // A division for each piece would take as long as widening it.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let len = self.left_of_line.min(self.of.length - self.within).min(self.count - self.at);
        if len == 0 {
            return None;
        }
        let line = (self.at, len, self.of.scales[self.place], self.of.zero(self.place));
        (self.at, self.within, self.place) = (self.at + len, self.within + len, self.place + 1);
        self.left_of_line = self.of.each;
        if self.within == self.of.length {
            self.within = 0;
        }
        Some(line)
    }
}

/// `(b - zero)·scale` of bytes, for the values that start at `start` of the whole.
#[inline(always)]
fn lines_of_bytes<const SIGNED: bool>(scales: &Scales, start: usize, out: &mut [f32], bytes: &[u8]) {
    for (at, len, scale, zero) in scales.lines(start, out.len()) {
        for (v, b) in out[at..at + len].iter_mut().zip(&bytes[start + at..]) {
            *v = (if SIGNED { f32::from(*b as i8) } else { f32::from(*b) } - zero) * scale;
        }
    }
}

/// The same of numbers of four bits.
#[inline(always)]
fn lines_of_nibbles<const SIGNED: bool>(scales: &Scales, start: usize, out: &mut [f32], bytes: &[u8]) {
    for (at, len, scale, zero) in scales.lines(start, out.len()) {
        nibbles::<SIGNED>(start + at, &mut out[at..at + len], bytes, scale, zero);
    }
}

fn scaled(values: &mut [f32], scale: f32, zero: f32) {
    wide!((values: &mut [f32], scale: f32, zero: f32) { values.iter_mut().for_each(|v| *v = (*v - zero) * scale) });
}

/// `(q - zero)·scale` of stored numbers `q`, row-major; floats of 16 bits have no scale.
#[derive(Debug, PartialEq)]
pub(crate) struct Packed {
    pub(super) kind: Kind,
    /// Place of the first value among those that are stored, and their number.
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) bytes: SharedBytes,
    pub(super) scales: Option<Arc<Scales>>,
}

impl Eq for Packed {}

impl Packed {
    /// `len` values, whole axes of them; none where there are not as many bytes or scales as that takes.
    pub fn new(kind: Kind, len: usize, bytes: impl Into<SharedBytes>, scales: Option<Scales>) -> Option<Packed> {
        let bytes = bytes.into();
        let fits = scales.as_ref().is_none_or(|s| {
            s.length > 0
                && s.inner > 0
                && s.each > 0
                && len.is_multiple_of(s.length.saturating_mul(s.inner))
                && (s.scales.len() == s.zeros.len() || s.zeros.len() == 1)
                && s.scales.len() == s.count(len)
        });
        (fits && bytes.len() == kind.bytes(len)).then(|| Packed {
            kind,
            start: 0,
            len,
            bytes,
            scales: scales.map(Arc::new),
        })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The values of `range`, which must lie within these; the numbers are shared.
    pub fn part(&self, range: Range<usize>) -> Packed {
        let (start, len) = (self.start + range.start, range.len());
        Packed { kind: self.kind, start, len, bytes: self.bytes.clone(), scales: self.scales.clone() }
    }

    /// The numbers as they are stored.
    #[cfg(test)]
    pub fn stored(&self) -> &SharedBytes {
        &self.bytes
    }

    /// Memory that what is stored takes, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.scales.as_ref().map_or(0, |s| 4 * (s.scales.len() + s.zeros.len()))
    }

    /// Integers whose rows have scales in blocks, from `start` of the whole; false for floats.
    fn widen_lines(&self, scales: &Scales, start: usize, out: &mut [f32]) -> bool {
        let (kind, bytes) = (self.kind, &self.bytes[..]);
        wide!((kind: Kind, scales: &Scales, start: usize, out: &mut [f32], bytes: &[u8]) {
            match kind {
                Kind::I8 => lines_of_bytes::<true>(scales, start, out, bytes),
                Kind::U8 => lines_of_bytes::<false>(scales, start, out, bytes),
                Kind::I4 => lines_of_nibbles::<true>(scales, start, out, bytes),
                Kind::U4 => lines_of_nibbles::<false>(scales, start, out, bytes),
                Kind::F16 | Kind::BF16 => return false,
            }
            true
        } -> bool)
    }

    /// Writes the values of `range` to `out`, which is as long. The range must lie within the values.
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        let range = self.start + range.start..self.start + range.end;
        if let Some(scales) = self.scales.as_deref().filter(|s| s.is_in_lines())
            && self.widen_lines(scales, range.start, out)
        {
            return;
        }
        let (start, two) = (range.start, 2 * range.start..2 * range.end);
        match self.kind {
            Kind::I8 => convert(out, &self.bytes[range], |b| b as i8 as f32),
            Kind::U8 => convert(out, &self.bytes[range], |b| b as f32),
            Kind::I4 => unscaled(start, out, &self.bytes, true),
            Kind::U4 => unscaled(start, out, &self.bytes, false),
            Kind::F16 => halves(&self.bytes[two], out, |bits, out| {
                bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out)
            }),
            Kind::BF16 => halves(&self.bytes[two], out, |bits, out| {
                bits.reinterpret_cast::<half::bf16>().convert_to_f32_slice(out)
            }),
        }
        if let Some(scales) = &self.scales {
            scales.apply(start, out);
        }
    }
}

/// Numbers of four bits as they are.
fn unscaled(start: usize, out: &mut [f32], bytes: &[u8], signed: bool) {
    wide!((start: usize, out: &mut [f32], bytes: &[u8], signed: bool) {
        match signed {
            true => nibbles::<true>(start, out, bytes, 1.0, 0.0),
            false => nibbles::<false>(start, out, bytes, 1.0, 0.0),
        }
    });
}

/// A number of four bits, the highest of which may be its sign.
#[inline(always)]
fn nibble<const SIGNED: bool>(n: u8) -> f32 {
    if SIGNED { f32::from((n << 4) as i8 >> 4) } else { f32::from(n) }
}

/// `(n - zero)·scale` of the numbers of four bits from the place `start` of `bytes` on.
#[inline(always)]
fn nibbles<const SIGNED: bool>(start: usize, out: &mut [f32], bytes: &[u8], scale: f32, zero: f32) {
    let bytes = &bytes[start / 2..];
    let odd = start % 2 * out.len().min(1);
    let (first, rest) = out.split_at_mut(odd);
    if let [v] = first {
        *v = (nibble::<SIGNED>(bytes[0] >> 4) - zero) * scale;
    }
    let (pairs, last) = rest.as_chunks_mut::<2>();
    let bytes = &bytes[odd..];
    if let [v] = last {
        *v = (nibble::<SIGNED>(bytes[pairs.len()] & 15) - zero) * scale;
    }
    // Apart first, then as floats: the compiler makes vectors of both loops, and of neither in one.
    let (many, pairs) = pairs.as_chunks_mut::<16>();
    let (bytes, rest) = bytes.split_at(16 * many.len());
    for (out, bytes) in many.iter_mut().zip(bytes.as_chunks::<16>().0) {
        let mut apart = [[0u8; 2]; 16];
        for (pair, b) in apart.iter_mut().zip(bytes) {
            *pair = [b & 15, b >> 4];
        }
        for (v, n) in out.as_flattened_mut().iter_mut().zip(apart.as_flattened()) {
            *v = (nibble::<SIGNED>(*n) - zero) * scale;
        }
    }
    for (pair, b) in pairs.iter_mut().zip(rest) {
        *pair = [(nibble::<SIGNED>(b & 15) - zero) * scale, (nibble::<SIGNED>(b >> 4) - zero) * scale];
    }
}

fn convert(out: &mut [f32], from: &[u8], value: impl Fn(u8) -> f32) {
    wide!((out: &mut [f32], from: &[u8], value: impl Fn(u8) -> f32) {
        out.iter_mut().zip(from).for_each(|(o, b)| *o = value(*b));
    });
}

/// Little-endian numbers of 16 bits, which need not lie on even addresses.
fn halves(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u16], &mut [f32])) {
    const PIECE: usize = 256;
    let mut bits = [0u16; PIECE];
    for (out, bytes) in out.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
        let bits = &mut bits[..out.len()];
        bits.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(n, b)| *n = u16::from_le_bytes(*b));
        convert(bits, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every piece of `packed`, from every start, is that piece of the whole, which `value` gives one by one.
    fn check(packed: &Packed, value: impl Fn(usize) -> f32) {
        let whole: Vec<f32> = (0..packed.len()).map(value).collect();
        for start in 0..packed.len() {
            for end in [start + 1, (start + 7).min(packed.len()), packed.len()] {
                let mut out = vec![f32::NAN; end - start];
                packed.widen(start..end, &mut out);
                assert_eq!(out, whole[start..end], "{packed:?} {start}..{end}");
                packed.part(start..packed.len()).widen(0..end - start, &mut out);
                assert_eq!(out, whole[start..end], "the part from {start} of {packed:?}");
            }
        }
    }

    fn numbers(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| 0.25 + (i * 7 % 13) as f32 * step).collect()
    }

    #[test]
    fn integers_with_scales_along_any_axis() {
        // [outer, length, inner] = [3, 6, inner]
        for inner in [1, 4] {
            let len = 3 * 6 * inner;
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
            for (each, by_block) in [(1, false), (1, true), (2, true), (4, true)] {
                let places = 6usize.div_ceil(each);
                let count = if by_block { 3 * places * inner } else { places };
                let scales = Scales {
                    scales: numbers(count, 0.5),
                    zeros: numbers(count, 1.0),
                    length: 6,
                    inner,
                    each,
                    by_block,
                };
                let one_zero = Scales { zeros: vec![2.5], ..scales.clone() };
                let place = |i: usize| match by_block {
                    true => (i / (6 * inner) * places + i / inner % 6 / each) * inner + i % inner,
                    false => i / inner % 6,
                };
                for kind in [Kind::I8, Kind::U8] {
                    let packed = Packed::new(kind, len, bytes.clone(), Some(scales.clone())).unwrap();
                    check(&packed, |i| {
                        let q = if kind == Kind::I8 { bytes[i] as i8 as f32 } else { bytes[i] as f32 };
                        (q - scales.zeros[place(i)]) * scales.scales[place(i)]
                    });
                }
                let packed = Packed::new(Kind::U8, len, bytes.clone(), Some(one_zero.clone())).unwrap();
                check(&packed, |i| (f32::from(bytes[i]) - 2.5) * scales.scales[place(i)]);
                for (kind, value) in [(Kind::U4, nibble::<false> as fn(u8) -> f32), (Kind::I4, nibble::<true>)] {
                    for of in [&scales, &one_zero] {
                        let packed = Packed::new(kind, len, bytes[..len / 2].to_vec(), Some(of.clone())).unwrap();
                        check(&packed, |i| {
                            let zero = if of.zeros.len() == 1 { 2.5 } else { of.zeros[place(i)] };
                            (value(bytes[i / 2] >> (i % 2 * 4) & 15) - zero) * of.scales[place(i)]
                        });
                    }
                }
                let part_of_an_axis = Packed::new(Kind::I8, len + 1, vec![0; len + 1], Some(scales));
                assert!(part_of_an_axis.is_none());
            }
        }
    }

    #[test]
    fn four_bits_and_sixteen() {
        let bytes: Vec<u8> = vec![0x10, 0xF2, 0x87, 0x09];
        let signed = [0.0, 1.0, 2.0, -1.0, 7.0, -8.0, -7.0];
        check(&Packed::new(Kind::I4, 7, bytes.clone(), Some(Scales::uniform(0.5, 1.0))).unwrap(), |i| {
            (signed[i] - 1.0) * 0.5
        });
        check(&Packed::new(Kind::U4, 7, bytes, None).unwrap(), |i| [0.0, 1.0, 2.0, 15.0, 7.0, 8.0, 9.0][i]);
        let values: Vec<f32> = (0..600).map(|i| i as f32 * 0.5 - 100.0).collect();
        let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        check(&Packed::new(Kind::F16, 600, f16, None).unwrap(), |i| half::f16::from_f32(values[i]).to_f32());
        let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        check(&Packed::new(Kind::BF16, 600, bf16, None).unwrap(), |i| half::bf16::from_f32(values[i]).to_f32());
        assert!(Packed::new(Kind::F16, 3, vec![0; 5], None).is_none());
        assert!(
            Packed::new(
                Kind::I8,
                4,
                vec![0; 4],
                Some(Scales {
                    scales: vec![1.0; 3],
                    zeros: vec![0.0; 3],
                    length: 4,
                    inner: 1,
                    each: 1,
                    by_block: false
                })
            )
            .is_none()
        );
    }
}
