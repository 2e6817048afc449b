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
    /// Scales, and as many zero points.
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
            if varies {
                let (scales, zeros) = (&self.scales[scale..][..line], &self.zeros[scale..][..line]);
                wide!((now: &mut [f32], scales: &[f32], zeros: &[f32]) {
                    now.iter_mut().zip(scales).zip(zeros).for_each(|((v, s), z)| *v = (*v - z) * s);
                });
            } else {
                scaled(now, self.scales[scale], self.zeros[scale]);
            }
            (i, rest) = (i + line, later);
        }
    }
}

fn scaled(values: &mut [f32], scale: f32, zero: f32) {
    wide!((values: &mut [f32], scale: f32, zero: f32) { values.iter_mut().for_each(|v| *v = (*v - zero) * scale) });
}

/// `(q - zero)·scale` of stored numbers `q`, row-major; floats of 16 bits have no scale.
#[derive(Debug, PartialEq)]
pub(crate) struct Packed {
    kind: Kind,
    /// Place of the first value among those that are stored, and their number.
    start: usize,
    len: usize,
    bytes: SharedBytes,
    scales: Option<Arc<Scales>>,
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
                && s.scales.len() == s.zeros.len()
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

    /// Memory that what is stored takes, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.scales.as_ref().map_or(0, |s| 4 * (s.scales.len() + s.zeros.len()))
    }

    /// Writes the values of `range` to `out`, which is as long. The range must lie within the values.
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        let range = self.start + range.start..self.start + range.end;
        let (start, two) = (range.start, 2 * range.start..2 * range.end);
        match self.kind {
            Kind::I8 => convert(out, &self.bytes[range], |b| b as i8 as f32),
            Kind::U8 => convert(out, &self.bytes[range], |b| b as f32),
            Kind::I4 => self.nibbles(start, out, |n| ((n << 4) as i8 >> 4) as f32),
            Kind::U4 => self.nibbles(start, out, |n| n as f32),
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

    fn nibbles(&self, start: usize, out: &mut [f32], value: impl Fn(u8) -> f32) {
        for (i, out) in (start..).zip(out) {
            *out = value(self.bytes[i / 2] >> (4 * (i % 2)) & 15);
        }
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
