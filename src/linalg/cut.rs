//! Parts of a product, for cores that share it.

use std::ops::Range;

use super::Backend;
use crate::sync::{cores, parts};

/// How a product is cut into parts that cores can share, never across a sum. A part comes out as it does in the
/// whole, to the bit: the kernels sum each value in an order that follows from `k`, but where the result is a
/// vector, small or tiny. Parts are none of these, unless the whole is. [`Backend::Dots`] knows no exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    rows: usize,
    cols: usize,
    /// Parts of the rows, and of the columns; their lengths differ by one at most.
    down: usize,
    across: usize,
}

/// Multiplications of a part: some 5 µs. Tests share what is smaller, too.
pub(super) const PART: usize = if cfg!(test) { 1 << 12 } else { 1 << 18 };
/// Rows and columns up to which a result is small, and values up to which it is tiny.
const SMALL: usize = 64;
const TINY: usize = 256;
/// Fewest lines of a part along the contiguous side of the result, and across it.
const FEWEST_ALONG: usize = SMALL + 16;
const FEWEST_ACROSS: usize = 16;

impl Cut {
    /// For one of `positions` products of m×k by k×n whose result lies row by row (`by_rows`) or column by column.
    pub fn new(backend: Backend, m: usize, k: usize, n: usize, positions: usize, by_rows: bool) -> Cut {
        let want = parts(m * k * n * positions, PART).div_ceil(positions.max(1));
        if backend == Backend::Dots {
            // Every value is a sum of its own.
            let (down, across) = if m > n { (want.min(m / 8), 1) } else { (1, want.min(n / 8)) };
            return Cut { rows: m, cols: n, down: down.max(1), across: across.max(1) };
        }
        let (along, across) = if by_rows { (n, m) } else { (m, n) };
        let fewest = |usual: usize, other: usize| usual.max(TINY / other.max(1) + 1);
        let fewest_along = fewest(FEWEST_ALONG, across);
        let fewest_across = fewest(if along > SMALL { FEWEST_ACROSS } else { FEWEST_ALONG }, along);
        let (by_along, by_across) = (along / fewest_along, across / fewest_across);
        let (by_along, by_across) = (want.min(by_along).max(1), want.min(by_across).max(1));
        // Every part lays out its operands anew. Where both ways give every core a part, the one that lays out less.
        let laid_out = [across * by_along + along, along * by_across + across];
        let enough = want.min(cores().div_ceil(positions.max(1)));
        let cut_along = match (by_along >= enough, by_across >= enough) {
            (true, true) => laid_out[0] < laid_out[1],
            _ => by_along > by_across,
        };
        let (of_along, of_across) = if cut_along { (by_along, 1) } else { (1, by_across) };
        let (down, across) = if by_rows { (of_across, of_along) } else { (of_along, of_across) };
        Cut { rows: m, cols: n, down, across }
    }

    /// The same with parts of at most so many rows and columns.
    pub fn within(self, rows: usize, cols: usize) -> Cut {
        let (down, across) = (self.rows.div_ceil(rows.max(1)), self.cols.div_ceil(cols.max(1)));
        Cut { down: self.down.max(down), across: self.across.max(across), ..self }
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.down * self.across
    }

    /// Rows and columns of a part.
    pub fn part(&self, part: usize) -> (Range<usize>, Range<usize>) {
        let range = |i: usize, parts: usize, len: usize| i * len / parts..(i + 1) * len / parts;
        (range(part / self.across, self.down, self.rows), range(part % self.across, self.across, self.cols))
    }
}
