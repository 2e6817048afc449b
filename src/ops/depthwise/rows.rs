//! Some rows of eight planes, position by position.

use super::Block;
use crate::linalg::eight::{Aligned, Eight, LANES};

/// The last rows that were read, each between the zeros that stand for the padding at its ends.
pub(super) struct Rows {
    values: Vec<Aligned>,
    /// Rows and columns of a plane.
    size: [usize; 2],
    /// How many rows there is room for: row `r` has the place of row `r - kept`.
    kept: usize,
    /// Positions of a row, and those of them before its first column.
    width: usize,
    lead: usize,
    /// How many positions of the planes have been read.
    read: usize,
}

impl Rows {
    /// Room for `span` rows that are needed at a time.
    pub fn new(size: [usize; 2], span: usize, width: usize, lead: usize) -> Rows {
        let kept = kept(size, span);
        Rows { values: vec![Aligned::ZERO; kept * width], size, kept, width, lead, read: 0 }
    }

    /// The next block begins.
    pub fn restart(&mut self) {
        self.read = 0;
    }

    /// The rows that are kept, each with its padding; row `r` begins at [`Rows::line`].
    #[inline(always)]
    pub fn values(&self) -> &[Aligned] {
        &self.values
    }

    #[inline(always)]
    pub fn line(&self, row: usize) -> usize {
        row % self.kept * self.width
    }

    /// Reads up to column `column` of row `row` at least; both may lie behind the last.
    #[inline(always)]
    pub fn read_to<V: Eight>(&mut self, block: &Block<'_>, row: usize, column: usize) {
        let [rows, columns] = self.size;
        let until = (row * columns + (column + 1).min(columns)).min(rows * columns);
        while self.read < until {
            self.read_eight::<V>(block, rows * columns);
        }
    }

    #[inline(always)]
    fn read_eight<V: Eight>(&mut self, block: &Block<'_>, all: usize) {
        let (at, columns) = (self.read, self.size[1]);
        let (mut row, mut column) = (at / columns, at % columns);
        let n = (all - at).min(LANES);
        self.read += n;
        if n < LANES {
            for i in 0..n {
                let to = self.line(row) + self.lead + column;
                let to = &mut self.values[to];
                to.0.iter_mut().zip(&block.starts).for_each(|(to, start)| *to = block.values[start + at + i]);
                (row, column) = if column + 1 < columns { (row, column + 1) } else { (row + 1, 0) };
            }
            return;
        }
        let mut planes = [V::splat(0.0); LANES];
        for (plane, start) in planes.iter_mut().zip(&block.starts) {
            *plane = V::load(block.values[start + at..].first_chunk().unwrap());
        }
        let positions = V::transpose(planes);
        if column + LANES <= columns {
            let to = self.line(row) + self.lead + column;
            let to = &mut self.values[to..][..LANES];
            for (position, to) in positions.iter().zip(to) {
                position.store(&mut to.0);
            }
            return;
        }
        let mut to = self.line(row) + self.lead;
        for position in positions {
            position.store(&mut self.values[to + column].0);
            column += 1;
            if column == columns {
                (row, column) = (row + 1, 0);
                to = self.line(row) + self.lead;
            }
        }
    }
}

/// How many rows of a plane [`Rows`] keeps, of which `span` are needed at a time: reading ends up to seven positions
/// behind what is asked for.
pub(super) fn kept([rows, columns]: [usize; 2], span: usize) -> usize {
    (span + 2 + LANES / columns.max(1)).min(rows.max(1))
}
